"""The networks: tensors in, tensors out. They know neither files nor each other."""

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import nn

from personalive.config import ImageEncoderConfig, ModelConfig, VAEConfig
from personalive.models.motion_encoder import MotionEncoder
from personalive.models.motion_extractor import MotionExtractor
from personalive.models.pose_guider import PoseGuider
from personalive.models.unet import DenoisingUNet, ReferenceUNet

__all__ = ["NETWORKS", "build_network", "cast", "clip_fields", "import_ahead", "libraries", "stored_dtype"]

_importing = threading.Lock()
"""Two threads that import diffusers at the same time would each see half of it."""


def import_ahead() -> None:
    """Begin to import `libraries`: it takes seconds, in which files can be read."""
    threading.Thread(target=_try_to_import, name="import", daemon=True).start()


def _try_to_import() -> None:
    with suppress(Exception):  # whoever needs them will see it
        libraries()


def libraries() -> tuple[Any, Any]:
    """diffusers and transformers: late, as who only asks for help or errs need not wait for them."""
    with _importing:
        import diffusers
        import transformers

        for library, network in ((diffusers, "AutoencoderKL"), (transformers, "CLIPVisionModelWithProjection")):
            getattr(library, network)  # that is when it is imported
    return diffusers, transformers


def _build_vae(config: VAEConfig) -> nn.Module:
    levels = len(config.block_channels)
    network: nn.Module = libraries()[0].AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=config.block_channels,
        layers_per_block=config.layers_per_block,
        latent_channels=config.latent_channels,
        norm_num_groups=config.norm_groups,
        scaling_factor=config.scaling_factor,
    )
    return network


def clip_fields(config: ImageEncoderConfig) -> dict[str, Any]:
    """The image encoder's sizes as transformers names them."""
    return {
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "projection_dim": config.projection_dim,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
    }


def _build_image_encoder(config: ImageEncoderConfig) -> nn.Module:
    transformers = libraries()[1]
    network = transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(**clip_fields(config)))
    # No file holds this table, so it must have storage even where the network is built without.
    embeddings = network.vision_model.embeddings
    embeddings.register_buffer(
        "position_ids", torch.arange(embeddings.num_positions, device="cpu")[None], persistent=False
    )
    assert isinstance(network, nn.Module)
    return network


_BUILDERS: dict[str, Callable[[ModelConfig], nn.Module]] = {
    "reference_unet": lambda config: ReferenceUNet(config.unet),
    "denoising_unet": lambda config: DenoisingUNet(config.unet),
    "motion_encoder": lambda config: MotionEncoder(config.motion_encoder),
    "motion_extractor": lambda config: MotionExtractor(config.motion_extractor),
    "pose_guider": lambda config: PoseGuider(config.pose_guider),
    "vae": lambda config: _build_vae(config.vae),
    "image_encoder": lambda config: _build_image_encoder(config.image_encoder),
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
