"""3×3 convolutions in fp8 (e4m3), or in fp16 with sums in fp16, for GPUs: as implicit products.

Pixels are loaded by TMA where there is one (see `products`), as blocks of the image, so borders cost nothing; otherwise
through pointers.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from personalive.accel.ops.triton.products import (
    Tile,
    add_product,
    described,
    has_tma,
    load_rows,
    tile_of_program,
)

HALF_SUM_TILES = {
    f"fp16 sums, {name}": tile._replace(half_sums=True)
    for name, tile in {
        "wide": Tile(128, 128, 64, 8, 3),
        "narrow": Tile(128, 64, 64, 4, 3),
        "small": Tile(64, 64, 64, 4, 4),
        "TMA, wide": Tile(128, 128, 64, 8, 3, use_tma=True),
        "TMA, tall": Tile(256, 64, 64, 8, 4, use_tma=True),
        "TMA, small": Tile(64, 128, 64, 4, 4, use_tma=True),
    }.items()
}
"""For `conv_half_sums`: which is the fastest depends on the layer."""


@triton.jit
def _pixels(
    image, n, top, left, start, height, width, depth,
    TALL: tl.constexpr, WIDE: tl.constexpr, BLOCK_K: tl.constexpr, TMA: tl.constexpr,
):  # fmt: skip
    """A block of pixels of one image of [n, height, width, depth], as rows. What is outside is 0."""
    if TMA:
        block = image.load([n, top, left, start]).reshape(TALL * WIDE, BLOCK_K)
    else:
        i = tl.arange(0, TALL * WIDE)
        y, x = top + i // WIDE, left + i % WIDE
        k = start + tl.arange(0, BLOCK_K)
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        place = image + ((n * height + y) * width + x).to(tl.int64)[:, None] * depth + k[None, :]
        block = tl.load(place, mask=inside[:, None] & (k < depth)[None, :], other=0.0)
    return block


@triton.jit(do_not_specialize=["height", "width"])
def _conv(
    x, weight, scale, x_scale, bias, other, y, height, width, channels, outs, SCALE: tl.constexpr, SUM: tl.constexpr,
    TALL: tl.constexpr, WIDE: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr,
    HALF: tl.constexpr, TMA: tl.constexpr,
):  # fmt: skip
    """TALL×WIDE pixels of a 3×3 convolution: one product after another, of the pixels moved by each of its taps.

    The result is multiplied by scale·x_scale if SCALE, and added to bias and other if SUM.
    """
    block, column = tile_of_program(outs, BLOCK_C)
    down, across = tl.cdiv(height, TALL), tl.cdiv(width, WIDE)
    n = block // (down * across)
    top = block // across % down * TALL
    left = block % across * WIDE
    first = column * BLOCK_C
    total = tl.zeros((TALL * WIDE, BLOCK_C), tl.float32)
    steps = tl.cdiv(channels, BLOCK_K)
    for step in range(9 * steps):
        tap, start = step // steps, step % steps * BLOCK_K
        down_by, right_by = tap // 3 - 1, tap % 3 - 1
        part = _pixels(
            x, n, top + down_by, left + right_by, start, height, width, channels, TALL, WIDE, BLOCK_K, TMA
        )  # fmt: skip
        # Beyond the last channel the pixels are 0, whatever the weights there are: those of the next tap.
        right = load_rows(weight, first, tap * channels + start, outs, 9 * channels, BLOCK_C, BLOCK_K, TMA)
        total = add_product(part, right.T, total, HALF)
    c = first + tl.arange(0, BLOCK_C)
    if SCALE:
        total *= (tl.load(scale + c, mask=c < outs, other=0.0) * x_scale)[None, :]
    if SUM:
        total += tl.load(bias + c, mask=c < outs, other=0.0).to(tl.float32)[None, :]
        part = _pixels(other, n, top, left, first, height, width, outs, TALL, WIDE, BLOCK_C, TMA)
        total += part.to(tl.float32)
    result = total.to(y.dtype if TMA else y.dtype.element_ty)
    if TMA:
        y.store([n, top, left, first], result.reshape(1, TALL, WIDE, BLOCK_C))
    else:
        i = tl.arange(0, TALL * WIDE)
        row, pixel = top + i // WIDE, left + i % WIDE
        place = ((n * height + row) * width + pixel).to(tl.int64)[:, None] * outs + c[None, :]
        tl.store(y + place, result, mask=((row < height) & (pixel < width))[:, None] & (c < outs)[None, :])


def conv_float8(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    x_scale: float,
    dtype: torch.dtype,
    *,
    bias: Tensor | None = None,
    other: Tensor | None = None,
) -> Tensor:
    """A 3×3 convolution of an fp8 image, times `scale` and `x_scale`, plus `bias` and `other` if given.

    Args:
        x: `[n, i, h, w]`, channels last in memory, as are `weight` and `other`.
        weight: `[o, i, 3, 3]`.
        scale: `[o]`, fp32.
        dtype: of the result.
        bias: `[o]`; with `other` only.
        other: `[n, o, h, w]`.

    Returns:
        `[n, o, h, w]`, channels last.
    """
    n, channels, height, width = x.shape
    outs = weight.shape[0]
    y = torch.empty((n, outs, height, width), dtype=dtype, device=x.device, memory_format=torch.channels_last)
    tile = _float8_tile(channels, outs, height * width)
    _launch(x, weight, (scale, x_scale), bias, other, y, tile._replace(use_tma=_fits_tma(x, outs)))
    return y


def conv_half_sums(x: Tensor, weight: Tensor, *, tile: Tile) -> Tensor:
    """A 3×3 convolution of an fp16 image, with sums in fp16 if the tile says so.

    Args:
        x: `[n, i, h, w]`, channels last in memory.
        weight: `[o, i, 3, 3]`, likewise.
        tile: one of `HALF_SUM_TILES`.

    Returns:
        `[n, o, h, w]`, channels last.

    Raises:
        RuntimeError: the tile is for TMA, which the GPU, Triton or the number of channels does not allow.
    """
    n, _, height, width = x.shape
    outs = weight.shape[0]
    if tile.use_tma and not _fits_tma(x, outs):
        raise RuntimeError(f"TMA cannot load this convolution of {x.shape[1]} to {outs} channels")
    y = torch.empty((n, outs, height, width), dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    _launch(x, weight, None, None, None, y, tile)
    return y


def _fits_tma(x: Tensor, outs: int) -> bool:
    """Whether TMA loads such an image and stores the result: their pixels must begin at multiples of 16 bytes."""
    return has_tma(x) and x.shape[1] * x.element_size() % 16 == outs % 8 == 0


def _launch(
    x: Tensor,
    weight: Tensor,
    scales: tuple[Tensor, float] | None,
    bias: Tensor | None,
    other: Tensor | None,
    y: Tensor,
    tile: Tile,
) -> None:
    """Write a convolution, times both scales, plus bias and `other` if these are given, into `y`."""
    n, channels, height, width = x.shape
    outs = weight.shape[0]
    x, weight, added = (
        image.contiguous(memory_format=torch.channels_last) for image in (x, weight, y if other is None else other)
    )
    images = [image.permute(0, 2, 3, 1) for image in (x, added, y)]
    wide = 16 if width > 8 else 8
    tall = tile.rows // wide
    pixels, others, results = (
        described(image, [1, tall, wide, depth], tile.use_tma)
        for image, depth in zip(images, (tile.depth, tile.columns, tile.columns), strict=True)
    )
    weights = described(
        weight.permute(0, 2, 3, 1).reshape(outs, 9 * channels), [tile.columns, tile.depth], tile.use_tma
    )
    scale, x_scale = scales or (weight, 1.0)
    _conv[(n * triton.cdiv(height, tall) * triton.cdiv(width, wide) * triton.cdiv(outs, tile.columns),)](
        pixels, weights, scale, x_scale, weight if bias is None else bias, others, results,
        height, width, channels, outs, SCALE=scales is not None, SUM=other is not None,
        TALL=tall, WIDE=wide, BLOCK_C=tile.columns, BLOCK_K=tile.depth, HALF=tile.half_sums, TMA=tile.use_tma,
        **tile.options,
    )  # fmt: skip


def _float8_tile(channels: int, outs: int, pixels: int) -> Tile:
    """The fastest for the model's sizes on an H100 (docs/kernels.md)."""
    if pixels <= 64:
        return Tile(64, 128, 128, 4, 4)
    if outs % 128:
        return Tile(256, 64, 128, 8, 3) if channels % 128 == 0 else Tile(256, 64, 64, 8, 4)
    return Tile(128, 128, 128, 8, 3)
