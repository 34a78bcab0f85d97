"""Attention over very few keys, for GPUs: the frames of one pixel, or the motion tokens of one frame.

With 16 or 32 keys, general attention kernels take several times as long as reading and writing the data does. These
read the tokens where the projection left them, without regrouping them in memory.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from personalive.accel.ops import reference as operations

SMALLEST_PRODUCT = 16
"""The fewest rows and columns that the GPU's matrix units take."""


@triton.jit(do_not_specialize=["length"])
def _frame_attention(
    qkv, out, length, scale,
    FRAMES: tl.constexpr, HEADS: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Attention of one head over the frames of one pixel."""
    pixel = tl.program_id(0) // HEADS
    head = tl.program_id(0) % HEADS
    frame = tl.arange(0, FRAMES)
    token = (tl.program_id(1).to(tl.int64) * FRAMES + frame) * length + pixel
    c = tl.arange(0, BLOCK)
    inside = (c < WIDTH)[None, :]
    place = qkv + token[:, None] * (3 * HEADS * WIDTH) + head * WIDTH + c[None, :]
    q = tl.load(place, mask=inside, other=0.0)
    k = tl.load(place + HEADS * WIDTH, mask=inside, other=0.0)
    v = tl.load(place + 2 * HEADS * WIDTH, mask=inside, other=0.0)
    scores = tl.dot(q, tl.trans(k)) * scale
    weights = tl.exp(scores - tl.max(scores, 1)[:, None])
    result = tl.dot(weights.to(v.dtype), v) / tl.sum(weights, 1)[:, None]
    place = out + token[:, None] * (HEADS * WIDTH) + head * WIDTH + c[None, :]
    tl.store(place, result.to(out.dtype.element_ty), mask=inside)


def frame_attention(qkv: Tensor, heads: int, frames: int) -> Tensor:
    """Self-attention over the frames of every pixel.

    Args:
        qkv: `[b * frames, l, 3c]`: queries, keys and values; the frames of a batch entry are consecutive.

    Returns:
        `[b * frames, l, c]`.
    """
    if not _fits(frames):
        return operations.frame_attention(qkv, heads, frames)
    qkv = qkv.contiguous()
    n, length, channels = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    width = channels // heads
    block = max(16, triton.next_power_of_2(width))
    out = torch.empty((n, length, channels), dtype=qkv.dtype, device=qkv.device)
    _frame_attention[(heads * length, n // frames)](
        qkv, out, length, width**-0.5,
        FRAMES=frames, HEADS=heads, WIDTH=width, BLOCK=block, num_warps=1,
    )  # fmt: skip
    return out


@triton.jit(do_not_specialize=["rows"])
def _token_attention(
    query, tokens, out, rows,
    TOKENS: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Attention of some rows of one image to its few tokens, which are both keys and values."""
    n = tl.program_id(1).to(tl.int64)
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c = tl.arange(0, WIDTH)
    t = tl.arange(0, TOKENS)
    mask = (r < rows)[:, None]
    place = n * rows * WIDTH + r[:, None] * WIDTH + c[None, :]
    q = tl.load(query + place, mask=mask, other=0.0)
    m = tl.load(tokens + n * TOKENS * WIDTH + t[:, None] * WIDTH + c[None, :])
    scores = tl.dot(q, tl.trans(m))
    weights = tl.exp(scores - tl.max(scores, 1)[:, None])
    result = tl.dot(weights.to(m.dtype), m) / tl.sum(weights, 1)[:, None]
    tl.store(out + place, result.to(out.dtype.element_ty), mask=mask)


def token_attention(query: Tensor, tokens: Tensor) -> Tensor:
    """`softmax(query @ tokens.T) @ tokens`, for each image and without a scale.

    Args:
        query: `[n, r, c]`.
        tokens: `[n, t, c]`.

    Returns:
        `[n, r, c]`.
    """
    if not all(_fits(size) for size in tokens.shape[1:]):
        return operations.token_attention(query, tokens)
    query, tokens = query.contiguous(), tokens.contiguous()
    n, rows, width = query.shape
    out = torch.empty_like(query)
    tile = 128
    _token_attention[(triton.cdiv(rows, tile), n)](
        query, tokens, out, rows, TOKENS=tokens.shape[1], WIDTH=width, ROWS=tile, num_warps=4
    )
    return out


def _fits(size: int) -> bool:
    return size >= SMALLEST_PRODUCT and size == triton.next_power_of_2(size)
