"""Small networks in the layout and formats in which the real ones are published."""

import json
from pathlib import Path

import torch
from torch import Tensor

from personalive.config import (
    ImageEncoderConfig,
    ModelConfig,
    MotionEncoderConfig,
    MotionExtractorConfig,
    PoseGuiderConfig,
    UNetConfig,
    VAEConfig,
)
from personalive.models import NETWORKS, build_network
from personalive.testing import weight_rule
from tests.hub_stand_in import StoredRepository

State = dict[str, Tensor]

SMALL = ModelConfig(
    name="small",
    unet=UNetConfig(block_channels=(32, 32, 32, 32), cross_attention_dim=32, layers_per_block=1),
    vae=VAEConfig(block_channels=(32, 32, 32, 32), layers_per_block=1),
    image_encoder=ImageEncoderConfig(
        hidden_size=32, intermediate_size=64, layers=2, heads=4, patch_size=32, projection_dim=32
    ),
    motion_encoder=MotionEncoderConfig(image_size=64, channels=64, attention_width=64, tokens=4),
    motion_extractor=MotionExtractorConfig(image_size=64, depths=(1, 1, 1, 1), channels=(8, 16, 32, 64)),
    pose_guider=PoseGuiderConfig(channels=(8, 8, 16, 16), output_channels=32),
)
"""The published structure, with one layer for each two and as few channels as it allows."""

REPOSITORIES = {
    "huaichang/PersonaLive": ("b247581c0361b8bee0aa7232eea6e3fdd6e38e60", "pretrained_weights/personalive"),
    "lambdalabs/sd-image-variations-diffusers": ("42bc0ee1726b141d49f519a6ea02ccfbf073db2e", ""),
    "stabilityai/sd-vae-ft-mse": ("31f26fdeee1355a5c34592e401dd41e45d25a493", ""),
}
"""Revision, and where inside the repository the files of the local layout's folder lie."""
FOLDERS = {
    "huaichang/PersonaLive": "personalive",
    "lambdalabs/sd-image-variations-diffusers": "sd-image-variations-diffusers",
    "stabilityai/sd-vae-ft-mse": "sd-vae-ft-mse",
}


def random_states(config: ModelConfig = SMALL) -> dict[str, State]:
    """State dicts of all networks, filled by the rule."""
    states = {}
    for name in NETWORKS:
        network = build_network(name, config)
        weight_rule.fill(network, name)
        states[name] = dict(network.state_dict())
    return states


def write_layout(root: Path, states: dict[str, State], config: ModelConfig = SMALL) -> None:
    """Write the published local layout: the denoising UNet without temporal modules in one file, these in another."""
    unet = states["denoising_unet"]
    ours = {name: states[name] for name in ("reference_unet", "motion_encoder", "motion_extractor", "pose_guider")}
    ours["denoising_unet"] = {key: value for key, value in unet.items() if "temporal_modules" not in key}
    ours["temporal_module"] = {key: value for key, value in unet.items() if "temporal_modules" in key}
    for name, state in ours.items():
        save(state, root / "personalive" / f"{name}.pth")
    base = {key: value + 1 for key, value in unet.items() if "_modules" not in key}  # overwritten by what comes later
    variations = root / "sd-image-variations-diffusers"
    save(base, variations / "unet" / "diffusion_pytorch_model.bin")
    write_json(variations / "unet" / "config.json", unet_facts(config))
    positions = torch.arange(50)[None]
    image_encoder = states["image_encoder"] | {"vision_model.embeddings.position_ids": positions}
    save(image_encoder, variations / "image_encoder" / "pytorch_model.bin")
    write_json(variations / "image_encoder" / "config.json", image_encoder_facts(config))
    write_json(variations / "model_index.json", {"_class_name": "StableDiffusionImageVariationPipeline"})
    save(legacy_names(states["vae"]), root / "sd-vae-ft-mse" / "diffusion_pytorch_model.bin")
    write_json(root / "sd-vae-ft-mse" / "config.json", vae_facts(config))


def as_repositories(layout: Path, root: Path) -> dict[str, StoredRepository]:
    """The same files as the hub holds them; hard links, as nobody may change them."""
    repositories = {}
    for name, (revision, inside) in REPOSITORIES.items():
        repository, folder = root / name, layout / FOLDERS[name]
        for file in (path for path in folder.rglob("*") if path.is_file()):
            target = repository / inside / file.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.hardlink_to(file)
        repositories[name] = StoredRepository(repository, revision)
    return repositories


def save(state: State, path: Path) -> None:
    """As the published pickles are written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path)


def write_json(path: Path, values: dict[str, object]) -> None:
    """A configuration file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=2))


def legacy_names(state: State) -> State:
    """A VAE's state dict as old files spell it."""
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def rename(key: str) -> str:
        for new, old in names.items():
            key = key.replace(f".mid_block.attentions.0.{new}.", f".mid_block.attentions.0.{old}.")
        return key

    return {rename(key): value for key, value in state.items()}


def unet_facts(config: ModelConfig) -> dict[str, object]:
    """What `unet/config.json` says."""
    return {
        "_class_name": "UNet2DConditionModel",
        "sample_size": 64,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": list(config.unet.block_channels),
        "layers_per_block": config.unet.layers_per_block,
        "attention_head_dim": config.unet.heads,
        "cross_attention_dim": config.unet.cross_attention_dim,
        "norm_num_groups": config.unet.norm_groups,
        "norm_eps": 1e-05,
        "act_fn": "silu",
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "downsample_padding": 1,
        "center_input_sample": False,
        "mid_block_scale_factor": 1,
    }


def vae_facts(config: ModelConfig) -> dict[str, object]:
    """What the VAE's `config.json` says."""
    return {
        "_class_name": "AutoencoderKL",
        "block_out_channels": list(config.vae.block_channels),
        "layers_per_block": config.vae.layers_per_block,
        "latent_channels": config.vae.latent_channels,
        "norm_num_groups": config.vae.norm_groups,
        "act_fn": "silu",
    }


def image_encoder_facts(config: ModelConfig) -> dict[str, object]:
    """What `image_encoder/config.json` says."""
    return {
        "architectures": ["CLIPVisionModelWithProjection"],
        "hidden_size": config.image_encoder.hidden_size,
        "intermediate_size": config.image_encoder.intermediate_size,
        "num_hidden_layers": config.image_encoder.layers,
        "num_attention_heads": config.image_encoder.heads,
        "image_size": config.image_encoder.image_size,
        "patch_size": config.image_encoder.patch_size,
        "projection_dim": config.image_encoder.projection_dim,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-05,
    }
