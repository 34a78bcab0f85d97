"""Loading and comparing, for the tests beside this file."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from personalive import weights
from personalive.errors import WeightsError
from personalive.models import NETWORKS, build_network
from personalive.weights import LoadReport, WeightsSource
from tests.published_layout import State

CPU = torch.device("cpu")
CLIENT_BLOCK = 10 << 20
"""Bytes that the hub client writes at once: a block that is cut off is lost."""


def load(source: WeightsSource, network: str, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, LoadReport]:
    """Build one network without storage and give it its weights."""
    with torch.device("meta"):
        module = build_network(network, source.config)
    report = weights.load_into(source, network, module, dtype=dtype, device=CPU)
    assert not any(tensor.is_meta for tensor in (*module.parameters(), *module.buffers()))
    return module, report


def assert_holds(source: WeightsSource, states: dict[str, State], *networks: str) -> None:
    """These networks of the source, or all, load and have exactly these values."""
    for network in networks or NETWORKS:
        module, _ = load(source, network)
        loaded = module.state_dict()
        assert set(loaded) == set(states[network])
        for key, value in states[network].items():
            assert torch.equal(loaded[key], value), f"{network}: {key}"


def edit(path: Path, change: Callable[[State], Any]) -> None:
    """Rewrite a pickled state dict; `change` may alter it in place."""
    state = torch.load(path, weights_only=True)
    state = change(state) or state
    path.unlink()
    torch.save(state, path)


def refused(*parts: str) -> pytest.RaisesExc[WeightsError]:
    """The weights error whose message has these parts in this order."""
    return pytest.raises(WeightsError, match="(?s)" + ".*".join(re.escape(part) for part in parts))


def start(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own, with these variables in its environment."""
    return subprocess.run(
        [sys.executable, *command], env=os.environ | environment, capture_output=True, text=True, check=False
    )
