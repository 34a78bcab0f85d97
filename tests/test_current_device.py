"""A model on another GPU than the first makes it the current one while it runs: Triton launches on that."""

import inspect
from contextlib import nullcontext

import pytest
import torch

from personalive.accel.accelerator import AcceleratedNetworks
from personalive.engine.networks import Networks

NAMES = [name for name, _ in inspect.getmembers(Networks, inspect.isfunction) if not name.startswith("_")]


@pytest.mark.parametrize("name", NAMES)
def test_every_function_of_a_model_runs_with_its_gpu_as_the_current_one(monkeypatch, name):
    made_current = []
    monkeypatch.setattr(torch.cuda, "device", lambda device: made_current.append(device) or nullcontext())
    networks = object.__new__(AcceleratedNetworks)
    networks.device = torch.device("cuda:1")
    with pytest.raises((TypeError, AttributeError)):  # it has nothing to run with
        getattr(networks, name)()
    assert made_current == [networks.device]
