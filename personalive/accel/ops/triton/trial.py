"""Whether the kernels work on a device."""

from typing import Any

import torch
from torch import Tensor

from personalive.accel.ops.reference import Operations

EXACT = 1e-5
"""The largest relative error in fp32: products with fewer bits have a hundred times as much."""
GRN_MLP = ((2, 64, 96), (384, 96), (384,), (384,), (96, 384), (96,), (2, 64, 96))
"""Shapes of the arguments of `grn_mlp`."""


def run(fast: Operations, device: torch.device, dtype: torch.dtype, *, float8: bool, briefly: bool = False) -> None:
    """Run every kernel once, at the model's sizes, and compare. Products are left out: they are measured before use.

    Args:
        briefly: run only the first, as an earlier start has run them all.

    Raises:
        RuntimeError: a kernel's result is wrong.
    """
    plain = Operations()
    draw = torch.Generator(device).manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw, device=device).to(dtype)

    image = random(1, 320, 32, 32).to(memory_format=torch.channels_last)
    tokens, scale, bias = random(16, 4, 320), random(320), random(320)
    trials: list[tuple[str, tuple[Any, ...]]] = [
        ("group_norm", (image, 32, scale, bias, 1e-5)),
        ("group_norm", (image[:, :, :8, :8], 32, scale, bias, 1e-5)),
        ("layer_norm", (tokens, scale, bias, 1e-5)),
        ("add_layer_norm", (tokens, tokens, scale, bias, 1e-5)),
        ("geglu", (random(16, 4, 2560),)),
        ("add_bias", (image, image, bias)),
        ("scale_relu", (image, scale, bias)),
        ("frame_attention", (random(16, 4, 960), 8, 16)),
        ("token_attention", (random(2, 256, 16), random(2, 32, 16))),
        ("grn_mlp", tuple(torch.randn(s, generator=draw, device=device) for s in GRN_MLP)),
        ("append_bank", (random(4, 32, 960)[..., :320], random(2, 48, 320), 2)),
    ]
    if float8:
        trials.append(("geglu_float8", (random(64, 2560),)))
        trials.append(("add_scaled_", (random(64, 320), random(64, 320), random(64, 1).float())))
    for name, arguments in trials[:1] if briefly else trials:
        copies = [[a.clone() if isinstance(a, Tensor) else a for a in arguments] for _ in range(2)]
        results = getattr(fast, name)(*copies[0]), getattr(plain, name)(*map(_exact, copies[1]))
        pairs = zip(*(r if isinstance(r, tuple) else (r,) for r in results), strict=True)
        for actual, expected in pairs:
            error = ((actual.float() - expected.float()).norm() / expected.float().norm()).item()
            if not error < (EXACT if actual.dtype == torch.float32 else 0.03):
                raise RuntimeError(f"{name} is wrong by {error:.3%}")


def _exact(argument: Any) -> Any:
    """fp32 as fp64, as PyTorch may be set to multiply fp32 with fewer bits."""
    return argument.double() if isinstance(argument, Tensor) and argument.dtype == torch.float32 else argument
