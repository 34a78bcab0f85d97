"""The networks have the published names, sizes and numbers of parameters."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from personalive import models
from personalive.config import ModelConfig
from personalive.models.unet import DenoisingUNet
from personalive.testing.parity.networks import REDUCED, network
from personalive.testing.parity.unets import block_names

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
    with torch.device("meta"):
        unet = DenoisingUNet(ModelConfig().unet)
    by_module = {module: name for name, module in unet.named_modules()}
    readers = [by_module[attention.block] for attention in unet.attentions]
    assert dict(zip(block_names(ModelConfig()), readers, strict=True)) == NAMES["bank_pairs"]


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

    def random(*shape):
        return torch.randn(*shape, generator=generator)

    sizes = {32: 64, 64: 16, 128: 4}
    mid = unet.mid_block.attentions[0]
    banks = [
        random(count, (1 if attention is mid else sizes[attention.norm.num_channels]), attention.norm.num_channels)
        for attention in unet.attentions
    ]
    result = unet.project_reference(banks, random(count, 1, 64))
    for _ in range(sources - 1):
        result = result.with_keyframe(unet.project_reference(banks, random(count, 1, 64)))
    return result


@torch.inference_mode()
def test_streams_with_different_numbers_of_keyframes_do_not_touch_each_other(denoising_unet):
    unet, time = denoising_unet, denoising_unet.embed_time(torch.tensor([0] * 4 + [333] * 4 + [666] * 4 + [999] * 4))
    references = [features(unet, 1, 1, 1), features(unet, 1, 3, 2), features(unet, 1, 1, 3)]
    latents, motion, pose = torch.randn(48, 4, 8, 8), torch.randn(48, 32, 16), torch.randn(48, 32, 8, 8)
    together = unet(latents, time, motion, pose, references)
    for index, reference in enumerate(references):
        part = slice(16 * index, 16 * index + 16)
        alone = unet(latents[part], time, motion[part], pose[part], [reference])
        torch.testing.assert_close(together[part], alone, atol=2e-5, rtol=1e-4)


@torch.inference_mode()
def test_what_has_no_effect_may_hold_anything(denoising_unet):
    """The image context is one token, so queries, keys and their norm are dead weights in the published files."""
    unet, time = denoising_unet, denoising_unet.embed_time(torch.tensor([0] * 16))
    reference = features(unet, 1, 1, 1)
    given = torch.randn(16, 4, 8, 8), time, torch.randn(16, 32, 16), torch.randn(16, 32, 8, 8), [reference]
    before = unet(*given)
    for attention in unet.attentions:
        for parameter in (
            attention.block.norm2.weight,
            attention.block.attn2.to_q.weight,
            attention.block.attn2.to_k.weight,
        ):
            parameter.fill_(float("nan"))
    assert torch.equal(unet(*given), before)


def test_libraries_that_two_threads_ask_for_are_whole():
    program = (
        "import threading\n"
        "from personalive import models\n"
        "models.import_ahead()\n"
        "found = []\n"
        "threads = [threading.Thread(target=lambda: found.append(models.libraries())) for _ in range(3)]\n"
        "for thread in threads: thread.start()\n"
        "for thread in threads: thread.join()\n"
        "assert len(found) == 3\n"
        "assert all(d.AutoencoderKL and t.CLIPVisionModelWithProjection for d, t in found)\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
