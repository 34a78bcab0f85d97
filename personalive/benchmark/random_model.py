"""A model of the published sizes with random weights: as fast as the published one, and nothing is downloaded."""

import math

import torch
from torch import Tensor, nn

from personalive import models
from personalive.accel.accelerator import Accelerator
from personalive.config import ModelConfig
from personalive.pipeline import PersonaLive


@torch.no_grad()
def random_model(config: ModelConfig, accelerator: Accelerator) -> PersonaLive:
    """A model of these sizes; its pictures are noise, the same at each run on one device."""
    accelerator.begin()
    networks: dict[str, nn.Module] = {}
    for name in models.NETWORKS:
        with torch.device("meta"):
            network = models.build_network(name, config)
        _fill(models.cast(network, accelerator.dtype), accelerator.device)
        networks[name] = network.requires_grad_(False)
        if name in accelerator.idle_networks:
            network.cpu()
    return PersonaLive.from_modules(config, networks, accelerator.dtype, accelerator)


def _fill(network: nn.Module, device: torch.device) -> None:
    """Weights that keep the size of what passes them, and norms that do nothing; tables stay as they are."""
    generator = torch.Generator(device).manual_seed(0)
    state = {key: _random(key, tensor, generator) for key, tensor in network.state_dict().items()}
    network.load_state_dict(state, assign=True)
    network.to(device)


def _random(key: str, like: Tensor, generator: torch.Generator) -> Tensor:
    if not like.is_meta:
        return like
    device = generator.device
    if not like.is_floating_point():
        return torch.zeros(like.shape, dtype=like.dtype, device=device)
    if like.dim() < 2:
        return torch.full(like.shape, float(key.endswith(("weight", "running_var"))), dtype=like.dtype, device=device)
    normal = torch.randn(like.shape, generator=generator, device=device)
    return (normal / math.sqrt(normal[0].numel())).to(like.dtype)
