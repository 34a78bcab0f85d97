"""Networks of the goldens: full or reduced sizes, filled by the weight rule."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from personalive import models
from personalive.config import ImageEncoderConfig, ModelConfig, PoseGuiderConfig, UNetConfig, VAEConfig
from personalive.models.vae import VAE
from personalive.testing import weight_rule

REDUCED = ModelConfig(
    name="reduced",
    unet=UNetConfig(block_channels=(32, 64, 128, 128), cross_attention_dim=64),
    vae=VAEConfig(block_channels=(32, 32, 32, 32), layers_per_block=1),
    image_encoder=ImageEncoderConfig(
        hidden_size=64, intermediate_size=128, layers=2, heads=4, image_size=224, patch_size=32, projection_dim=64
    ),
    pose_guider=PoseGuiderConfig(output_channels=32),
)
"""Motion encoder and motion extractor have their full size."""
SIZES = {"full": ModelConfig(), "reduced": REDUCED}


def network(name: str, config: ModelConfig, seed: int) -> nn.Module:
    """One network in fp32 on the CPU, filled by the rule."""
    with torch.device("meta"):  # the rule overwrites everything: drawing initial weights would be wasted
        empty = models.build_network(name, config)
    for key, parameter in empty.named_parameters():
        owner, _, last = key.rpartition(".")
        setattr(empty.get_submodule(owner), last, nn.Parameter(torch.empty(parameter.shape), requires_grad=False))
    for key, buffer in empty.named_buffers():
        if buffer.is_meta:
            owner, _, last = key.rpartition(".")
            empty.get_submodule(owner)._buffers[last] = torch.zeros(buffer.shape, dtype=buffer.dtype)
    weight_rule.fill(empty, name, seed)
    return empty


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread, as the goldens were."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def latents_as_published(vae: VAE, images: Tensor) -> Tensor:
    """A portrait's latents with the rounding that the goldens have.

    They were computed from channels-last pictures. PyTorch's group normalisation of these on the CPU adds up pixel by
    pixel in fp32, thread by thread: that puts the goldens 1.1e-4 of their size away from the network in fp64, where
    `VAE.encode` is 2e-6 away. It is more than anything else that is compared, and everything follows from it.
    """
    with one_thread():
        parameters: Tensor = vae.quant_conv(vae.encoder(images.contiguous(memory_format=torch.channels_last)))
    return parameters.chunk(2, dim=1)[0]


def case_list(folder: Path) -> dict[str, dict[str, object]]:
    """The cases that a folder describes."""
    cases = json.loads((folder / "cases.json").read_text())
    assert isinstance(cases, dict)
    return cases
