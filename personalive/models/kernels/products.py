"""Products whose result is used up before it reaches memory, for GPUs."""

import torch
import triton
import triton.language as tl
from torch import Tensor

DEPTH = 64
"""Inputs that are multiplied at a time; layers must have a multiple of it."""
TILES = {"wide": (128, 128, 8, 3), "narrow": (128, 64, 4, 4)}
"""Rows and columns of a tile, its warps, and how many steps ahead it loads: which is faster depends on the layer."""


@triton.jit
def _gated_product(
    x, weight, bias, y, rows, width, depth,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One tile of (x·value weights + bias) * gelu(x·gate weights + bias); the values' weights lie before the gates'."""
    tiles = tl.cdiv(width, BLOCK_C)
    r = (tl.program_id(0) // tiles).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    c = (tl.program_id(0) % tiles) * BLOCK_C + tl.arange(0, BLOCK_C)  # tiles side by side share rows in the cache
    k = tl.arange(0, BLOCK_K)
    left = x + (r % rows)[:, None] * depth + k[None, :]
    right = weight + c[None, :] * depth + k[:, None]
    value = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    gate = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    for start in range(0, depth, BLOCK_K):
        part = tl.load(left + start)
        value = tl.dot(part, tl.load(right + start), value)
        gate = tl.dot(part, tl.load(right + width * depth + start), gate)
    value += tl.load(bias + c).to(tl.float32)[None, :]
    gate += tl.load(bias + width + c).to(tl.float32)[None, :]
    result = value * gate * 0.5 * (1 + tl.erf(gate * 0.7071067811865476))
    tl.store(y + r[:, None] * width + c[None, :], result.to(y.dtype.element_ty), mask=(r < rows)[:, None])


def gated_linear(x: Tensor, weight: Tensor, bias: Tensor, tile: str = "wide") -> Tensor:
    """`geglu(linear(x, weight, bias))` in one pass.

    Args:
        x: `[..., c]`.
        weight: `[2w, c]`, and bias `[2w]`: of the values, then of the gates.
        tile: a name in `TILES`.

    Returns:
        `[..., w]`.

    Raises:
        ValueError: the layer is no whole number of tiles.
    """
    block_r, block_c, warps, stages = TILES[tile]
    width, depth = weight.shape[0] // 2, weight.shape[1]
    if depth % DEPTH or width % block_c:
        raise ValueError(f"a layer of {depth} to {2 * width} is no whole number of tiles")
    x, weight = x.contiguous(), weight.contiguous()
    rows = x.numel() // depth
    y = torch.empty((*x.shape[:-1], width), dtype=x.dtype, device=x.device)
    _gated_product[(triton.cdiv(rows, block_r) * (width // block_c),)](
        x, weight, bias, y, rows, width, depth,
        BLOCK_R=block_r, BLOCK_C=block_c, BLOCK_K=DEPTH, num_warps=warps, num_stages=stages,
    )  # fmt: skip
    return y
