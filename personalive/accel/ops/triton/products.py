"""Products whose result is processed before it reaches memory, or whose sums may be in fp16, for GPUs.

They can load by TMA, which GPUs from Hopper on have. It takes addresses from a descriptor, which frees registers, so
that two programs of four warps fit on a multiprocessor: one multiplies while the other finishes.

GeForce GPUs multiply fp16 twice as fast if the sums are in fp16 too. So that this costs little precision, only as many
products as are multiplied at a time are added in fp16, and those sums in fp32.
"""

from collections.abc import Mapping
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
    depth: int
    """Inputs that are multiplied at a time."""
    warps: int
    stages: int
    """How many steps ahead it loads."""
    use_tma: bool = False
    """Whether it loads by TMA."""
    half_sums: bool = False
    """Whether what is multiplied at a time is added in fp16, and only those sums in fp32."""

    @property
    def options(self) -> dict[str, int]:
        """For the compiler."""
        return {"num_warps": self.warps, "num_stages": self.stages}


TILES = {
    "wide": Tile(128, 128, DEPTH, 8, 3),
    "narrow": Tile(128, 64, DEPTH, 8, 3),
    "TMA, wide": Tile(128, 128, DEPTH, 8, 3, use_tma=True),
    "TMA, narrow": Tile(128, 64, DEPTH, 4, 3, use_tma=True),
    "TMA, tall": Tile(256, 64, DEPTH, 8, 3, use_tma=True),
    "TMA, short": Tile(128, 64, DEPTH, 4, 2, use_tma=True),
}
"""For `gated_linear`: which is the fastest depends on the layer. "TMA, short" is for GeForce GPUs that have TMA
(compute capability 12.0): the others need more shared memory than those have, but for "TMA, narrow" with Triton 3.6."""
SUM_TILES = {
    "narrow": Tile(128, 64, DEPTH, 4, 3, use_tma=True),
    "wide": Tile(128, 128, DEPTH, 4, 3, use_tma=True),
    "small": Tile(64, 64, DEPTH, 4, 4, use_tma=True),
}
"""For `linear_add`, likewise."""
HALF_SUM_TILES = {
    f"fp16 sums, {name}": tile._replace(half_sums=True)
    for name, tile in {
        "wide": Tile(128, 128, DEPTH, 8, 3),
        "narrow": Tile(128, 64, DEPTH, 4, 3),
        "TMA, wide": Tile(128, 128, DEPTH, 8, 3, use_tma=True),
        "TMA, narrow": Tile(128, 64, DEPTH, 4, 3, use_tma=True),
        "TMA, short": Tile(128, 64, DEPTH, 4, 2, use_tma=True),
    }.items()
}
"""For all of them, where sums may be in fp16."""


def worth_trying(tiles: Mapping[str, Tile], capability: tuple[int, int]) -> dict[str, Tile]:
    """Those of some tiles that load by TMA where a GPU of this compute capability has it, and the others elsewhere.

    Where there is TMA it was never slower, and every tile takes a second to compile.
    """
    has_tma = TensorDescriptor is not None and capability >= TMA_CAPABILITY
    return {name: tile for name, tile in tiles.items() if tile.use_tma == has_tma}


@triton.jit
def tile_of_program(width, BLOCK_C: tl.constexpr):
    """Row and column, in tiles, of what this program computes: neighbours share rows in the cache."""
    tiles = tl.cdiv(width, BLOCK_C)
    return tl.program_id(0) // tiles, tl.program_id(0) % tiles


@triton.jit
def load_rows(matrix, first, start, rows, depth, BLOCK_R: tl.constexpr, BLOCK_K: tl.constexpr, TMA: tl.constexpr):
    """A block of a matrix [rows, depth]. What is outside is 0, or, in rows, anything."""
    if TMA:
        block = matrix.load([first, start])
    else:
        r = (first + tl.arange(0, BLOCK_R)) % rows
        k = start + tl.arange(0, BLOCK_K)
        block = tl.load(matrix + r.to(tl.int64)[:, None] * depth + k[None, :], mask=(k < depth)[None, :], other=0.0)
    return block


@triton.jit
def store_rows(
    matrix, first, start, block, rows, depth, BLOCK_R: tl.constexpr, BLOCK_K: tl.constexpr, TMA: tl.constexpr
):
    """The inverse of `load_rows`. What is outside is not written."""
    if TMA:
        matrix.store([first, start], block.to(matrix.dtype))
    else:
        r, k = first + tl.arange(0, BLOCK_R), start + tl.arange(0, BLOCK_K)
        place = matrix + r.to(tl.int64)[:, None] * depth + k[None, :]
        tl.store(place, block.to(matrix.dtype.element_ty), mask=(r < rows)[:, None] & (k < depth)[None, :])


@triton.jit
def add_product(left, right, total, HALF: tl.constexpr):
    """`total + left·right`, the product's own sums in fp16 if HALF."""
    if HALF:
        total += tl.dot(left, right, out_dtype=tl.float16).to(tl.float32)
    else:
        total = tl.dot(left, right, total)
    return total


@triton.jit
def _gated_product(
    x, weight, bias, y, rows, width, depth,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    """One tile of (x·value weights + bias) * gelu(x·gate weights + bias); the values' weights come first."""
    row, column = tile_of_program(width, BLOCK_C)
    r, c = row * BLOCK_R, column * BLOCK_C
    value = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    gate = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    for start in range(0, depth, BLOCK_K):
        part = load_rows(x, r, start, rows, depth, BLOCK_R, BLOCK_K, False)
        right = load_rows(weight, c, start, 2 * width, depth, BLOCK_C, BLOCK_K, False)
        value = add_product(part, right.T, value, HALF)
        right = load_rows(weight, width + c, start, 2 * width, depth, BLOCK_C, BLOCK_K, False)
        gate = add_product(part, right.T, gate, HALF)
    store_rows(y, r, c, _gated(value, gate, bias, c, width, BLOCK_C), rows, width, BLOCK_R, BLOCK_C, False)


@triton.jit
def _gated_product_tma(
    x, weight, bias, y, rows, width, depth,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    """The same by TMA, one tile after another, so that the next one is loaded while this one is gated.

    The weight is described as [width / 8, 2, 8, depth]: values and gates take turns, 8 by 8. So one product has both,
    as wide as the tensor cores need it to be at their fastest, and a value's gate is in the thread that has the value.
    """
    columns = tl.cdiv(width, BLOCK_C)
    for tile in tl.range(tl.program_id(0), columns * tl.cdiv(rows, BLOCK_R), tl.num_programs(0), flatten=True):
        r, c = tile // columns * BLOCK_R, tile % columns * BLOCK_C
        both = tl.zeros((BLOCK_R, 2 * BLOCK_C), tl.float32)
        for start in range(0, depth, BLOCK_K):
            right = weight.load([c // 8, 0, 0, start]).reshape(2 * BLOCK_C, BLOCK_K)
            both = add_product(x.load([r, start]), right.T, both, HALF)
        value, gate = both.reshape(BLOCK_R, BLOCK_C // 8, 2, 8).permute(0, 1, 3, 2).split()
        value, gate = value.reshape(BLOCK_R, BLOCK_C), gate.reshape(BLOCK_R, BLOCK_C)
        y.store([r, c], _gated(value, gate, bias, c, width, BLOCK_C).to(y.dtype))


@triton.jit
def _gated(value, gate, bias, c, width, BLOCK_C: tl.constexpr):
    """(value + bias) * gelu(gate + bias) of columns c and those after it."""
    columns = c + tl.arange(0, BLOCK_C)
    value += tl.load(bias + columns).to(tl.float32)[None, :]
    gate += tl.load(bias + width + columns).to(tl.float32)[None, :]
    return value * gelu(gate)


def gated_linear(x: Tensor, weight: Tensor, bias: Tensor, tile: Tile = TILES["wide"]) -> Tensor:
    """`geglu(linear(x, weight, bias))` in one pass.

    Args:
        x: `[..., c]`.
        weight: `[2w, c]`, and bias `[2w]`: of the values, then of the gates.
        tile: one of `TILES`, or of `HALF_SUM_TILES` for fp16.

    Returns:
        `[..., w]`.

    Raises:
        ValueError: the layer is not a whole number of tiles.
        RuntimeError: the tile is for TMA, which the GPU or Triton lacks.
    """
    width, depth = weight.shape[0] // 2, weight.shape[1]
    if depth % tile.depth or width % tile.columns:
        raise ValueError(f"a layer of {depth} to {2 * width} is not a whole number of tiles")
    x, weight = x.contiguous(), weight.contiguous()
    rows = x.numel() // depth
    y = torch.empty((*x.shape[:-1], width), dtype=x.dtype, device=x.device)
    source = _blocks(x.view(rows, depth), tile.rows, tile.depth, tile)
    result = _blocks(y.view(rows, width), tile.rows, tile.columns, tile)
    programs = triton.cdiv(rows, tile.rows) * (width // tile.columns)
    kernel = _gated_product
    if tile.use_tma:
        kernel, programs = _gated_product_tma, min(programs, _programs_at_once(x, tile))
        pairs = weight.view(2, width // 8, 8, depth).transpose(0, 1)
        weight = described(pairs, [tile.columns // 8, 2, 8, tile.depth], use_tma=True)
    kernel[(programs,)](
        source, weight, bias, result, rows, width, depth,
        BLOCK_R=tile.rows, BLOCK_C=tile.columns, BLOCK_K=tile.depth, HALF=tile.half_sums, **tile.options,
    )  # fmt: skip
    return y


def _programs_at_once(x: Tensor, tile: Tile) -> int:
    """How many programs of a tile a tensor's GPU is given: as many as run at once, where shared memory has room for 8
    warps on each multiprocessor."""
    cores = torch.cuda.get_device_properties(x.device).multi_processor_count if x.device.type == "cuda" else 1
    return cores * 8 // tile.warps


@triton.jit
def _product(
    x, weight, bias, other, y, rows, width, depth, BIAS: tl.constexpr, SUM: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr, HALF: tl.constexpr, TMA: tl.constexpr,
):  # fmt: skip
    """One tile of x·weights, plus bias if BIAS, plus other if SUM."""
    row, column = tile_of_program(width, BLOCK_C)
    r, c = row * BLOCK_R, column * BLOCK_C
    total = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    for start in range(0, depth, BLOCK_K):
        part = load_rows(x, r, start, rows, depth, BLOCK_R, BLOCK_K, TMA)
        right = load_rows(weight, c, start, width, depth, BLOCK_C, BLOCK_K, TMA)
        total = add_product(part, right.T, total, HALF)
    if BIAS:
        columns = c + tl.arange(0, BLOCK_C)
        total += tl.load(bias + columns, mask=columns < width, other=0.0).to(tl.float32)[None, :]
    if SUM:
        total += load_rows(other, r, c, rows, width, BLOCK_R, BLOCK_C, TMA).to(tl.float32)
    store_rows(y, r, c, total, rows, width, BLOCK_R, BLOCK_C, TMA)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, tile: Tile) -> Tensor:
    """A linear layer of `x` `[..., i]` with weight `[o, i]` and bias `[o]`, to `[..., o]`.

    Raises:
        ValueError: the layer is not a whole number of steps.
        RuntimeError: the tile is for TMA, which the GPU or Triton lacks.
    """
    y = torch.empty((*x.shape[:-1], weight.shape[0]), dtype=x.dtype, device=x.device)
    return _multiply(x, weight, bias, None, y, tile)


def linear_add(
    x: Tensor, weight: Tensor, bias: Tensor | None, other: Tensor, tile: Tile = SUM_TILES["narrow"]
) -> Tensor:
    """`other + linear(x, weight, bias)` in one pass.

    Args:
        x: `[..., i]`.
        weight: `[o, i]`, and bias `[o]` if there is one.
        other: `[..., o]`.
        tile: one of `SUM_TILES`, or of `HALF_SUM_TILES` for fp16.

    Returns:
        `[..., o]`.

    Raises:
        ValueError: the layer is not a whole number of steps.
        RuntimeError: the tile is for TMA, which the GPU or Triton lacks.
    """
    other = other.contiguous()
    return _multiply(x, weight, bias, other, torch.empty_like(other), tile)


def add_linear_(total: Tensor, x: Tensor, weight: Tensor, tile: Tile) -> None:
    """Add `linear(x, weight)` of rows `[r, i]` to `total` `[r, o]`, in place; errors as of `linear_add`."""
    _multiply(x, weight, None, total, total, tile)


def _multiply(x: Tensor, weight: Tensor, bias: Tensor | None, other: Tensor | None, y: Tensor, tile: Tile) -> Tensor:
    """Write `x·weightᵀ + bias + other` into `y`, which may be `other`: every tile reads no more than what it writes."""
    width, depth = weight.shape
    if depth % tile.depth or width % 8:
        raise ValueError(f"a layer of {depth} to {width} is not a whole number of steps")
    x, weight = x.contiguous(), weight.contiguous()
    rows = x.numel() // depth
    result = _blocks(y.view(rows, width), tile.rows, tile.columns, tile)
    addend = result if other is None else _blocks(other.view(rows, width), tile.rows, tile.columns, tile)
    _product[(triton.cdiv(rows, tile.rows) * triton.cdiv(width, tile.columns),)](
        _blocks(x.view(rows, depth), tile.rows, tile.depth, tile), _blocks(weight, tile.columns, tile.depth, tile),
        weight if bias is None else bias, addend, result, rows, width, depth,
        BIAS=bias is not None, SUM=other is not None, BLOCK_R=tile.rows, BLOCK_C=tile.columns, BLOCK_K=tile.depth,
        HALF=tile.half_sums, TMA=tile.use_tma, **tile.options,
    )  # fmt: skip
    return y


def has_tma(x: Tensor) -> bool:
    """Whether Triton and the GPU of a tensor have descriptors; Triton's interpreter, on a CPU, needs no GPU."""
    old = x.device.type == "cuda" and torch.cuda.get_device_capability(x.device) < TMA_CAPABILITY
    return TensorDescriptor is not None and not old


def described(tensor: Tensor, block: list[int], use_tma: bool) -> Any:
    """A descriptor of a tensor that is read in such blocks, or the tensor itself."""
    return TensorDescriptor.from_tensor(tensor, block) if use_tma else tensor


def _blocks(matrix: Tensor, rows: int, columns: int, tile: Tile) -> Any:
    """A matrix as a kernel takes it that reads or writes it in blocks of that size."""
    if tile.use_tma and TensorDescriptor is None:
        raise RuntimeError(f"Triton {triton.__version__} has no descriptors")
    if tile.use_tma and not has_tma(matrix):
        raise RuntimeError("this GPU has no TMA")
    return described(matrix, [rows, columns], tile.use_tma)
