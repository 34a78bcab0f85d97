"""Products whose result is processed before it reaches memory, for GPUs.

They can load by TMA, which GPUs from Hopper on have. It takes addresses from a descriptor, which frees registers, so
that two programs fit on a multiprocessor: one multiplies while the other finishes.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from personalive.accel.ops.triton.pointwise import gelu

try:
    from triton.tools.tensor_descriptor import TensorDescriptor
except ImportError:  # older than Triton 3.4
    TensorDescriptor = None

DEPTH = 64
"""Inputs that are multiplied at a time; layers must have a multiple of this."""
TMA_CAPABILITY = (9, 0)
"""The compute capability from which GPUs have TMA."""


class Tile(NamedTuple):
    """What one program computes, and how."""

    rows: int
    columns: int
    warps: int
    stages: int
    """How many steps ahead it loads."""
    use_tma: bool = False
    """Whether `gated_linear` loads by TMA."""


TILES = {
    "wide": Tile(128, 128, 8, 3),
    "narrow": Tile(128, 64, 8, 3),
    "TMA": Tile(128, 64, 4, 2, use_tma=True),
    "TMA, ahead": Tile(128, 64, 4, 3, use_tma=True),
}
"""For `gated_linear`: which is the fastest depends on the layer."""
SUM_TILES = {
    "narrow": Tile(128, 64, 4, 3),
    "wide": Tile(128, 128, 4, 3),
    "small": Tile(64, 64, 4, 4),
}
"""For `linear_add`, likewise; it always loads by TMA."""


def tiles(capability: tuple[int, int]) -> tuple[dict[str, Tile], dict[str, Tile]]:
    """The tiles worth trying on a GPU of this compute capability, of `gated_linear` and of `linear_add`.

    Where there is TMA it was never slower, and every tile takes a second to compile.
    """
    has_tma = TensorDescriptor is not None and capability >= TMA_CAPABILITY
    return {name: tile for name, tile in TILES.items() if tile.use_tma == has_tma}, SUM_TILES if has_tma else {}


@triton.jit
def tile_of_program(width, BLOCK_C: tl.constexpr):
    """Row and column, in tiles, of what this program computes: neighbours share rows in the cache."""
    tiles = tl.cdiv(width, BLOCK_C)
    return tl.program_id(0) // tiles, tl.program_id(0) % tiles


@triton.jit
def _gated_product(
    x, weight, bias, y, rows, width, depth,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One tile of (x·value weights + bias) * gelu(x·gate weights + bias); the values' weights come first."""
    row, column = tile_of_program(width, BLOCK_C)
    r = row.to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    c = column * BLOCK_C + tl.arange(0, BLOCK_C)
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
    result = (value * gelu(gate)).to(y.dtype.element_ty)
    tl.store(y + r[:, None] * width + c[None, :], result, mask=(r < rows)[:, None])


@triton.jit
def _gated_product_tma(
    x, weight, bias, y, width, depth,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """`_gated_product` with descriptors of x, weight and y. What is outside is read as 0 and not written."""
    row, column = tile_of_program(width, BLOCK_C)
    r, c = row * BLOCK_R, column * BLOCK_C
    value = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    gate = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    for start in range(0, depth, BLOCK_K):
        part = x.load([r, start])
        value = tl.dot(part, weight.load([c, start]).T, value)
        gate = tl.dot(part, weight.load([width + c, start]).T, gate)
    columns = c + tl.arange(0, BLOCK_C)
    value += tl.load(bias + columns).to(tl.float32)[None, :]
    gate += tl.load(bias + width + columns).to(tl.float32)[None, :]
    y.store([r, c], (value * gelu(gate)).to(y.dtype))


def gated_linear(x: Tensor, weight: Tensor, bias: Tensor, tile: Tile = TILES["wide"]) -> Tensor:
    """`geglu(linear(x, weight, bias))` in one pass.

    Args:
        x: `[..., c]`.
        weight: `[2w, c]`, and bias `[2w]`: of the values, then of the gates.
        tile: one of `TILES`.

    Returns:
        `[..., w]`.

    Raises:
        ValueError: the layer is not a whole number of tiles.
        RuntimeError: the tile is for TMA, which the GPU or Triton lacks.
    """
    width, depth = weight.shape[0] // 2, weight.shape[1]
    if depth % DEPTH or width % tile.columns:
        raise ValueError(f"a layer of {depth} to {2 * width} is not a whole number of tiles")
    x, weight = x.contiguous(), weight.contiguous()
    rows = x.numel() // depth
    y = torch.empty((*x.shape[:-1], width), dtype=x.dtype, device=x.device)
    grid = (triton.cdiv(rows, tile.rows) * (width // tile.columns),)
    sizes = {"BLOCK_R": tile.rows, "BLOCK_C": tile.columns, "BLOCK_K": DEPTH}
    options = {"num_warps": tile.warps, "num_stages": tile.stages}
    if tile.use_tma:
        inputs = _descriptor(x.view(rows, depth), tile.rows), _descriptor(weight, tile.columns)
        output = _descriptor(y.view(rows, width), tile.rows, tile.columns)
        _gated_product_tma[grid](*inputs, bias, output, width, depth, **sizes, **options)
    else:
        _gated_product[grid](x, weight, bias, y, rows, width, depth, **sizes, **options)
    return y


@triton.jit
def _product_and_sum(
    x, weight, bias, other, y, width, depth,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One tile of x·weights + bias + other; descriptors of all but the bias."""
    row, column = tile_of_program(width, BLOCK_C)
    r, c = row * BLOCK_R, column * BLOCK_C
    total = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    for start in range(0, depth, BLOCK_K):
        total = tl.dot(x.load([r, start]), weight.load([c, start]).T, total)
    columns = c + tl.arange(0, BLOCK_C)
    total += tl.load(bias + columns, mask=columns < width, other=0.0).to(tl.float32)[None, :]
    total += other.load([r, c]).to(tl.float32)
    y.store([r, c], total.to(y.dtype))


def linear_add(x: Tensor, weight: Tensor, bias: Tensor, other: Tensor, tile: Tile = SUM_TILES["narrow"]) -> Tensor:
    """`other + linear(x, weight, bias)` in one pass.

    Args:
        x: `[..., i]`.
        weight: `[o, i]`, and bias `[o]`.
        other: `[..., o]`.
        tile: one of `SUM_TILES`.

    Returns:
        `[..., o]`.

    Raises:
        ValueError: the layer is not a whole number of steps.
        RuntimeError: the GPU or Triton has no TMA.
    """
    width, depth = weight.shape
    if depth % DEPTH or width % 8:
        raise ValueError(f"a layer of {depth} to {width} is not a whole number of steps")
    x, weight, other = x.contiguous(), weight.contiguous(), other.contiguous()
    rows = x.numel() // depth
    y = torch.empty_like(other)
    ends = [_descriptor(tensor.view(rows, width), tile.rows, tile.columns) for tensor in (other, y)]
    _product_and_sum[(triton.cdiv(rows, tile.rows) * triton.cdiv(width, tile.columns),)](
        _descriptor(x.view(rows, depth), tile.rows), _descriptor(weight, tile.columns), bias, *ends, width, depth,
        BLOCK_R=tile.rows, BLOCK_C=tile.columns, BLOCK_K=DEPTH, num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    return y


def has_tma(x: Tensor) -> bool:
    """Whether Triton and the GPU of a tensor have descriptors; Triton's interpreter, on a CPU, needs no GPU."""
    old = x.device.type == "cuda" and torch.cuda.get_device_capability(x.device) < TMA_CAPABILITY
    return TensorDescriptor is not None and not old


def described(tensor: Tensor, block: list[int], use_tma: bool) -> Any:
    """A descriptor of a tensor that is read in such blocks, or the tensor itself."""
    return TensorDescriptor.from_tensor(tensor, block) if use_tma else tensor


def _descriptor(matrix: Tensor, rows: int, columns: int = DEPTH) -> Any:
    """A descriptor of a matrix, which is read or written in blocks of that size."""
    if TensorDescriptor is None:
        raise RuntimeError(f"Triton {triton.__version__} has no descriptors")
    if not has_tma(matrix):
        raise RuntimeError("this GPU has no TMA")
    return described(matrix, [rows, columns], use_tma=True)
