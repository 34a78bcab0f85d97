"""A model of the published sizes with random weights: as fast as the published one, and nothing is downloaded."""

import math

import torch
from torch import nn

from personalive import models
from personalive.accel.accelerator import Accelerator
from personalive.config import ModelConfig
from personalive.pipeline import PersonaLive


@torch.no_grad()
def random_model(config: ModelConfig, accelerator: Accelerator) -> PersonaLive:
    """A model of these sizes; its pictures are noise, the same at each run on one device."""
    networks: dict[str, nn.Module] = {}
    for name in models.NETWORKS:
        with torch.device("meta"):
            network = models.build_network(name, config)
        tables = {key: buffer.clone() for key, buffer in network.named_buffers() if not buffer.is_meta}
        network = models.cast(network, accelerator.dtype).to_empty(device=accelerator.device)
        _fill(network, torch.Generator(accelerator.device).manual_seed(0))
        for key, table in tables.items():
            network.get_buffer(key).copy_(table)
        networks[name] = network.requires_grad_(False)
        if name in accelerator.idle_networks:
            network.cpu()
    return PersonaLive.from_modules(config, networks, accelerator.dtype, accelerator)


def _fill(network: nn.Module, generator: torch.Generator) -> None:
    """Weights that keep the size of what passes them, and norms that do nothing."""
    for key, tensor in network.state_dict().items():
        if not tensor.is_floating_point():
            tensor.zero_()
        elif tensor.dim() < 2:
            tensor.fill_(1 if key.endswith(("weight", "running_var")) else 0)
        else:
            normal = torch.randn(tensor.shape, generator=generator, device=tensor.device)
            tensor.copy_(normal / math.sqrt(tensor[0].numel()))
