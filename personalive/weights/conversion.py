"""Writes a copy of a model in this package's own format, so that later starts read less."""

import math
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from personalive.config import ModelConfig
from personalive.models import NETWORKS, build_network
from personalive.weights.folder import AddNetwork, Entry, write_folder
from personalive.weights.hub import Hub
from personalive.weights.load import require_finite, target_dtypes
from personalive.weights.resolution import conversion_folder, resolve
from personalive.weights.source import PUBLISHED, WeightsSource
from personalive.weights.state_dict import MergedStateDict, merge_state_dict

_FILE_SIZE = 500_000_000
"""Bytes of one file; twice that is held in memory while it is written."""


def convert(
    source: str | Path = PUBLISHED,
    folder: Path | str | None = None,
    dtype: torch.dtype = torch.float16,
    *,
    hub: Hub | None = None,
    config: ModelConfig | None = None,
) -> Path:
    """Store a model's weights as safetensors in one dtype. The original files stay.

    Args:
        folder: where to; None: where `resolve("personalive", dtype=dtype)` finds and prefers them.

    Returns:
        The folder.

    Raises:
        WeightsError: as `resolve` and `load_into`; also where a value is too large for the dtype.
        OutputError: the folder cannot be written to, or holds something else.
    """
    hub = hub or Hub()
    found = resolve(source, config=config, hub=hub)
    target = conversion_folder(hub, dtype) if folder is None else Path(folder)
    with write_folder(target, found.config, _FILE_SIZE, found.origin) as add:
        for network in NETWORKS:
            _convert_network(found, network, dtype, add)
    return target


def _convert_network(source: WeightsSource, network: str, dtype: torch.dtype, add: AddNetwork) -> None:
    with torch.device("meta"):
        module = build_network(network, source.config)
    initial, targets = module.state_dict(), target_dtypes(module, dtype)
    with merge_state_dict(source, network, module) as merged:
        entries = {}
        for key in merged.keys:
            size = math.prod(initial[key].shape) * targets[key].itemsize
            entries[key] = Entry(size, partial(_read_finite, merged, key, initial[key], targets[key]))
        add(network, entries)


def _read_finite(merged: MergedStateDict, key: str, initial: Tensor, dtype: torch.dtype) -> Tensor:
    tensor = merged.read(key, initial, dtype, torch.device("cpu"))
    require_finite(merged.network, {key: tensor})
    return tensor
