"""Merged layers and accelerated models against the plain ones, in float32 on the CPU."""

import copy
import threading

import numpy as np
import pytest
import torch

from personalive.accel.accelerator import Accelerator
from personalive.accel.findings import Findings
from personalive.accel.fuse import images as fused_images
from personalive.accel.fuse import transformers
from personalive.accel.fuse.encoders import fuse_encoder
from personalive.accel.fuse.unet import (
    FusedDenoisingUNet,
    FusedReferenceUNet,
    ProjectedReference,
    decoder_path,
    fold_decoder_path,
)
from personalive.accel.fuse.vae import FusedDecoder
from personalive.accel.ops import reference as operations
from personalive.accel.ops.reference import Operations
from personalive.errors import InputError, WeightsError
from personalive.models import NETWORKS, build_network
from personalive.models.denoising_unet import ReferenceFeatures
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


TIMESTEPS = torch.tensor([0, 333, 666, 999]).repeat_interleave(4)
SIZES = pytest.mark.parametrize(("height", "width"), [(16, 16), (12, 16)], ids=["doubling", "odd sizes"])


def window(height, width):
    """What a denoising UNet takes for 16 frames, but for the reference."""
    config = SMALL.unet
    return (
        normal_input("latents", (16, 4, height, width)),
        normal_input("motion", (16, 4, config.motion_token_width), 2.0),
        normal_input("pose", (16, config.block_channels[0], height, width)),
    )


def portraits(height, width):
    embedding = normal_input("image_embeds", (1, 1, SMALL.unet.cross_attention_dim))
    return embedding, [normal_input(name, (1, 4, height, width)) for name in ("ref_latents", "keyframe1_latents")]


def plain_prediction(height, width, keyframes):
    reference, unet = filled("reference_unet"), filled("denoising_unet")
    embedding, pictures = portraits(height, width)
    latents, motion, pose = window(height, width)
    banks = tuple(reference(picture, embedding) for picture in pictures[: 1 + keyframes])
    return unet(latents, TIMESTEPS, motion, pose, ReferenceFeatures(embedding, banks))


def fused_unets(operations=None):
    operations = operations or Operations()
    reference = FusedReferenceUNet(filled("reference_unet"), operations)
    return reference, FusedDenoisingUNet(filled("denoising_unet"), operations, 16)


def fused_prediction(reference, unet, height, width, keyframes):
    embedding, pictures = portraits(height, width)
    latents, motion, pose = window(height, width)
    features, *more = (unet.project_reference(reference(picture, embedding), embedding) for picture in pictures)
    for keyframe in more[:keyframes]:
        features = features.with_keyframe(keyframe)
    return unet(latents, unet.embed_time(TIMESTEPS), motion, pose, features)


@torch.inference_mode()
@SIZES
@pytest.mark.parametrize("keyframes", [0, 1])
def test_merged_unets(height, width, keyframes):
    expected = plain_prediction(height, width, keyframes)
    assert_near(fused_prediction(*fused_unets(), height, width, keyframes), expected)


@torch.inference_mode()
@SIZES
def test_biases_that_the_next_block_absorbs(height, width):
    """In UNets, whose blocks have shortcuts, and in a decoder, where one has none."""
    unets = fused_unets()
    upsamplers = [x for unet in unets for x in decoder_path(unet) if isinstance(x, fused_images.FusedUpsample)]
    assert upsamplers and all(layer.conv.bias.abs().max() > 0.01 for layer in upsamplers)
    for unet in unets:
        fold_decoder_path(unet)
    assert all(layer.conv.bias is None for layer in upsamplers)
    assert_near(fused_prediction(*unets, height, width, 1), plain_prediction(height, width, 1))

    vae, latents = filled("vae"), normal_input("latents", (2, 4, height, width))
    image, decoder = vae.decode(latents), FusedDecoder(vae, Operations())
    fused_images.fold_upsample_biases([*decoder.layers])
    assert any(getattr(layer, "conv", None) is not None and layer.conv.bias is None for layer in decoder.layers)
    assert_near(decoder(latents), image)


def test_features_survive_being_taken_apart():
    tensors = [torch.full((1, 1, 1), float(i)) for i in range(3 + 6 + 6)]
    features = ProjectedReference.of(tensors, 3)
    assert [len(bank) for bank in features.banks] == [6, 6] and len(features.context) == 3
    assert all(a is b for a, b in zip(features.tensors, tensors, strict=True))
    context, keys, values = features.at(1)
    assert context is tensors[1]
    assert keys.flatten().tolist() == [4, 10] and values.flatten().tolist() == [7, 13]  # portrait, then keyframe


@torch.inference_mode()
def test_merged_decoder():
    vae, latents = filled("vae"), normal_input("vae_latents", (2, 4, 12, 16), 20)
    assert_near(FusedDecoder(copy.deepcopy(vae), Operations())(latents), vae.decode(latents))


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


def animate(accelerator):
    modules = {name: filled(name).eval() for name in NETWORKS}
    model = PersonaLive.from_modules(SMALL, modules, torch.float32, accelerator)
    images = np.random.default_rng(0).integers(0, 256, (13, 128, 128, 3), dtype=np.uint8)
    stream = model.stream(width=128, height=128, emit_lead_in=True)
    stream.set_reference(stream.preprocessor.reference(images[0], None))
    return stream.push(stream.preprocessor.driving(list(images[1:]), None))


def test_an_accelerated_model_gives_the_same_pictures():
    plain, accelerated = animate(None).astype(int), animate(Accelerator(CPU, torch.float32)).astype(int)
    assert plain.shape == (12, 128, 128, 3) and plain.std() > 10
    assert abs(plain - accelerated).max() <= 1


def test_a_model_keeps_no_plain_layer_that_has_been_merged():
    """Their weights would take memory for nothing."""
    modules = {name: filled(name).eval() for name in NETWORKS}
    plain = {name: dict(module.named_parameters()) for name, module in modules.items()}
    networks = Accelerator(CPU, torch.float32).accelerate(SMALL, modules)
    assert not modules
    kept = {id(parameter) for module in networks.modules.values() for parameter in module.parameters()}
    for network, merged in (("denoising_unet", "temporal_modules.0"), ("vae", "decoder.mid_block")):
        gone = [name for name, parameter in plain[network].items() if id(parameter) not in kept]
        assert any(merged in name and "to_q" in name for name in gone)
        assert not any("conv1" in name for name in gone)


def test_unknown_names_are_refused():
    with pytest.raises(InputError, match=r"accelerate is 'fast': choose one of none, graphs"):
        Accelerator(CPU, torch.float32, "fast")
    with pytest.raises(InputError, match=r"attention is 'quick'"):
        Accelerator(CPU, torch.float32, attention="quick")


def test_no_kernels_are_tried_for_weights_that_are_missing(monkeypatch, tmp_path):
    """The process would not end before they are, long after the error."""
    tried = []
    monkeypatch.setattr("personalive.accel.accelerator.findings_for", lambda device, folder: Findings(None))
    monkeypatch.setattr("personalive.accel.accelerator.libraries.load", lambda *which: tried.append("libraries"))
    monkeypatch.setattr(Accelerator, "_choose", lambda *which: tried.append("kernels"))
    with pytest.raises(WeightsError, match="there is no folder"):
        PersonaLive.from_pretrained(tmp_path / "missing", device="cuda", accelerate="none")
    with pytest.raises(InputError, match="accumulate"):  # what cannot work is still refused before 8 GB are fetched
        PersonaLive.from_pretrained(tmp_path / "missing", device="cuda", dtype=torch.bfloat16, accumulate="fp16")
    for thread in threading.enumerate():
        if thread.name.startswith("kernels"):
            thread.join()
    assert not tried


@torch.inference_mode()
def test_large_layers_give_the_same_in_parts(monkeypatch):
    """What a GPU's memory is spared by: feed-forwards by rows and attention by frames."""
    expected = plain_prediction(16, 16, 1)
    counts = []
    reference, unet = fused_unets(
        Operations(gated_linear=lambda x, *w: counts.append(len(x)) or operations.gated_linear(x, *w))
    )
    channels = SMALL.unet.block_channels[0]
    monkeypatch.setattr(transformers, "ROWS_AT_ONCE", 100)
    monkeypatch.setattr(transformers, "KEYS_AT_ONCE", 5 * 16 * 16 * channels * 2)
    assert_near(fused_prediction(reference, unet, 16, 16, 1), expected)
    assert max(counts) == 100 and transformers._frames_at_once(16, 16 * 16 * 2, channels) == 4
