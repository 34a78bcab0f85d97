"""Sums of products in fp16: who may ask for them, and that on a GPU the networks' results stay what they are."""

import copy

import pytest
import torch

from personalive.accel.accelerator import AcceleratedNetworks, Accelerator
from personalive.config import CHUNK
from personalive.errors import InputError
from personalive.models import NETWORKS, build_network, cast
from personalive.pipeline import PersonaLive
from personalive.testing import weight_rule
from personalive.testing.small_model import SMALL


def test_they_are_refused_before_anything_is_loaded():
    """The model is not even looked for."""
    with pytest.raises(InputError, match="accumulate fp16 needs an NVIDIA GPU, not cpu: leave it out"):
        PersonaLive.from_pretrained("/nowhere", device="cpu", accumulate="fp16")
    with pytest.raises(InputError, match="accumulate is 'int32': choose one of fp32, fp16"):
        PersonaLive.from_pretrained("/nowhere", device="cpu", accumulate="int32")
    with pytest.raises(InputError, match="leave out attention, quantize, accumulate"):
        PersonaLive.from_pretrained("/nowhere", device="cpu", accelerate="onnx", accumulate="fp16")
    with pytest.raises(InputError, match=r"needs a model in fp16, not in torch\.bfloat16"):
        Accelerator(torch.device("cuda"), torch.bfloat16, accumulate="fp16")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@torch.inference_mode()
def test_a_model_computes_the_same():
    device, plain = torch.device("cuda"), {name: build_network(name, SMALL) for name in NETWORKS}
    for name, network in plain.items():
        weight_rule.fill(network, name)
    results = []
    for dtype, choices in ((torch.float32, {}), (torch.float16, {"accumulate": "fp16"})):
        ready = {name: cast(copy.deepcopy(network), dtype).to(device) for name, network in plain.items()}
        networks = AcceleratedNetworks(SMALL, ready, Accelerator(device, dtype, **choices))
        latents = weight_rule.normal_input("latents", (CHUNK, SMALL.unet.latent_channels, 16, 16), seed=1)
        results.append(networks.decode(latents).cpu())
    assert (results[0] - results[1]).norm() < 0.01 * results[0].norm()
