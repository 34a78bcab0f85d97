"""Convolutions and feed-forwards in fp8: as on a GPU, but products are of the rounded numbers in float32."""

import copy
import functools

import pytest
import torch

from personalive.accel.accelerator import Accelerator
from personalive.accel.fuse.float8 import (
    Float8FFNProjOut,
    Float8Linear,
    Float8NormConv,
    Float8Weight,
    ScaledNorm,
    decoder_to_float8,
    to_float8,
)
from personalive.accel.fuse.images import FusedNormConv
from personalive.accel.fuse.transformers import FusedFFNProjOut, FusedLayerNorm, FusedLinear
from personalive.accel.fuse.unet import FusedDenoisingUNet, FusedReferenceUNet
from personalive.accel.fuse.vae import FusedDecoder
from personalive.accel.ops.reference import FLOAT8, Operations
from personalive.errors import InputError
from personalive.models.blocks import FeedForward
from personalive.pipeline import PersonaLive
from personalive.testing.weight_rule import normal_input
from tests.published_layout import SMALL
from tests.test_fused import filled


def parts(channels, seed=0):
    torch.manual_seed(seed)
    feed_forward, proj_out, norm = (
        FeedForward(channels),
        torch.nn.Linear(channels, channels),
        FusedLayerNorm(torch.nn.LayerNorm(channels), Operations()),
    )
    torch.nn.init.normal_(norm.weight, 1, 0.3)
    torch.nn.init.normal_(norm.bias, 0, 0.3)
    return feed_forward, proj_out, norm


@torch.inference_mode()
@pytest.mark.parametrize("outlier", [1.0, 300.0], ids=["even", "one pixel is large"])
def test_the_end_of_a_transformer_keeps_its_values(outlier):
    channels, operations = 64, Operations()
    feed_forward, proj_out, norm = parts(channels)
    image = torch.randn(2, channels, 8, 8).to(memory_format=torch.channels_last)
    tokens, branch = torch.randn(2, 2, 64, channels).unbind(0)
    tokens[0, 5] *= outlier
    end = FusedFFNProjOut(feed_forward, proj_out, operations)
    total, normed = norm.after_sum(tokens, branch)
    exact = end(image, total.clone(), normed) - image
    scaled = ScaledNorm(norm)
    total, normed = scaled.after_sum(tokens, branch)
    assert normed.dtype == FLOAT8
    actual = Float8FFNProjOut(end, scaled)(image, total, normed) - image
    error = (actual - exact).flatten(2).norm(dim=1) / exact.flatten(2).norm(dim=1)
    assert 0.001 < error.mean() < 0.05 and error.max() < 0.15


@torch.inference_mode()
def test_a_channel_without_weights_is_nothing():
    channels, operations = 64, Operations()
    feed_forward, proj_out, norm = parts(channels)
    feed_forward.net[0].proj.weight[3] = feed_forward.net[0].proj.bias[3] = 0
    end = Float8FFNProjOut(FusedFFNProjOut(feed_forward, proj_out, operations), ScaledNorm(norm))
    image, tokens = torch.randn(1, channels, 4, 4).to(memory_format=torch.channels_last), torch.randn(1, 16, channels)
    assert end(image, tokens, torch.zeros(1, 16, channels).to(FLOAT8)).isfinite().all()


def test_no_input_is_too_large_for_the_norms_scale():
    """A row of biases for each frame too."""
    _, _, norm = parts(64)
    worst = torch.eye(64) * 1e4  # a single large channel is the most that a norm lets through
    for scaled in (ScaledNorm(norm), ScaledNorm(FusedLayerNorm(norm, Operations(), torch.randn(16, 64)))):
        for tokens in (worst, -worst):
            values = scaled(tokens.expand(16, -1, -1)).float()
            assert values.isfinite().all() and values.abs().max() <= 448


@torch.inference_mode()
def test_a_linear_layer_after_a_norm_keeps_its_values():
    """And takes other tokens, for which no scale is known."""
    _, _, norm = parts(64)
    scaled, linear, tokens = (
        ScaledNorm(norm),
        FusedLinear(torch.randn(96, 64), Operations(), torch.float32),
        torch.randn(2, 50, 64),
    )
    actual, exact = Float8Linear(linear, scaled), linear(norm(tokens))
    assert 0.001 < (actual(scaled(tokens)) - exact).norm() / exact.norm() < 0.06
    assert ((actual.weight - linear.weight).abs() <= linear.weight.abs() / 16 + 1e-3).all()


def test_weights_take_half_the_memory_of_fp16():
    """And are within half a step of fp8's four bits."""
    weight = torch.randn(96, 64)
    stored = Float8Weight(weight)
    assert sum(t.numel() * t.element_size() for t in stored.buffers()) == 96 * 64 + 4 * 96
    assert ((stored.values.float() * stored.scale[:, None] - weight).abs() <= weight.abs() / 16 + 1e-4).all()


@torch.inference_mode()
@pytest.mark.parametrize("outlier", [1.0, 1e4], ids=["even", "one pixel is large"])
def test_a_convolution_keeps_its_values(outlier):
    """With and without the sum, and in whatever image a value is far above the others."""
    torch.manual_seed(0)
    norm, conv = torch.nn.GroupNorm(8, 64), torch.nn.Conv2d(64, 32, 3, padding=1)
    torch.nn.init.normal_(norm.weight, 1, 0.3)
    exact = FusedNormConv(norm, conv, Operations())
    image, other, shift, bias = (
        torch.randn(2, 64, 12, 10),
        torch.randn(2, 32, 12, 10),
        torch.randn(1, 64),
        torch.randn(32),
    )
    image[0, 3, 5, 5] *= outlier
    layer = Float8NormConv(exact)
    error = (layer(image) - exact(image)).norm() / exact(image).norm()
    assert 0.001 < error < 0.06
    (actual, _), (expected, _) = (each.add_to(lambda: other, bias, image, shift) for each in (layer, exact))
    summed = actual - expected
    assert summed.norm() / exact(image, shift).norm() < 0.06
    assert layer(image).isfinite().all()


@torch.inference_mode()
def test_the_decoder_keeps_its_first_levels():
    """They decide more of the picture, and are less of the work."""
    decoder = FusedDecoder(filled("vae"), Operations())
    latents = normal_input("latents", (1, 4, 8, 8))
    exact = decoder(latents)
    decoder_to_float8(decoder)
    converted = [isinstance(layer.first, Float8NormConv) for layer in decoder.layers if hasattr(layer, "first")]
    assert converted == sorted(converted) and 0 < sum(converted) < len(converted)
    assert 0.001 < (decoder(latents) - exact).norm() / exact.norm() < 0.1


@torch.inference_mode()
def test_a_whole_unet():
    config = SMALL.unet
    denoising = FusedDenoisingUNet(filled("denoising_unet"), Operations(), 16)
    reference = FusedReferenceUNet(filled("reference_unet"), Operations())
    embedding = normal_input("image_embeds", (1, 1, config.cross_attention_dim))
    latents, pose = (
        normal_input("latents", (16, 4, 16, 16)),
        normal_input("pose", (16, config.block_channels[0], 16, 16)),
    )
    motion = normal_input("motion", (16, 4, config.motion_token_width), 2.0)

    def run(unet):
        features = unet.project_reference(reference(normal_input("ref_latents", (1, 4, 16, 16)), embedding), embedding)
        time = unet.embed_time(torch.tensor([0, 333, 666, 999]).repeat_interleave(4))
        return unet(latents, time, motion, pose, features)

    exact = run(denoising)
    merged = copy.deepcopy(denoising)
    before = sum(t.numel() for t in (*merged.parameters(), *merged.buffers()) if t.dtype != FLOAT8)
    to_float8(merged)
    after = sum(t.numel() for t in (*merged.parameters(), *merged.buffers()) if t.dtype != FLOAT8)
    assert after < 0.8 * before
    error = (run(merged) - exact).norm() / exact.norm()
    assert 0.001 < error < 0.1


def test_it_is_refused_before_anything_is_loaded():
    """Here by a processor; the model is not even looked for."""
    with pytest.raises(
        InputError, match=r"quantize fp8 needs an NVIDIA GPU of compute capability 8\.9 or more, not cpu"
    ):
        PersonaLive.from_pretrained("/nowhere", device="cpu", quantize="fp8")
    with pytest.raises(InputError, match=r"quantize is 'int4': choose one of none, fp8"):
        PersonaLive.from_pretrained("/nowhere", device="cpu", quantize="int4")


def test_gpus_that_can_not_multiply_fp8_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "GeForce RTX 3090")
    make = functools.partial(Accelerator, torch.device("cuda"), quantize="fp8")
    with pytest.raises(InputError, match=r"GeForce RTX 3090 has 8\.6: leave it out"):
        make(torch.float16)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
    with pytest.raises(InputError, match=r"needs fp16 or bf16, not torch\.float32"):
        make(torch.float32)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_products_arguments_are_what_pytorch_takes(dtype):
    """On the meta device, as no GPU is needed to check shapes and types."""
    x, weight = (torch.empty(shape, dtype=FLOAT8, device="meta") for shape in ((32, 64), (48, 64)))
    scale, bias = torch.empty((), device="meta"), torch.empty(48, dtype=dtype, device="meta")
    out = torch._scaled_mm(x, weight.t(), scale, scale, bias=bias, out_dtype=dtype, use_fast_accum=True)
    assert out.shape == (32, 48) and out.dtype == dtype
