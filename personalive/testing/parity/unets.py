"""Goldens of the two UNets."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from personalive.config import ModelConfig
from personalive.models.denoising_unet import DenoisingUNet, ReferenceFeatures
from personalive.models.reference_unet import ReferenceUNet
from personalive.testing import weight_rule as rule
from personalive.testing.parity import report as tolerances
from personalive.testing.parity.components import Computed, Golden, _statistics
from personalive.testing.parity.networks import SIZES, network

SOURCES = ("ref_latents", "keyframe1_latents", "keyframe2_latents")
SHOWN_FRAMES = [0, 5, 15]


def _embedding(config: ModelConfig, seed: int) -> Tensor:
    return rule.normal_input("image_embeds", (1, 1, config.unet.cross_attention_dim), seed=seed)


def _banks(case: dict[str, Any], sources: tuple[str, ...]) -> list[tuple[Tensor, ...]]:
    """What the reference UNet returns for each of the latents."""
    config, seed = SIZES[case["size"]], case["seed"]
    unet = network("reference_unet", config, seed)
    assert isinstance(unet, ReferenceUNet)
    shape = (1, config.unet.latent_channels, *case["latent"])
    return [unet(rule.normal_input(name, shape, seed=seed), _embedding(config, seed)) for name in sources]


def block_names(config: ModelConfig) -> list[str]:
    """Published names of the spatial transformer blocks, in the order of banks."""
    with torch.device("meta"):
        unet = DenoisingUNet(config.unet)
    names = {module: name for name, module in unet.named_modules()}
    return [names[spatial.transformer_blocks[0]] for spatial in unet.spatial_transformers]


def reference_unet(case: dict[str, Any], golden: Golden, folder: Path) -> Computed:
    """Banks of the reference and of a keyframe. The network's own output is never computed."""
    config = SIZES[case["size"]]
    reference, keyframe = _banks(case, SOURCES[:2])
    computed: Computed = {}
    for name, bank, other in zip(block_names(config), reference, keyframe, strict=True):
        computed[f"bank:{name}"] = (bank, tolerances.BANKS)
        computed[f"keyframe1_bank:{name}"] = (other, tolerances.BANKS)
        computed[f"bank_sub:{name}"] = (bank[:, ::8, ::8], tolerances.BANKS)
        computed[f"bank_mean_std:{name}"] = (_statistics(bank[0], (0,)), tolerances.BANKS)
    return computed


def _features(banks: tuple[Tensor, ...], embedding: Tensor, rounded: bool) -> ReferenceFeatures:
    return ReferenceFeatures(embedding, (tuple(bank.half().float() if rounded else bank for bank in banks),))


def denoising_unet(case: dict[str, Any], golden: Golden, folder: Path) -> Computed:
    """Predictions with zero to two keyframes, with banks as they are and rounded to fp16, and intermediate maps."""
    config, seed = SIZES[case["size"]], case["seed"]
    sources = _banks(case, SOURCES)  # before the larger network is built: one at a time
    unet = network("denoising_unet", config, seed)
    assert isinstance(unet, DenoisingUNet)
    c, embedding = config.unet, _embedding(config, seed)
    steps = torch.from_numpy(golden["timesteps"])
    frames = len(steps)

    def folded(name: str, channels: int) -> Tensor:
        return rule.normal_input(name, (1, channels, frames, *case["latent"]), seed=seed)[0].transpose(0, 1)

    tokens = (1, frames, config.motion_encoder.tokens, c.motion_token_width)
    inputs = (
        folded("latents", c.latent_channels),
        steps,
        rule.normal_input("motion", tokens, 2.0, seed=seed)[0],
        folded("pose", c.block_channels[0]),
    )

    def predict(keyframes: int, rounded: bool) -> Tensor:
        features = _features(sources[0], embedding, rounded)
        for keyframe in sources[1 : 1 + keyframes]:
            features = features.with_keyframe(_features(keyframe, embedding, rounded))
        predicted: Tensor = unet(*inputs, features)
        return predicted.transpose(0, 1)[None]

    computed: Computed = {"timesteps": (steps, tolerances.EXACT)}
    variants = {"out": (0, False), "out_kv1": (1, False), "out_kv2": (2, False)}
    variants |= {"out_fp16bank": (0, True), "out_fp16bank_kv1": (1, True)}
    maps: dict[str, Tensor] = {}
    hooks = [
        stage.register_forward_hook(lambda module, given, output, name=name: maps.__setitem__(name, output))
        for name, stage in _last_layers(unet).items()
    ]
    for name, (keyframes, rounded) in variants.items():
        if name in golden:
            computed[name] = (predict(keyframes, rounded), tolerances.UNET)
        for hook in hooks:  # the maps are those of the first prediction, without keyframes
            hook.remove()
    for name, value in maps.items():
        shown = value[SHOWN_FRAMES].transpose(0, 1)[None]
        statistics = _statistics(value, (2, 3)).transpose(1, 2)
        computed[f"block_{name}_frames_0_5_15"] = (shown, tolerances.INNER_MAPS)
        computed[f"block_{name}_mean"] = (statistics[0][None], tolerances.INNER_MAPS)
        computed[f"block_{name}_std"] = (statistics[1][None], tolerances.INNER_MAPS)
    return computed


def _last_layers(unet: DenoisingUNet) -> dict[str, nn.Module]:
    """By the name of the first layer or a stage, the layer that the stage ends with."""
    last: dict[str, Any] = {"conv_in": unet.conv_in, "mid_block": unet.mid_block.resnets[1]}
    for kind, stages in (("down", unet.down_blocks), ("up", unet.up_blocks)):
        for index, stage in enumerate(stages):
            layers: Any = [*stage.temporal_modules, *getattr(stage, f"{kind}samplers")]
            last[f"{kind}_blocks.{index}"] = layers[-1]
    return last
