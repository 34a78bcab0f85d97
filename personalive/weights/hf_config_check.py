"""Checks what configuration files beside published weights say and tensors' shapes do not."""

import json
from pathlib import Path
from typing import Any

from personalive.config import ModelConfig
from personalive.errors import WeightsError
from personalive.models import clip_fields


def check_hf_config(network: str, path: Path, config: ModelConfig) -> None:
    """Compare a published configuration file with the configuration that the network is built for.

    Names that are not in the file are not checked.

    Raises:
        WeightsError: the file cannot be read, or says something else.
    """
    try:
        values = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{network}: {path} cannot be read as JSON ({error})") from error
    if not isinstance(values, dict):
        raise WeightsError(f"{network}: {path} must hold a JSON object, not {type(values).__name__}")
    for name, expected in _expected(network, config).items():
        if name in values and values[name] != expected:
            raise WeightsError(
                f"{network}: {name} is {values[name]!r} in {path}, the model needs {expected!r}. "
                f"These weights belong to another model."
            )


def _expected(network: str, config: ModelConfig) -> dict[str, Any]:
    if network == "denoising_unet":
        return {
            "in_channels": config.unet.latent_channels,
            "out_channels": config.unet.latent_channels,
            "block_out_channels": list(config.unet.block_channels),
            "layers_per_block": config.unet.layers_per_block,
            "attention_head_dim": config.unet.heads,  # the number of heads, despite the name
            "cross_attention_dim": config.unet.cross_attention_dim,
            "norm_num_groups": config.unet.norm_groups,
            "norm_eps": 1e-5,
            "act_fn": "silu",
            "flip_sin_to_cos": True,
            "freq_shift": 0,
            "downsample_padding": 1,
            "center_input_sample": False,
            "use_linear_projection": False,
            "mid_block_scale_factor": 1,
        }
    if network == "vae":
        return {
            "block_out_channels": list(config.vae.block_channels),
            "layers_per_block": config.vae.layers_per_block,
            "latent_channels": config.vae.latent_channels,
            "norm_num_groups": config.vae.norm_groups,
            "act_fn": "silu",
            "scaling_factor": config.vae.scaling_factor,
        }
    if network == "tiny_vae":
        return {
            "act_fn": "relu",
            "decoder_block_out_channels": [64, 64, 64, 64],
            "latent_channels": config.vae.latent_channels,
            "num_decoder_blocks": [3, 3, 3, 1],
            "scaling_factor": 1.0,
            "shift_factor": 0.0,
            "upsample_fn": "nearest",
            "upsampling_scaling_factor": 2,
        }
    return clip_fields(config.image_encoder)
