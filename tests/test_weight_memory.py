"""Weights that are moved together, or to the host: the networks must not notice. On the CPU, which stands for both."""

import copy

import pytest
import torch
from torch import nn

from personalive.accel.fuse.unet import FusedReferenceUNet
from personalive.accel.offload import ALIGNMENT, HostMemory, pack, packed_size, place
from personalive.accel.ops.reference import Operations
from personalive.models import build_network
from personalive.testing import weight_rule
from personalive.testing.weight_rule import normal_input
from tests.published_layout import SMALL

CPU = torch.device("cpu")


def filled(name):
    network = build_network(name, SMALL)
    weight_rule.fill(network, name)
    return network.to(memory_format=torch.channels_last)


def fused():
    return FusedReferenceUNet(filled("reference_unet"), Operations())


def look(network):
    embedding = normal_input("image_embeds", (1, 1, SMALL.unet.cross_attention_dim))
    return network(normal_input("ref_latents", (1, 4, 16, 16)), embedding)


def assert_same(actual, expected):
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_tensors_of_all_kinds_lie_one_after_another():
    image = torch.rand(2, 3, 5, 5).to(memory_format=torch.channels_last)
    tensors = [torch.tensor(7), torch.rand(3).half(), image, torch.rand(4, 6).t(), torch.rand(1, 4).expand(3, 4)]
    views = place(tensors, torch.empty(packed_size(tensors), dtype=torch.uint8))
    for tensor, view in zip(tensors, views, strict=True):
        view.copy_(tensor)
    for tensor, view in zip(tensors, views, strict=True):
        assert torch.equal(tensor, view) and tensor.dtype == view.dtype and view.data_ptr() % 8 == 0
    assert views[2].is_contiguous(memory_format=torch.channels_last)
    assert packed_size(tensors) % ALIGNMENT == 0


@torch.inference_mode()
def test_a_packed_network_is_the_same_in_one_block(monkeypatch):
    network = fused()
    expected = look(network)
    pack([network, network], CPU)
    blocks = {tensor.untyped_storage().data_ptr() for tensor in network.parameters()}
    assert len(blocks) == 1
    assert_same(look(network), expected)
    monkeypatch.setattr("personalive.accel.offload.BLOCK", 2**16)
    pack([network], CPU)
    assert len({tensor.untyped_storage().data_ptr() for tensor in network.parameters()}) > 10
    assert_same(look(network), expected)


def test_weights_elsewhere_stay_where_they_are():
    network = nn.Linear(3, 3)
    before = network.weight.data_ptr()
    pack([network], torch.device("meta"))
    assert network.weight.data_ptr() == before


@torch.inference_mode()
def test_a_network_whose_parts_come_in_turns_gives_the_same():
    network = fused()
    expected = look(copy.deepcopy(network))
    parts, units = network.parts, [unit for stage in network.stages for unit in stage.units]
    of_parts = {id(tensor) for part in parts for tensor in part.parameters()}
    assert len(of_parts) > 0.9 * len([*network.parameters()])
    before = [tensor.clone() for tensor in network.parameters()]
    HostMemory(network, parts, CPU)
    home = [unit.resnet.first.weight.data_ptr() for unit in units]
    here = []
    for unit in units:
        unit.register_forward_pre_hook(lambda unit, *_: here.append(unit.resnet.first.weight.data_ptr()))
    for _ in range(2):
        assert_same(look(network), expected)
    assert len(here) == 2 * len(home) and set(here).isdisjoint(home), "they were elsewhere while they were used"
    assert [unit.resnet.first.weight.data_ptr() for unit in units] == home
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), before, strict=True))


def test_weights_go_back_when_the_network_fails():
    layer = nn.Linear(3, 3)
    HostMemory(layer, [layer], CPU)
    home = layer.weight.data_ptr()
    with pytest.raises(RuntimeError, match="shape"):
        layer(torch.rand(2, 5))
    assert layer.weight.data_ptr() == home
    assert layer(torch.rand(2, 3)).shape == (2, 3)
