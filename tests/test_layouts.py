"""What a network says depends on the values that it is given, not on how they lie in memory."""

import pytest
import torch

from personalive.accel.accelerator import Accelerator
from personalive.accel.ops import onednn, reference
from personalive.config import (
    ImageEncoderConfig,
    ModelConfig,
    MotionEncoderConfig,
    MotionExtractorConfig,
    PoseGuiderConfig,
    UNetConfig,
    VAEConfig,
)
from personalive.engine.networks import PlainNetworks
from personalive.models import NETWORKS, blocks, build_network
from personalive.testing import weight_rule
from personalive.testing.weight_rule import normal_input

SMALL = ModelConfig(
    name="small",
    unet=UNetConfig(block_channels=(16, 32), heads=2, norm_groups=8, layers_per_block=1, cross_attention_dim=16),
    vae=VAEConfig(block_channels=(16,) * 4, layers_per_block=1, norm_groups=8),
    image_encoder=ImageEncoderConfig(
        hidden_size=16, intermediate_size=32, layers=1, heads=2, patch_size=32, projection_dim=16
    ),
    motion_encoder=MotionEncoderConfig(image_size=112, channels=64, attention_width=64, tokens=4, hourglass_depth=2),
    motion_extractor=MotionExtractorConfig(image_size=64, depths=(1, 1, 1, 1), channels=(8, 16, 32, 64)),
    pose_guider=PoseGuiderConfig(channels=(8,) * 4, output_channels=16),
)
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]
TIMESTEPS = (0,) * 4 + (333,) * 4 + (666,) * 4 + (999,) * 4
SIZE = 128
"""Of pictures, in pixels."""


def contiguous(x):
    return x.contiguous()


def channels_last(x):
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x.transpose(-1, -2).contiguous().mT


def sliced(x):
    larger = torch.full([2 * size for size in x.shape], torch.nan, device=x.device)
    view = larger[tuple(slice(None, None, 2) for _ in x.shape)]
    view.copy_(x)
    return view


def expanded(x):
    """The first of the batch in the place of all, with one copy of it in memory."""
    return x[:1].expand_as(x)


LAYOUTS = [channels_last, sliced, expanded]


def filled(dtype=torch.float32):
    modules = {name: build_network(name, SMALL) for name in NETWORKS}
    for name, module in modules.items():
        weight_rule.fill(module, name)
    return {name: module.to(dtype) for name, module in modules.items()}


@pytest.fixture(scope="module", params=DEVICES)
def device(request):
    """TF32 would turn what a GPU's sums lack in order into errors of its own eleven bits."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield torch.device(request.param)
    torch.backends.cudnn.allow_tf32 = before


@pytest.fixture(scope="module", params=["plain", "accelerated"])
def networks(request, device):
    modules = {name: module.to(device) for name, module in filled().items()}
    if request.param == "plain":
        return PlainNetworks(SMALL, modules, torch.float32)
    return Accelerator(device, torch.float32).accelerate(SMALL, modules)


@pytest.fixture(scope="module")
def exact():
    """The same networks in fp64, from which fp32 differs by its own rounding alone."""
    return PlainNetworks(SMALL, filled(torch.float64), torch.float64)


def banks(networks, latents, embedding):
    module = networks.modules["reference_unet"]
    return torch.cat([bank.flatten() for bank in module(latents, embedding)])


def denoised(networks, latents, motion, pose):
    reference = networks.encode_reference(*(x.to(latents) for x in (PORTRAIT, EMBEDDING)))
    return networks.denoise(latents, TIMESTEPS, motion, pose, reference)


def posed(networks, images):
    if networks.dtype == torch.float64:  # the engine's own fp32 would hide what the network does
        return networks.modules["motion_extractor"](images).keypoints
    return networks.extract_pose(images).canonical.flatten(1)


PORTRAIT = normal_input("ref_latents", (1, 4, 16, 16))
EMBEDDING = normal_input("image_embeds", (1, 1, SMALL.unet.cross_attention_dim))
FACE, POSE = SMALL.motion_encoder.image_size, SMALL.motion_extractor.image_size
WINDOW = (
    normal_input("latents", (16, 4, 16, 16)),
    normal_input("motion", (16, SMALL.motion_encoder.tokens, SMALL.unet.motion_token_width), 2.0),
    normal_input("pose", (16, SMALL.unet.block_channels[0], 16, 16)),
)
CASES = {
    "VAE, encoder": (lambda n, x: n.encode_image(x), (normal_input("images", (2, 3, SIZE, SIZE)).clamp(-1, 1),)),
    "VAE, decoder": (lambda n, x: n.decode(x), (normal_input("vae_latents", (2, 4, 16, 16), 0.5),)),
    "image encoder": (lambda n, x: n.embed_image(x), (normal_input("clip", (2, 3, 224, 224)),)),
    "reference UNet": (banks, (PORTRAIT.expand(2, -1, -1, -1) + 0.1, EMBEDDING.expand(2, -1, -1))),
    "denoising UNet": (denoised, WINDOW),
    "motion encoder": (lambda n, x: n.encode_motion(x), (normal_input("faces", (2, 3, FACE, FACE)),)),
    "motion extractor": (posed, (normal_input("faces", (2, 3, POSE, POSE)).sigmoid(),)),
    "pose guider": (
        lambda n, x: n.modules["pose_guider"](x),
        (normal_input("rasters", (2, 3, SIZE, SIZE)).sigmoid(),),
    ),
}


def difference(actual, expected):
    return ((actual.double().cpu() - expected.double().cpu()).abs().max() / expected.abs().max().cpu()).item()


@torch.inference_mode()
@pytest.mark.parametrize("name", CASES)
def test_a_result_does_not_depend_on_the_memory_format(networks, device, exact, name):
    run, inputs = CASES[name]
    inputs = tuple(tensor.to(device) for tensor in inputs)
    for layout in LAYOUTS:
        given = [layout(tensor) for tensor in inputs]
        expected = run(networks, *(contiguous(tensor) for tensor in given))
        # A GPU's sums have no fixed order; a CPU's have, so that anything but equality would be another kernel.
        assert difference(run(networks, *given), expected) < (1e-5 if device.type == "cuda" else 1e-8), layout.__name__
        if device.type == "cpu":  # and it is right, not only the same everywhere
            truth = run(exact, *(contiguous(tensor).double() for tensor in given))
            assert difference(expected, truth) < 2e-5, layout.__name__


@torch.inference_mode()
def test_motion_extractor_and_encoder_at_the_same_time(networks, device):
    """On a GPU, in one graph for each number of frames, which is used again with other frames."""
    for count, seed in ((2, 0), (1, 0), (2, 1)):
        images = normal_input("heads", (count, 3, POSE, POSE), seed=seed).sigmoid().to(device)
        faces = normal_input("faces", (count, 3, FACE, FACE), seed=seed).to(device)
        pose, tokens = networks.encode_driver(images, faces)
        tolerance = 1e-5 if device.type == "cuda" else 1e-8
        assert difference(tokens, networks.encode_motion(faces)) < tolerance
        for both, alone in zip(vars(pose).values(), vars(networks.extract_pose(images)).values(), strict=True):
            assert difference(both, alone) < tolerance


@torch.inference_mode()
@pytest.mark.parametrize("layout", [contiguous, channels_last, sliced])
@pytest.mark.parametrize("name", ["plain", "reference", "onednn"])
def test_group_norms_of_large_images_are_exact(name, layout):
    """PyTorch's own for channels-last images is 4e-6 off here, and that of others 5e-8."""
    norm = blocks.GroupNorm(8, 32, eps=1e-6)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    shift = normal_input("shift", (2, 32))
    image = normal_input("image", (2, 32, 224, 224)) * 1.3 + 0.7
    shifted = image.double() if name == "plain" else image.double() + shift.double()[:, :, None, None]
    truth = torch.nn.functional.group_norm(shifted, 8, norm.weight.double(), norm.bias.double(), norm.eps)
    kinds = {"reference": reference.group_norm, "onednn": onednn.group_norm}
    if name == "plain":
        actual = norm(layout(image))
    else:
        actual = kinds[name](layout(image), 8, norm.weight, norm.bias, norm.eps, shift=shift)
    assert (actual.double() - truth).norm() < 2e-7 * truth.norm()
