"""The CPU's operations and layers against the plain ones."""

import copy

import pytest
import torch

from personalive.accel.fuse.linears import LinearBy
from personalive.accel.fuse.onednn import FastFFNProjOut, replace_layers
from personalive.accel.fuse.transformers import FusedFFNProjOut
from personalive.accel.fuse.unet import FusedDenoisingUNet
from personalive.accel.ops import onednn
from personalive.accel.ops.reference import Operations
from personalive.models.blocks import FeedForward, PointwiseConv
from personalive.pipeline import PersonaLive
from personalive.testing.weight_rule import normal_input
from tests.test_fused import assert_near, filled

pytestmark = pytest.mark.skipif(
    not onednn.works(torch.device("cpu"), torch.float32), reason="this PyTorch was built without oneDNN"
)

IMAGE = normal_input("image", (4, 32, 6, 6)).to(memory_format=torch.channels_last)
GRN_MLP = ((2, 9, 32), (48, 32), (48,), (48,), (32, 48), (32,), (2, 9, 32))
ROW, OTHER = normal_input("row", (32,)), normal_input("other", (32,))


@torch.inference_mode()
@pytest.mark.parametrize(
    ("name", "arguments", "options"),
    [
        ("linear", (normal_input("x", (2, 5, 32)), normal_input("w", (48, 32)), normal_input("b", (48,))), {}),
        ("linear", (normal_input("x", (2, 5, 32)), normal_input("w", (48, 32))), {}),
        ("group_norm", (IMAGE, 8, ROW, OTHER, 1e-5), {"silu": True, "shift": normal_input("shift", (4, 32))}),
        ("group_norm", (IMAGE, 8, ROW, OTHER, 1e-5), {}),
        ("geglu", (normal_input("x", (2, 5, 64)),), {}),
        ("grn_mlp", tuple(normal_input(f"r{i}", shape) for i, shape in enumerate(GRN_MLP)), {}),
        ("frame_attention", (normal_input("x", (16, 6, 96)), 2, 8), {}),
    ],
)
def test_operations(name, arguments, options):
    given = copy.deepcopy(arguments)
    expected = getattr(Operations(), name)(*arguments, **options)
    assert_near(getattr(onednn.OPERATIONS, name)(*arguments, **options), expected)
    for before, after in zip(given, arguments, strict=True):
        assert before is after or torch.equal(torch.as_tensor(before), torch.as_tensor(after))  # nothing overwritten


@torch.inference_mode()
@pytest.mark.parametrize("kind", [torch.nn.Linear, PointwiseConv])
def test_the_end_of_a_transformer(kind, monkeypatch):
    """In parts, the last of which is shorter."""
    monkeypatch.setattr(onednn, "ROWS", 40)
    torch.manual_seed(0)
    end = FusedFFNProjOut(FeedForward(32), kind(32, 32), Operations())
    tokens, normed = normal_input("tokens", (4, 36, 32)), normal_input("normed", (4, 36, 32))
    expected = end(IMAGE, tokens.clone(), normed)
    assert_near(FastFFNProjOut(end)(IMAGE, tokens.clone(), normed), expected)


def test_every_layer_of_tokens_is_replaced():
    network = FusedDenoisingUNet(filled("denoising_unet"), onednn.OPERATIONS, 16)
    replace_layers(network)
    kinds = {type(module) for module in network.modules()}
    assert {FastFFNProjOut, LinearBy} <= kinds
    assert not kinds & {FusedFFNProjOut, PointwiseConv}


def test_other_places_and_types_keep_the_plain_operations():
    assert not onednn.works(torch.device("cuda"), torch.float32)
    assert not onednn.works(torch.device("cpu"), torch.float16)


def test_a_pytorch_without_onednn_keeps_the_plain_operations(monkeypatch):
    def missing(*_):
        raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute '_linear_pointwise'")

    monkeypatch.setattr(onednn, "_product", missing)
    assert not onednn.works(torch.device("cpu"), torch.float32)


def test_decoding_in_bf16_is_near_and_only_where_nothing_else_was_asked_for(monkeypatch):
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("oneDNN computes in bf16 on processors with AVX-512 alone")
    monkeypatch.setattr(onednn, "multiplies_bf16", lambda: True)  # though not all of these are faster with it
    latents = normal_input("vae_latents", (2, 16, 8, 8), 2)
    fp32 = PersonaLive.from_pretrained("demo", device="cpu", dtype=torch.float32).networks.decode(latents)
    plain = PersonaLive.from_pretrained("demo", device="cpu", accelerate="none").networks.decode(latents)
    rounded = PersonaLive.from_pretrained("demo", device="cpu").networks.decode(latents)
    assert torch.equal(fp32, plain)
    assert 0 < (rounded - fp32).abs().mean() < 1 / 255
