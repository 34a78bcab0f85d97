"""The networks, in plain PyTorch, as in the paper's diagram: tensors in, tensors out. They know nothing of files."""

from collections.abc import Callable

import torch
from torch import nn

from personalive.config import ModelConfig
from personalive.models.clip import ImageEncoder, clip_fields
from personalive.models.denoising_unet import DenoisingUNet
from personalive.models.motion_encoder import MotionEncoder
from personalive.models.motion_extractor import MotionExtractor
from personalive.models.pose_guider import PoseGuider
from personalive.models.reference_unet import ReferenceUNet
from personalive.models.vae import VAE

__all__ = ["NETWORKS", "build_network", "cast", "clip_fields", "stored_dtype"]

_BUILDERS: dict[str, Callable[[ModelConfig], nn.Module]] = {
    "reference_unet": lambda config: ReferenceUNet(config.unet),
    "denoising_unet": lambda config: DenoisingUNet(config.unet),
    "motion_encoder": lambda config: MotionEncoder(config.motion_encoder),
    "motion_extractor": lambda config: MotionExtractor(config.motion_extractor),
    "pose_guider": lambda config: PoseGuider(config.pose_guider),
    "vae": lambda config: VAE(config.vae),
    "image_encoder": lambda config: ImageEncoder(config.image_encoder),
}
NETWORKS = tuple(_BUILDERS)
"""Names of all networks of a model."""


def build_network(name: str, config: ModelConfig) -> nn.Module:
    """One network in eval mode, on the current default device, weights as initialised."""
    return _BUILDERS[name](config).eval()


def stored_dtype(network: nn.Module, dtype: torch.dtype) -> torch.dtype:
    """The dtype of a network's numbers in a model of the given dtype: the motion extractor stays in fp32."""
    return torch.float32 if isinstance(network, MotionExtractor) else dtype


def cast(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Convert a network in place to its `stored_dtype` in a model of that dtype."""
    return network.to(stored_dtype(network, dtype))
