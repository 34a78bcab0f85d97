"""Linear layers in fp8 (e4m3), for GPUs: matrix units multiply it twice as fast as fp16.

Inputs are loaded by TMA where there is one (see `products`), otherwise through pointers.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from personalive.accel.ops.reference import FLOAT8
from personalive.accel.ops.triton.pointwise import gelu
from personalive.accel.ops.triton.products import Tile, described, has_tma, load_rows, store_rows, tile_of_program


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
        part = load_rows(x, first, start, rows, depth, BLOCK_R, BLOCK_K, TMA)
        total = tl.dot(part, load_rows(weight, c, start, width, depth, BLOCK_C, BLOCK_K, TMA).T, total)
    columns = c + tl.arange(0, BLOCK_C)
    inside = columns < width
    total *= (tl.load(scale + columns, mask=inside, other=0.0) * x_scale)[None, :]
    store_rows(y, first, c, total, rows, width, BLOCK_R, BLOCK_C, TMA)


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
    tile = Tile(128, 128, 128, 4, 3) if depth >= 1024 else Tile(128, 128, 64, 4, 4)
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
        part = load_rows(x, first, start, rows, depth, BLOCK_R, BLOCK_K, TMA)
        value = tl.dot(part, load_rows(weight, c, start, 2 * width, depth, BLOCK_C, BLOCK_K, TMA).T, value)
        gate = tl.dot(part, load_rows(weight, width + c, start, 2 * width, depth, BLOCK_C, BLOCK_K, TMA).T, gate)
    columns = c + tl.arange(0, BLOCK_C)
    inside = columns < width
    value = value * tl.load(scale + columns, mask=inside)[None, :] + tl.load(bias + columns, mask=inside)[None, :]
    gate *= tl.load(scale + width + columns, mask=inside)[None, :]
    gate += tl.load(bias + width + columns, mask=inside)[None, :]
    store_rows(y, first, c, value * gelu(gate), rows, width, BLOCK_R, BLOCK_C, TMA)


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
    tile = Tile(128, 64, 128 if depth >= 1024 else 64, 4, 3)
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
        part = load_rows(x, first, start, rows, depth, BLOCK_R, BLOCK_K, TMA)
        total = tl.dot(part, load_rows(weight, c, start, width, depth, BLOCK_C, BLOCK_K, TMA).T, total)
    total *= tl.load(scale + columns, mask=inside, other=0.0)[None, :]
    for start in range(0, channels, HALF_K):
        part = load_rows(tokens, first, start, rows, channels, BLOCK_R, HALF_K, TMA)
        total = tl.dot(part, load_rows(proj, c, start, width, channels, BLOCK_C, HALF_K, TMA).T, total)
    total += tl.load(bias + columns, mask=inside, other=0.0).to(tl.float32)[None, :]
    total += load_rows(other, first, c, rows, width, BLOCK_R, BLOCK_C, TMA).to(tl.float32)
    store_rows(y, first, c, total, rows, width, BLOCK_R, BLOCK_C, TMA)


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
    tile, half = Tile(128, 64 if width % 128 else 128, 128, 4, 3), 64
    use_tma = has_tma(x) and depth % 16 == channels % 8 == width % 8 == 0
    _products_and_sum[(triton.cdiv(rows, tile.rows) * triton.cdiv(width, tile.columns),)](
        described(x, [tile.rows, tile.depth], use_tma), described(weight, [tile.columns, tile.depth], use_tma), scale,
        described(tokens, [tile.rows, half], use_tma), described(proj, [tile.columns, half], use_tma), bias,
        *(described(matrix, [tile.rows, tile.columns], use_tma) for matrix in (other, y)), rows, width, depth, channels,
        BLOCK_R=tile.rows, BLOCK_C=tile.columns, BLOCK_K=tile.depth, HALF_K=half, TMA=use_tma, **tile.options,
    )  # fmt: skip
    return y
