"""Convolutions and linear layers in fp8 (e4m3), for GPUs: matrix units multiply it twice as fast as fp16.

Inputs are loaded by TMA where there is one (see `products`), otherwise through pointers.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from personalive.accel.ops.reference import FLOAT8
from personalive.accel.ops.triton.pointwise import gelu
from personalive.accel.ops.triton.products import described, has_tma, tile_of_program


class _Tile(NamedTuple):
    """What one program computes, and how."""

    rows: int
    columns: int
    depth: int
    """Inputs that are multiplied at a time."""
    warps: int
    stages: int
    """How many steps ahead it loads."""

    @property
    def options(self) -> dict[str, int]:
        return {"num_warps": self.warps, "num_stages": self.stages}


@triton.jit
def _rows(matrix, first, start, rows, depth, BLOCK_R: tl.constexpr, BLOCK_K: tl.constexpr, TMA: tl.constexpr):
    """A block of a matrix [rows, depth]. What is outside is 0, or, in rows, anything."""
    if TMA:
        block = matrix.load([first, start])
    else:
        r = (first + tl.arange(0, BLOCK_R)) % rows
        k = start + tl.arange(0, BLOCK_K)
        block = tl.load(matrix + r.to(tl.int64)[:, None] * depth + k[None, :], mask=(k < depth)[None, :], other=0.0)
    return block


@triton.jit
def _store_rows(
    matrix, first, start, block, rows, depth, BLOCK_R: tl.constexpr, BLOCK_K: tl.constexpr, TMA: tl.constexpr
):
    """The inverse of `_rows`. What is outside is not written."""
    if TMA:
        matrix.store([first, start], block)
    else:
        r, k = first + tl.arange(0, BLOCK_R), start + tl.arange(0, BLOCK_K)
        place = matrix + r.to(tl.int64)[:, None] * depth + k[None, :]
        tl.store(place, block, mask=(r < rows)[:, None] & (k < depth)[None, :])


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
    x, weight, scale, x_scale, bias, other, y, height, width, channels, outs,
    SUM: tl.constexpr, TALL: tl.constexpr, WIDE: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr,
    TMA: tl.constexpr,
):  # fmt: skip
    """TALL×WIDE pixels of a 3×3 convolution: one product after another, of the pixels moved by each of its taps."""
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
        right = _rows(weight, first, tap * channels + start, outs, 9 * channels, BLOCK_C, BLOCK_K, TMA)
        total = tl.dot(part, right.T, total)
    c = first + tl.arange(0, BLOCK_C)
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
    added = y if other is None else other.contiguous(memory_format=torch.channels_last)
    images = [image.permute(0, 2, 3, 1) for image in (x, added, y)]
    tile = _conv_tile(channels, outs, height * width)
    wide = 16 if width > 8 else 8
    tall = tile.rows // wide
    use_tma = has_tma(x) and channels % 16 == outs % 8 == 0
    pixels, others, results = (
        described(image, [1, tall, wide, depth], use_tma)
        for image, depth in zip(images, (tile.depth, tile.columns, tile.columns), strict=True)
    )
    weights = weight.permute(0, 2, 3, 1).reshape(outs, 9 * channels)
    _conv[(n * triton.cdiv(height, tall) * triton.cdiv(width, wide) * triton.cdiv(outs, tile.columns),)](
        pixels, described(weights, [tile.columns, tile.depth], use_tma), scale, x_scale,
        scale if bias is None else bias, others, results, height, width, channels, outs,
        SUM=other is not None, TALL=tall, WIDE=wide, BLOCK_C=tile.columns, BLOCK_K=tile.depth, TMA=use_tma,
        **tile.options,
    )  # fmt: skip
    return y


def _conv_tile(channels: int, outs: int, pixels: int) -> _Tile:
    """The fastest for the model's sizes on an H100 (docs/kernels.md)."""
    if pixels <= 64:
        return _Tile(64, 128, 128, 4, 4)
    if outs % 128:
        return _Tile(256, 64, 128, 8, 3) if channels % 128 == 0 else _Tile(256, 64, 64, 8, 4)
    return _Tile(128, 128, 128, 8, 3)


@triton.jit
def _linear(
    x, weight, scale, x_scale, y, rows, width, depth,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr, TMA: tl.constexpr,
):  # fmt: skip
    """One tile of x·weights * scale."""
    row, column = tile_of_program(width, BLOCK_C)
    first, c = row * BLOCK_R, column * BLOCK_C
    total = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    for start in range(0, depth, BLOCK_K):
        part = _rows(x, first, start, rows, depth, BLOCK_R, BLOCK_K, TMA)
        total = tl.dot(part, _rows(weight, c, start, width, depth, BLOCK_C, BLOCK_K, TMA).T, total)
    columns = c + tl.arange(0, BLOCK_C)
    inside = columns < width
    total *= (tl.load(scale + columns, mask=inside, other=0.0) * x_scale)[None, :]
    _store_rows(y, first, c, total.to(y.dtype if TMA else y.dtype.element_ty), rows, width, BLOCK_R, BLOCK_C, TMA)


def linear_float8(x: Tensor, weight: Tensor, scale: Tensor, x_scale: float, dtype: torch.dtype) -> Tensor:
    """`x·weightᵀ * scale * x_scale`.

    Args:
        x: `[..., i]` in fp8.
        weight: `[o, i]` in fp8, and its scale, fp32 `[o]`.
        dtype: of the result.

    Returns:
        `[..., o]`.
    """
    width, depth = weight.shape
    rows = x.numel() // depth
    y = torch.empty((*x.shape[:-1], width), dtype=dtype, device=x.device)
    tile = _Tile(128, 128, 128, 4, 3) if depth >= 1024 else _Tile(128, 128, 64, 4, 4)
    use_tma = has_tma(x) and depth % 16 == width % 8 == 0
    matrices = x.contiguous().view(rows, depth), y.view(rows, width)
    inputs, outputs = (
        described(matrix, [tile.rows, columns], use_tma)
        for matrix, columns in zip(matrices, (tile.depth, tile.columns), strict=True)
    )
    _linear[(triton.cdiv(rows, tile.rows) * triton.cdiv(width, tile.columns),)](
        inputs, described(weight, [tile.columns, tile.depth], use_tma), scale, x_scale, outputs, rows, width, depth,
        BLOCK_R=tile.rows, BLOCK_C=tile.columns, BLOCK_K=tile.depth, TMA=use_tma, **tile.options,
    )  # fmt: skip
    return y


@triton.jit
def _gated(
    x, weight, scale, bias, y, rows, width, depth,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr, TMA: tl.constexpr,
):  # fmt: skip
    """One tile of the values times GELU of the gates; the values' weights come first."""
    row, column = tile_of_program(width, BLOCK_C)
    first, c = row * BLOCK_R, column * BLOCK_C
    value = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    gate = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    for start in range(0, depth, BLOCK_K):
        part = _rows(x, first, start, rows, depth, BLOCK_R, BLOCK_K, TMA)
        value = tl.dot(part, _rows(weight, c, start, 2 * width, depth, BLOCK_C, BLOCK_K, TMA).T, value)
        gate = tl.dot(part, _rows(weight, width + c, start, 2 * width, depth, BLOCK_C, BLOCK_K, TMA).T, gate)
    columns = c + tl.arange(0, BLOCK_C)
    inside = columns < width
    value = value * tl.load(scale + columns, mask=inside)[None, :] + tl.load(bias + columns, mask=inside)[None, :]
    gate *= tl.load(scale + width + columns, mask=inside)[None, :]
    gate += tl.load(bias + width + columns, mask=inside)[None, :]
    result = (value * gelu(gate)).to(y.dtype if TMA else y.dtype.element_ty)
    _store_rows(y, first, c, result, rows, width, BLOCK_R, BLOCK_C, TMA)


def gated_linear_float8(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """`geglu(x·weightᵀ * scale + bias)` in fp8.

    Args:
        x: `[r, i]` in fp8.
        weight: `[2c, i]` in fp8: of the values, then of the gates. Scale and bias are fp32 `[2c]`.

    Returns:
        `[r, c]`.
    """
    rows, depth = x.shape
    width = weight.shape[0] // 2
    y = torch.empty((rows, width), dtype=FLOAT8, device=x.device)
    tile = _Tile(128, 64, 128 if depth >= 1024 else 64, 4, 3)
    use_tma = has_tma(x) and depth % 16 == width % 16 == 0
    _gated[(triton.cdiv(rows, tile.rows) * triton.cdiv(width, tile.columns),)](
        described(x, [tile.rows, tile.depth], use_tma), described(weight, [tile.columns, tile.depth], use_tma),
        scale, bias, described(y, [tile.rows, tile.columns], use_tma), rows, width, depth,
        BLOCK_R=tile.rows, BLOCK_C=tile.columns, BLOCK_K=tile.depth, TMA=use_tma, **tile.options,
    )  # fmt: skip
    return y


@triton.jit
def _products_and_sum(
    x, weight, scale, tokens, proj, bias, other, y, rows, width, depth, channels,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr, HALF_K: tl.constexpr, TMA: tl.constexpr,
):  # fmt: skip
    """One tile of x·weights * scale + tokens·projection + bias + other."""
    row, column = tile_of_program(width, BLOCK_C)
    first, c = row * BLOCK_R, column * BLOCK_C
    columns = c + tl.arange(0, BLOCK_C)
    inside = columns < width
    total = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    for start in range(0, depth, BLOCK_K):
        part = _rows(x, first, start, rows, depth, BLOCK_R, BLOCK_K, TMA)
        total = tl.dot(part, _rows(weight, c, start, width, depth, BLOCK_C, BLOCK_K, TMA).T, total)
    total *= tl.load(scale + columns, mask=inside, other=0.0)[None, :]
    for start in range(0, channels, HALF_K):
        part = _rows(tokens, first, start, rows, channels, BLOCK_R, HALF_K, TMA)
        total = tl.dot(part, _rows(proj, c, start, width, channels, BLOCK_C, HALF_K, TMA).T, total)
    total += tl.load(bias + columns, mask=inside, other=0.0).to(tl.float32)[None, :]
    total += _rows(other, first, c, rows, width, BLOCK_R, BLOCK_C, TMA).to(tl.float32)
    result = total.to(y.dtype if TMA else y.dtype.element_ty)
    _store_rows(y, first, c, result, rows, width, BLOCK_R, BLOCK_C, TMA)


def linears_add_float8(
    x: Tensor, weight: Tensor, scale: Tensor, tokens: Tensor, proj: Tensor, bias: Tensor, other: Tensor
) -> Tensor:
    """`x·weightᵀ * scale + tokens·projᵀ + bias + other` in one pass.

    Args:
        x: `[r, i]` in fp8.
        weight: `[o, i]` in fp8, and its scale, fp32 `[o]`.
        tokens: `[r, c]`.
        proj: `[o, c]`, and its bias `[o]`.
        other: `[r, o]`.

    Returns:
        `[r, o]`.
    """
    (rows, depth), (width, channels) = x.shape, proj.shape
    tokens, proj, other = tokens.contiguous(), proj.contiguous(), other.contiguous()
    y = torch.empty_like(other)
    tile, half = _Tile(128, 64 if width % 128 else 128, 128, 4, 3), 64
    use_tma = has_tma(x) and depth % 16 == channels % 8 == width % 8 == 0
    _products_and_sum[(triton.cdiv(rows, tile.rows) * triton.cdiv(width, tile.columns),)](
        described(x, [tile.rows, tile.depth], use_tma), described(weight, [tile.columns, tile.depth], use_tma), scale,
        described(tokens, [tile.rows, half], use_tma), described(proj, [tile.columns, half], use_tma), bias,
        *(described(matrix, [tile.rows, tile.columns], use_tma) for matrix in (other, y)), rows, width, depth, channels,
        BLOCK_R=tile.rows, BLOCK_C=tile.columns, BLOCK_K=tile.depth, HALF_K=half, TMA=use_tma, **tile.options,
    )  # fmt: skip
    return y
