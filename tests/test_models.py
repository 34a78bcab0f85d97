"""The networks have the published names, sizes and numbers of parameters."""

import json
from pathlib import Path

import pytest
import torch

from personalive import models
from personalive.config import ModelConfig
from personalive.models.denoising_unet import ReferenceFeatures
from personalive.models.reference_unet import WritingTransformer
from personalive.testing.parity.networks import REDUCED, network

GOLDENS = Path(__file__).parent / "goldens"
NAMES = json.loads((GOLDENS / "state_dicts.json").read_text())


@pytest.mark.parametrize("name", models.NETWORKS)
def test_state_dict_has_the_published_keys_shapes_and_count(name):
    with torch.device("meta"):
        built = models.build_network(name, ModelConfig())
    expected = NAMES[name]
    assert {key: list(tensor.shape) for key, tensor in built.state_dict().items()} == expected["tensors"]
    assert sum(parameter.numel() for parameter in built.parameters()) == expected["parameters"]


def test_banks_are_handed_over_as_published():
    """By place: that of a spatial transformer in the one UNet is that of its counterpart in the other."""
    with torch.device("meta"):
        unet = models.build_network("denoising_unet", ModelConfig())
        reference = models.build_network("reference_unet", ModelConfig())
    names = {module: name for name, module in unet.named_modules()}
    readers = [names[spatial.transformer_blocks[0]] for spatial in unet.spatial_transformers]
    assert [spatial.place for spatial in unet.spatial_transformers] == list(range(16))
    writers = [name for name, module in reference.named_modules() if isinstance(module, WritingTransformer)]
    order = [f"{name}.transformer_blocks.0" for name in sorted(writers, key=_order)]
    assert dict(zip(order, readers, strict=True)) == NAMES["bank_pairs"]


def _order(name):
    """Down, through the middle, and up."""
    return ("down", "mid_", "up_b").index(name[:4]), name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_cast_keeps_the_motion_extractor_in_full_precision(dtype):
    """Its keypoints become whole pixels, so that a small error can be a large one."""
    with torch.device("meta"):
        networks = {name: models.cast(models.build_network(name, ModelConfig()), dtype) for name in models.NETWORKS}
    kinds = {name: {p.dtype for p in network.parameters()} for name, network in networks.items()}
    assert kinds.pop("motion_extractor") == {torch.float32}
    assert all(found == {dtype} for found in kinds.values())


@pytest.fixture(scope="module")
def denoising_unet():
    return network("denoising_unet", REDUCED, 0)


def features(unet, count, sources, seed):
    generator = torch.Generator().manual_seed(seed)

    def bank():
        sizes = {32: 64, 64: 16, 128: 4}
        mid = unet.mid_block.attentions[0]
        widths = [
            (1 if s is mid else sizes[s.norm.num_channels], s.norm.num_channels) for s in unet.spatial_transformers
        ]
        return tuple(torch.randn(count, *width, generator=generator) for width in widths)

    return ReferenceFeatures(torch.randn(count, 1, 64, generator=generator), tuple(bank() for _ in range(sources)))


TIMES = torch.tensor([0] * 4 + [333] * 4 + [666] * 4 + [999] * 4)


@torch.inference_mode()
def test_windows_of_one_batch_do_not_touch_each_other(denoising_unet):
    three, frames = features(denoising_unet, 3, 2, 1), len(TIMES)
    latents, motion, pose = torch.randn(48, 4, 8, 8), torch.randn(48, 32, 16), torch.randn(48, 32, 8, 8)
    together = denoising_unet(latents, TIMES, motion, pose, three)
    for index in range(3):
        part = slice(frames * index, frames * index + frames)
        one = ReferenceFeatures(
            three.embedding[index : index + 1],
            tuple(tuple(tokens[index : index + 1] for tokens in bank) for bank in three.banks),
        )
        alone = denoising_unet(latents[part], TIMES, motion[part], pose[part], one)
        torch.testing.assert_close(together[part], alone, atol=2e-5, rtol=1e-4)


@torch.inference_mode()
def test_a_portrait_serves_any_number_of_windows(denoising_unet):
    reference = features(denoising_unet, 1, 2, 3)
    latents, motion, pose = torch.randn(32, 4, 8, 8), torch.randn(32, 32, 16), torch.randn(32, 32, 8, 8)
    together = denoising_unet(latents, TIMES, motion, pose, reference)
    alone = denoising_unet(latents[16:], TIMES, motion[16:], pose[16:], reference)
    torch.testing.assert_close(together[16:], alone, atol=2e-5, rtol=1e-4)


@torch.inference_mode()
def test_what_has_no_effect_may_hold_anything(denoising_unet):
    """The image context is one token, so queries, keys and their norm are dead weights in the published files."""
    unet = denoising_unet
    given = torch.randn(16, 4, 8, 8), TIMES, torch.randn(16, 32, 16), torch.randn(16, 32, 8, 8), features(unet, 1, 1, 1)
    before = unet(*given)
    for spatial in unet.spatial_transformers:
        block = spatial.transformer_blocks[0]
        for parameter in (block.norm2.weight, block.attn2.to_q.weight, block.attn2.to_k.weight):
            parameter.fill_(float("nan"))
    assert torch.equal(unet(*given), before)
