"""How far sums in fp16 (`--accumulate fp16`) move each network and the pictures, and what they take, on one GPU.

    python -m benchmarks.half_sums ../shared/reference --output benchmarks/results/half_sums.json

Every product and convolution that has a kernel for it is made to use it, faster or not, so this is the largest error.
Relative L2 distances: of both UNets from their goldens of the published size, of the decoder from fp32 at 512×512, and
of the pictures of the live goldens.
"""

import argparse
import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu_model import GPU, Animation, build, spread
from benchmarks.measuring import Results, wall_milliseconds
from benchmarks.precision import errors, frames_of, golden_rows
from personalive import models
from personalive.accel.accelerator import AcceleratedNetworks, Accelerator
from personalive.accel.ops.reference import Operations
from personalive.accel.ops.triton import convolution, products
from personalive.config import CHUNK, ModelConfig
from personalive.testing import weight_rule as rule
from personalive.testing.parity.end_to_end import EndToEnd
from personalive.testing.parity.networks import network
from personalive.testing.parity.unets import SOURCES, block_names

CASES = ("e2e/online_6.npz", "e2e/online_18_keyframes.npz")
LATENT = (16, 16)
"""Height and width of the UNets' goldens."""


class HalfSums(Accelerator):
    """Sums in fp16 wherever there is a kernel for them, on GPUs with TMA."""

    def __init__(self, device: torch.device, dtype: torch.dtype, **choices: Any) -> None:
        super().__init__(device, dtype, accumulate="fp16", **choices)

    @property
    def image_operations(self) -> Operations:
        exact = self.operations
        linear_tile = products.HALF_SUM_TILES["fp16 sums, TMA, narrow"]
        conv_tile = convolution.HALF_SUM_TILES["fp16 sums, TMA, tall"]

        def whole(kernel: Callable[..., Tensor], plain: Callable[..., Tensor]) -> Callable[..., Tensor]:
            def run(x: Tensor, weight: Tensor, *rest: Tensor) -> Tensor:
                try:
                    return kernel(x, weight, *rest, tile=linear_tile)
                except ValueError:  # not a whole number of tiles
                    return plain(x, weight, *rest)

            return run

        def add_linear_(total: Tensor, x: Tensor, weight: Tensor) -> None:
            try:
                products.add_linear_(total, x, weight, linear_tile)
            except ValueError:  # likewise
                exact.add_linear_(total, x, weight)

        return replace(
            exact,
            linear=whole(products.linear, exact.linear),
            gated_linear=whole(products.gated_linear, exact.gated_linear),
            linear_add=whole(products.linear_add, exact.linear_add),
            add_linear_=add_linear_,
            conv3x3=partial(convolution.conv_half_sums, tile=conv_tile),
        )


RUNS: dict[str, Callable[..., Accelerator]] = {
    "fp16": Accelerator,
    "fp16 sums": HalfSums,
    "fp16 sums where they were measured to be faster": partial(Accelerator, accumulate="fp16"),
}


def distance(found: Tensor, exact: Any) -> float:
    """Relative, L2."""
    expected = torch.as_tensor(exact).double().cpu()
    return float((found.double().cpu() - expected).norm() / expected.norm())


class Networks:
    """The published sizes, filled by the tests' rule."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.config = folder, ModelConfig()
        self.plain = {name: network(name, self.config, 0) for name in models.NETWORKS}

    def latents(self, name: str, count: int = 1, size: tuple[int, int] = LATENT) -> Tensor:
        """Inputs of the goldens."""
        return rule.normal_input(name, (count, 4, *size), seed=0)

    @torch.inference_mode()
    def errors(self, accelerator: Accelerator) -> dict[str, float]:
        """Of each network, by its name."""
        ready = {name: models.cast(copy.deepcopy(net), torch.float16).to(GPU) for name, net in self.plain.items()}
        accelerated = AcceleratedNetworks(self.config, ready, accelerator)
        embedding = rule.normal_input("image_embeds", (1, 1, self.config.unet.cross_attention_dim), seed=0)
        embedding = embedding.to(GPU, torch.float16)
        reference = accelerated.encode_reference(self.latents(SOURCES[0]), embedding)
        unet: Any = accelerated.modules["reference_unet"]
        half = self.latents(SOURCES[0]).to(GPU, torch.float16)
        golden = np.load(self.folder / "unets/full_16x16_reference_banks_sub.npz")
        banks = [
            distance(bank[:, ::8, ::8], golden[f"bank_sub:{name}"])
            for name, bank in zip(block_names(self.config), unet(half, embedding), strict=True)
        ]
        golden = np.load(self.folder / "unets/full_16x16_denoising.npz")
        steps = tuple(golden["timesteps"].tolist())
        frames, tokens, width = len(steps), self.config.motion_encoder.tokens, self.config.unet.motion_token_width

        def folded(name: str, channels: int) -> Tensor:
            return rule.normal_input(name, (1, channels, frames, *LATENT), seed=0)[0].transpose(0, 1).contiguous()

        predicted = accelerated.denoise(
            folded("latents", 4),
            steps,
            rule.normal_input("motion", (1, frames, tokens, width), 2.0, seed=0)[0].to(GPU, torch.float16),
            folded("pose", self.config.unet.block_channels[0]).to(GPU, torch.float16),
            reference,
        )
        latents = self.latents("decoded", CHUNK, (64, 64)) * self.config.vae.scaling_factor
        vae: Any = copy.deepcopy(self.plain["vae"]).to(GPU)
        exact = (vae.decode(latents.to(GPU) / self.config.vae.scaling_factor) / 2 + 0.5).clamp(0, 1)
        return {
            "reference UNet, the worst bank": max(banks),
            "denoising UNet": distance(predicted.transpose(0, 1)[None], golden["out"]),
            "decoder": distance(accelerated.decode(latents), exact),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/half_sums.json"))
    options = parser.parse_args()
    results = Results(options.output)
    for name, accelerator in RUNS.items():
        with results.attempt(f"pictures, {name}"):
            whole = EndToEnd("cuda", torch.float16, accelerator)
            for case in CASES:
                frames, _ = frames_of(whole, case, options.folder)
                found = errors(frames, golden_rows(options.folder, case))
                results.add(f"{case}, {name}", {key: found[key] for key in ("mean", "largest")})
    for name, accelerator in RUNS.items():
        with results.attempt(f"call, {name}"):
            animation = Animation(build(ModelConfig(), torch.float16, accelerator(GPU, torch.float16)), 512)
            for _ in range(3):
                animation.push()
            results.add(f"call at 512×512, {name}", spread(wall_milliseconds(animation.push, 10)))
            del animation
            torch.cuda.empty_cache()
    networks = Networks(options.folder)
    for name, accelerator in RUNS.items():
        with results.attempt(f"networks, {name}"):
            results.add(f"networks, {name}", networks.errors(accelerator(GPU, torch.float16)))


if __name__ == "__main__":
    main()
