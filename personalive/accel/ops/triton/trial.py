"""Whether the kernels work on a device."""

import functools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor

from personalive.accel.ops.reference import FLOAT8, Operations, to_float8
from personalive.accel.ops.triton import convolution, products

EXACT = 1e-5
"""The largest relative error in fp32: products with fewer bits have a hundred times as much."""
GRN_MLP = ((2, 64, 96), (384, 96), (384,), (384,), (96, 384), (96,), (2, 64, 96))
"""Shapes of the arguments of `grn_mlp`."""
AT_ONCE = 8
"""Kernels that are compiled side by side on the host of a GPU."""
SMALL_IMAGES = ((1280, 8), (2560, 8), (640, 16), (1280, 16), (1920, 16), (2560, 16), (320, 32), (640, 32))
LARGE_IMAGES = ((320, 48), (640, 36), (960, 36), (1280, 36), (1920, 36), (128, 96), (256, 72), (512, 48))
"""Channels and side of images for which GroupNorm is compiled: what the model has at 512×512, but instead of the
largest images, smaller ones that are the same to the compiler."""
CHANNELS = (320, 640, 1280)
"""Of tokens."""


class Trial(NamedTuple):
    """A call of one operation, by its name, or of several, by a function that takes the operations first."""

    name: str | Callable[..., Any]
    arguments: tuple[Any, ...]
    options: dict[str, Any] = {}  # noqa: RUF012  nobody writes to it

    def call(self, operations: Operations) -> Callable[..., Any]:
        """What takes the arguments and options."""
        if isinstance(self.name, str):
            function: Callable[..., Any] = getattr(operations, self.name)
            return function
        return functools.partial(self.name, operations)


def run(
    fast: Operations,
    device: torch.device,
    dtype: torch.dtype,
    *,
    float8: bool,
    half_sums: bool = False,
    briefly: bool = False,
) -> None:
    """Run every kernel at the model's sizes, and compare.

    Products are only compiled, as they are measured before use. Compiling takes most of the time, so several are
    compiled side by side; what is compiled here is ready when the networks need it.

    Args:
        briefly: run only the first, as an earlier start has run them all.

    Raises:
        RuntimeError: a kernel's result is wrong.
    """
    draw = torch.Generator(device).manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw, device=device).to(dtype)

    trials = _trials(random, float8=float8)
    first = next(trials)
    _compare(fast, first)  # alone: it loads the compiler and the driver
    if briefly:
        return
    others = list(trials)
    calls: list[Callable[[], Any]] = [
        functools.partial(trial.call(fast), *trial.arguments, **trial.options) for trial in others
    ]
    with ThreadPoolExecutor(AT_ONCE if device.type == "cuda" else 1, thread_name_prefix="trials") as threads:
        for call in (*calls, *_products(device, random, half_sums=half_sums)):
            threads.submit(_compile, device, call)
    # In this thread: every thread that multiplies with PyTorch keeps memory for that.
    for trial in others:
        _compare(fast, trial)
    del trial, others, calls
    if device.type == "cuda":
        torch.cuda.empty_cache()  # so that weights have the memory


def _trials(random: Callable[..., Tensor], *, float8: bool) -> Iterator[Trial]:
    image, scale, bias = _image(random, 320, 32), random(320), random(320)
    exact = [random(*shape).float() for shape in GRN_MLP]
    yield Trial("geglu", (random(16, 4, 2560),))
    yield Trial("scale_relu", (image, scale, bias))
    for channels in CHANNELS:
        yield Trial("frame_attention", (random(16, 4, 3 * channels), 8, 16))
    yield Trial("token_attention", (random(2, 256, 16), random(2, 32, 16)))
    yield Trial("grn_mlp", tuple(exact))
    yield Trial("attend_bank", (random(2, 64, 3, 8, 40), random(1, 128, 8, 40), random(1, 128, 8, 40)))
    for channels, side in (*LARGE_IMAGES, *SMALL_IMAGES):
        yield from _group_norms(random, channels, side, float8=float8)
    for channels in CHANNELS:
        yield from _layer_norms(random, channels, float8=float8)
    if float8:
        narrow, wide, hidden = (to_float8(random(*shape)) for shape in ((256, 320), (2560, 320), (256, 1280)))
        taps = to_float8(random(320, 320, 3, 3)).contiguous(memory_format=torch.channels_last)
        ones, rows = torch.ones(2560, device=image.device), random(256, 320)
        projections = to_float8(random(320, 1280)), ones[:320], rows, random(320, 320)
        yield Trial("conv_float8", (to_float8(image), taps, ones[:320], 1.0, image.dtype))
        yield Trial("linear_float8", (narrow, wide, ones, 1.0, image.dtype))
        yield Trial("gated_linear_float8", (narrow, wide, ones / 400, ones))
        yield Trial("linears_add_float8", (hidden, *projections, bias, rows))


def _image(random: Callable[..., Tensor], channels: int, side: int) -> Tensor:
    return random(1, channels, side, side).contiguous(memory_format=torch.channels_last)


def _group_norms(random: Callable[..., Tensor], channels: int, side: int, *, float8: bool) -> Iterator[Trial]:
    """As in a resnet block, first and second, and as in a transformer."""
    image = _image(random, channels, side)
    arguments = image, 32, random(channels), random(channels), 1e-5
    shift = random(1, channels)
    yield Trial(_norm_of_sum, (image.flip(1), random(channels), *arguments))
    if float8:
        yield Trial("group_norm_float8", (*arguments, 0.02))
        yield Trial("group_norm_float8", (*arguments, 0.02), {"shift": shift})
    else:
        yield Trial("group_norm", arguments, {"silu": True})
        yield Trial("group_norm", arguments, {"silu": True, "shift": shift})
    yield Trial("group_norm", arguments)


def _norm_of_sum(
    operations: Operations, branch: Tensor, added: Tensor, image: Tensor, *arguments: Any
) -> tuple[Tensor, Tensor]:
    """The sum at the end of a resnet block, and the norm after it, which is told its sums."""
    total, sums = operations.add_bias_sums(image, branch, added)
    return total, operations.group_norm(total, *arguments, sums=sums)


def _layer_norms(random: Callable[..., Tensor], channels: int, *, float8: bool) -> Iterator[Trial]:
    """As in the transformers: at their beginning, over frames, and before a feed-forward."""
    tokens, weight, bias = random(16, 4, channels), random(channels), random(channels)
    by_frame = random(16, channels)
    yield Trial("layer_norm", (tokens, weight, bias, 1e-5))
    yield Trial("layer_norm", (tokens, weight, by_frame, 1e-5))
    yield Trial("add_layer_norm", (tokens, tokens, weight, bias, 1e-5))
    yield Trial("add_layer_norm", (tokens, tokens, weight, by_frame, 1e-5))
    yield Trial("add_layer_norm", (tokens, tokens, weight, bias, 1e-5), {"add": random(1, channels)})
    if float8:
        options: dict[str, Any] = {"dtype": FLOAT8}
        wide = weight.float(), bias.float(), 1e-5
        yield Trial("layer_norm", (tokens, *wide), options)
        yield Trial("add_layer_norm", (tokens, tokens, *wide), options)
        yield Trial("add_layer_norm", (tokens, tokens, *wide), {"add": random(1, channels), **options})


def _products(device: torch.device, random: Callable[..., Tensor], *, half_sums: bool) -> Iterator[Callable[[], Any]]:
    """A small product, and with `half_sums` a small convolution, by each tile that is worth trying."""
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)
    gates, sums, halves, blocks = (
        products.worth_trying(tiles, capability).values()
        for tiles in (products.TILES, products.SUM_TILES, products.HALF_SUM_TILES, convolution.HALF_SUM_TILES)
    )
    x = random(256, products.DEPTH)

    def with_weight(product: Callable[..., Tensor], width: int, *rest: Any, tile: products.Tile) -> Callable[[], Any]:
        return functools.partial(product, x, random(width, products.DEPTH), *rest, tile=tile)

    for tile in (*gates, *(halves if half_sums else ())):
        width = 2 * tile.columns
        yield with_weight(products.gated_linear, width, random(width), tile=tile)
    for tile in (*sums, *(halves if half_sums else ())):
        width = tile.columns
        yield with_weight(products.linear_add, width, random(width), random(256, width), tile=tile)
    for tile in halves if half_sums else ():
        width = tile.columns
        yield with_weight(products.linear_add, width, None, random(256, width), tile=tile)
        yield with_weight(products.linear, width, tile=tile)
        yield with_weight(products.linear, width, random(width), tile=tile)
    for tile in blocks if half_sums else ():
        taps = random(320, 320, 3, 3).contiguous(memory_format=torch.channels_last)
        yield functools.partial(convolution.conv_half_sums, _image(random, 320, 32), taps, tile=tile)


def _compile(device: torch.device, call: Callable[[], Any]) -> None:
    """Have a kernel ready; one that does not work here fails again when it is compared or measured."""
    with suppress(Exception), torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        call()


def _compare(fast: Operations, trial: Trial) -> None:
    exactly = [_exact(argument) for argument in trial.arguments]
    options = {name: _exact(option) for name, option in trial.options.items()}
    results = trial.call(fast)(*trial.arguments, **trial.options)
    expectations = trial.call(Operations())(*exactly, **options)
    pairs = [results, expectations] if isinstance(results, tuple) else [(results,), (expectations,)]
    for actual, expected in zip(*pairs, strict=True):
        error = ((actual.float() - expected.float()).norm() / expected.float().norm()).item()
        if not error < (EXACT if actual.dtype == torch.float32 else 0.03):
            name = trial.name if isinstance(trial.name, str) else trial.name.__name__
            raise RuntimeError(f"{name} is wrong by {error:.3%}")


def _exact(argument: Any) -> Any:
    """fp32 as fp64, as PyTorch may be set to multiply fp32 with fewer bits."""
    return argument.double() if isinstance(argument, Tensor) and argument.dtype == torch.float32 else argument
