"""Merged layers and accelerated models against the plain ones, in float32 on the CPU."""

import copy

import numpy as np
import pytest
import torch

from personalive.accel.accelerator import Acceleration, Compiled
from personalive.accel.fuse import images as fused_images
from personalive.accel.fuse import unet as fused
from personalive.accel.fuse.encoders import fuse_encoder
from personalive.accel.fuse.unet import fuse
from personalive.accel.fuse.vae import FusedDecoder
from personalive.accel.ops import reference as operations
from personalive.accel.ops.reference import Operations
from personalive.errors import InputError
from personalive.models import NETWORKS, build_network
from personalive.pipeline import PersonaLive
from personalive.testing import weight_rule
from personalive.testing.weight_rule import normal_input
from tests.published_layout import SMALL

CPU = torch.device("cpu")


def filled(name):
    network = build_network(name, SMALL)
    weight_rule.fill(network, name)
    return network.to(memory_format=torch.channels_last)


def assert_near(actual, expected):
    assert (actual - expected).norm() < 3e-5 * expected.norm()


@torch.inference_mode()
@pytest.mark.parametrize(("height", "width"), [(16, 16), (12, 16)], ids=["doubling", "odd sizes"])
def test_merged_unets(height, width):
    config = SMALL.unet
    embedding = normal_input("image_embeds", (1, 1, config.cross_attention_dim))

    def run(denoising, reference):
        features, keyframe = (
            denoising.project_reference(reference(normal_input(name, (1, 4, height, width)), embedding), embedding)
            for name in ("ref_latents", "keyframe1_latents")
        )
        time = denoising.embed_time(torch.tensor([0, 333, 666, 999]).repeat_interleave(4))
        # Two windows of 16 frames, the second with a keyframe.
        latents = normal_input("latents", (32, 4, height, width))
        motion = normal_input("motion", (32, 4, config.motion_token_width), 2.0)
        pose = normal_input("pose", (32, config.block_channels[0], height, width))
        return denoising(latents, time, motion, pose, [features, features.with_keyframe(keyframe)])

    networks = [filled("denoising_unet"), filled("reference_unet")]
    expected = run(*networks)
    merged = copy.deepcopy(networks)
    for network in merged:
        fuse(network, Operations(), 16)
    assert_near(run(*merged), expected)


@torch.inference_mode()
@pytest.mark.parametrize(("height", "width"), [(16, 16), (12, 16)], ids=["doubling", "odd sizes"])
def test_biases_that_the_next_block_takes_over(height, width):
    """In a UNet, whose blocks have shortcuts, and in a decoder, where one has none."""
    unet, vae = filled("reference_unet"), filled("vae")
    latents, embedding = normal_input("latents", (2, 4, height, width)), normal_input("image_embeds", (2, 1, 32))
    expected, image = unet(latents, embedding), vae.decode(latents).sample
    fuse(unet, Operations(), 16)
    decoder = FusedDecoder(vae, Operations())
    for layers in (fused_images.way_up(unet), [*decoder.layers]):
        upsamplers = [layer for layer in layers if isinstance(layer, fused_images.FusedUpsample)]
        assert upsamplers and all(layer.conv.bias.abs().max() > 0.01 for layer in upsamplers)
        fused_images.hand_on_biases(layers)
        assert all(layer.conv.bias is None for layer in upsamplers)
    for actual, wanted in zip(unet(latents, embedding), expected, strict=True):
        assert_near(actual, wanted)
    assert_near(decoder(latents), image)


@torch.inference_mode()
def test_merged_decoder():
    vae, latents = filled("vae"), normal_input("vae_latents", (2, 4, 12, 16), 20)
    assert_near(FusedDecoder(copy.deepcopy(vae), Operations())(latents), vae.decode(latents).sample)


@torch.inference_mode()
@pytest.mark.parametrize("name", ["motion_encoder", "motion_extractor"])
def test_merged_encoders(name):
    network = filled(name)
    size = getattr(SMALL, name).image_size
    images = normal_input("faces", (2, 3, size, size))
    merged = copy.deepcopy(network)
    fuse_encoder(merged, Operations())
    outputs = (m(images) for m in (merged, network))
    for actual, expected in zip(*(o if isinstance(o, tuple) else (o,) for o in outputs), strict=True):
        assert_near(actual, expected)


def animate(acceleration):
    networks = {name: filled(name).eval() for name in NETWORKS}
    model = PersonaLive(SMALL, networks, torch.float32, acceleration)
    images = np.random.default_rng(0).integers(0, 256, (13, 128, 128, 3), dtype=np.uint8)
    stream = model.stream(width=128, height=128, emit_ramp=True)
    stream.set_reference(stream.preprocessor.reference(images[0], None))
    return stream.push(stream.preprocessor.driving(list(images[1:]), None))


def test_an_accelerated_model_gives_the_same_pictures():
    plain, accelerated = animate(None).astype(int), animate(Acceleration(CPU, torch.float32)).astype(int)
    assert plain.shape == (12, 128, 128, 3) and plain.std() > 10
    assert abs(plain - accelerated).max() <= 1


def test_unknown_names_are_refused():
    with pytest.raises(InputError, match=r"accelerate is 'fast': choose one of none, graphs, compile, max"):
        Acceleration(CPU, torch.float32, "fast")
    with pytest.raises(InputError, match=r"attention is 'quick'"):
        Acceleration(CPU, torch.float32, attention="quick")


@torch.inference_mode()
def test_compiled_blocks_take_the_place_of_their_functions(monkeypatch):
    """With a compiler that changes nothing, as no GPU is needed for what goes round it."""
    compiled = []

    def stand_in(function, **_):
        compiled.append(function)
        return function

    monkeypatch.setattr(torch, "compile", stand_in)
    choice = Acceleration(CPU, torch.float32, "compile")
    choice.compiles = True
    plain, accelerated = animate(None).astype(int), animate(choice).astype(int)
    assert len(compiled) > 20
    assert abs(plain - accelerated).max() <= 1


@torch.inference_mode()
def test_a_block_that_does_not_compile_runs_as_it_is(caplog):
    calls = []

    def refuse(value):
        raise RuntimeError("no compiler here\nand a long story")

    function = Compiled("Block", lambda value: calls.append(value) or value + 1, "default")
    function._run = refuse
    assert [function(1), function(2)] == [2, 3] and calls == [1, 2]
    assert caplog.messages == ["Block is not compiled: no compiler here"]


@torch.inference_mode()
def test_large_layers_give_the_same_in_parts(monkeypatch):
    """What a GPU's memory is spared by: feed-forwards by rows and attention by frames."""
    config, frames = SMALL.unet, 16
    unet, reference = filled("denoising_unet"), filled("reference_unet")
    embedding = normal_input("image_embeds", (1, 1, config.cross_attention_dim))
    banks = reference(normal_input("ref_latents", (1, 4, 16, 16)), embedding)

    def run():
        known = unet.project_reference(banks, embedding)
        time = unet.embed_time(torch.tensor([0, 333, 666, 999]).repeat_interleave(4))
        motion = normal_input("motion", (2 * frames, 4, config.motion_token_width), 2.0)
        pose = normal_input("pose", (2 * frames, config.block_channels[0], 16, 16))
        latents = normal_input("latents", (2 * frames, 4, 16, 16))
        return unet(latents, time, motion, pose, [known, known.with_keyframe(known)])

    expected = run()
    counts = []
    fuse(unet, Operations(gated_linear=lambda x, *w: counts.append(len(x)) or operations.gated_linear(x, *w)), frames)
    monkeypatch.setattr(fused, "ROWS_AT_ONCE", 100)
    monkeypatch.setattr(fused, "KEYS_AT_ONCE", 5 * 16 * 16 * config.block_channels[0] * 2)
    assert_near(run(), expected)
    assert max(counts) == 100 and fused._frames_at_once(16, 16 * 16 * 2, config.block_channels[0]) == 4
