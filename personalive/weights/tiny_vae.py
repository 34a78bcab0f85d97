"""Weights of a tiny VAE that the user names: a folder of diffusers' AutoencoderTiny, or its safetensors file."""

from pathlib import Path

import torch
from torch import Tensor

from personalive.config import ModelConfig
from personalive.errors import WeightsError
from personalive.models.tiny_vae import TinyDecoder
from personalive.weights.checkpoint_io import open_tensors
from personalive.weights.hf_config_check import check_hf_config
from personalive.weights.load import require_finite
from personalive.weights.source import WeightsFile

FILE, CONFIG = "diffusion_pytorch_model.safetensors", "config.json"
"""What diffusers calls them."""
FACTOR = 8
"""Image pixels per latent pixel, each way."""
_FIRST = "decoder.layers.0.weight"
_EXPECTED = "TAESD's decoder in diffusers' layout (AutoencoderTiny)"


def load_tiny_decoder(path: Path, config: ModelConfig, *, dtype: torch.dtype, device: torch.device) -> TinyDecoder:
    """Read and check a tiny decoder for a model's latents.

    Args:
        path: a `.safetensors` file, or a folder that holds one under diffusers' name. An encoder in it is not read.

    Raises:
        WeightsError: there is no such file, it is damaged, or it is not a tiny decoder for latents of this model.
    """
    if config.vae.factor != FACTOR:
        raise WeightsError(
            f"a tiny VAE enlarges {FACTOR} times, the model {config.name} needs {config.vae.factor} times"
        )
    path = path.expanduser()
    file = _file(path, config)
    with torch.device("meta"):
        decoder = TinyDecoder(config.vae)
    state = _read(file, {key: tensor.shape for key, tensor in decoder.state_dict().items()}, config)
    state = {key: tensor.to(device, dtype) for key, tensor in state.items()}
    require_finite("tiny VAE", state)
    decoder.load_state_dict(state, assign=True)
    return decoder.requires_grad_(False).eval()


def _file(path: Path, config: ModelConfig) -> Path:
    file = path / FILE if path.is_dir() else path
    if not file.is_file():
        raise WeightsError(f"the tiny VAE {file} does not exist: name a .safetensors file, or a folder with a {FILE}")
    if file.suffix != ".safetensors":
        raise WeightsError(f"the tiny VAE {file} must be a .safetensors file: other formats can hold code")
    hf_config = file.with_name(CONFIG)
    if path.is_dir() and hf_config.is_file():
        check_hf_config("tiny_vae", hf_config, config)
    return file


def _read(file: Path, shapes: dict[str, torch.Size], config: ModelConfig) -> dict[str, Tensor]:
    opened = open_tensors(WeightsFile(file, str(file)))
    found = opened.shapes()
    if len(first := found.get(_FIRST, ())) == 4 and first[1] != config.vae.latent_channels:
        raise WeightsError(
            f"the tiny VAE {file} is for {first[1]} latent channels, the model {config.name} has "
            f"{config.vae.latent_channels}: take the one that was made for its VAE (TAESD for Stable Diffusion 1.5's)"
        )
    for key, shape in shapes.items():
        if key not in found:
            raise WeightsError(f"the tiny VAE {file} has no {key}: it must be {_EXPECTED}")
        if found[key] != tuple(shape):
            raise WeightsError(
                f"the tiny VAE {file}: {key} has shape {list(found[key])}, {list(shape)} is needed: "
                f"it must be {_EXPECTED}"
            )
    unknown = sorted(key for key in found if key.startswith("decoder.") and key not in shapes)
    if unknown:
        raise WeightsError(f"the tiny VAE {file} has an unknown {unknown[0]}: it must be {_EXPECTED}")
    return {key: opened.read(key) for key in shapes}
