"""Pointwise steps that PyTorch would run as several passes over memory, for GPUs."""

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def gelu(x):
    """GELU by the normal distribution, of fp32: x⁺ − |x|·Q(|x|), where Q is the distribution's upper tail.

    Q as in Abramowitz and Stegun, 26.2.17, which is within 7.5e-8: half as many operations as the error
    function takes. For infinity the result is NaN.
    """
    size = tl.abs(x)
    t = 1.0 / (1.0 + 0.2316419 * size)
    series = t * (0.127414796 + t * (-0.142248368 + t * (0.710706871 + t * (-0.726576013 + t * 0.530702714))))
    return tl.maximum(x, 0.0) - size * series * tl.exp2(-0.7213475204444817 * x * x)


@triton.jit
def _geglu(x, y, rows, width, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr):
    r = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    mask = (r < rows)[:, None] & (c < width)[None, :]
    place = r[:, None] * (2 * width) + c[None, :]
    value = tl.load(x + place, mask=mask, other=0.0).to(tl.float32)
    gate = tl.load(x + place + width, mask=mask, other=0.0).to(tl.float32)
    result = value * gelu(gate)
    tl.store(y + r[:, None] * width + c[None, :], result.to(y.dtype.element_ty), mask=mask)


def geglu(x: Tensor) -> Tensor:
    """First half of the last axis times GELU (erf) of the second half: `[..., 2c]` to `[..., c]`."""
    x = x.contiguous()
    width = x.shape[-1] // 2
    rows = x.numel() // (2 * width)
    y = torch.empty((*x.shape[:-1], width), dtype=x.dtype, device=x.device)
    tile_c = 256 if width % 256 == 0 else 64
    tile_r = 2048 // tile_c
    # Rows come first, as only the first axis of a grid may exceed 65,535 programs.
    _geglu[(triton.cdiv(rows, tile_r), triton.cdiv(width, tile_c))](
        x, y, rows, width, BLOCK_R=tile_r, BLOCK_C=tile_c, num_warps=4
    )
    return y


@triton.jit(do_not_specialize=["rows"])
def _scale_relu(x, scale, bias, y, rows, channels, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr):
    r = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = c < channels
    mask = (r < rows)[:, None] & inside[None, :]
    place = r[:, None] * channels + c[None, :]
    value = tl.load(x + place, mask=mask, other=0.0).to(tl.float32)
    value *= tl.load(scale + c, mask=inside, other=0.0).to(tl.float32)[None, :]
    value += tl.load(bias + c, mask=inside, other=0.0).to(tl.float32)[None, :]
    tl.store(y + place, tl.maximum(value, 0.0).to(y.dtype.element_ty), mask=mask)


def scale_relu(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """`relu(x * scale + bias)` of images `[n, c, h, w]`, channels last in memory; scale and bias are `[c]`."""
    x = x.contiguous(memory_format=torch.channels_last)
    n, channels, height, width = x.shape
    rows = n * height * width
    y = torch.empty_like(x)
    tile_c = next((tile for tile in (128, 64, 32) if channels % tile == 0), 64)
    tile_r = 2048 // tile_c
    _scale_relu[(triton.cdiv(rows, tile_r), triton.cdiv(channels, tile_c))](
        x, scale, bias, y, rows, channels, BLOCK_R=tile_r, BLOCK_C=tile_c, num_warps=4
    )
    return y


@triton.jit(do_not_specialize=["own_rows", "bank_rows", "frames"])
def _append_bank(
    own, bank, y, own_rows, bank_rows, channels, own_stride, own_row_stride, frames,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    rows = own_rows + bank_rows
    r = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    n = tl.program_id(2).to(tl.int64)
    inside = (c < channels)[None, :]
    mine = r < own_rows
    place = n * own_stride + r[:, None].to(tl.int64) * own_row_stride + c[None, :]
    value = tl.load(own + place, mask=mine[:, None] & inside, other=0.0)
    place = ((n // frames) * bank_rows + r[:, None] - own_rows) * channels + c[None, :]
    known = tl.load(bank + place, mask=((r >= own_rows) & (r < rows))[:, None] & inside, other=0.0)
    value = tl.where(mine[:, None], value, known)
    tl.store(y + (n * rows + r[:, None]) * channels + c[None, :], value, mask=(r < rows)[:, None] & inside)


def append_bank(own: Tensor, bank: Tensor, frames: int) -> Tensor:
    """Tokens of frames, each frame's followed by those of its reference.

    Args:
        own: `[k * frames, l, c]`, the last axis dense in memory (else it is copied).
        bank: `[k, m, c]`.

    Returns:
        `[k * frames, l + m, c]`.
    """
    own = own if own.stride(2) == 1 else own.contiguous()
    bank = bank.contiguous()
    n, length, channels = own.shape
    rows = length + bank.shape[1]
    y = torch.empty((n, rows, channels), dtype=own.dtype, device=own.device)
    tile_c = next((tile for tile in (128, 64, 32) if channels % tile == 0), 64)
    tile_r = 4096 // tile_c
    _append_bank[(triton.cdiv(rows, tile_r), triton.cdiv(channels, tile_c), n)](
        own, bank, y, length, bank.shape[1], channels, own.stride(0), own.stride(1), frames,
        BLOCK_R=tile_r, BLOCK_C=tile_c, num_warps=4,
    )  # fmt: skip
    return y
