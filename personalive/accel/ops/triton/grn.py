"""The motion extractor's GRN MLP in fp32 by 3×TF32 products, for GPUs.

Each number is taken as the sum of two in TF32, and three of the four products are added up: the result is as exact as
fp32 multiplied by itself, and takes two thirds of the time.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from personalive.accel.ops import reference as operations
from personalive.accel.ops.triton.pointwise import gelu
from personalive.accel.ops.triton.products import tile_of_program

ROWS, DEPTH = 64, 32
"""Tokens of a tile, and inputs that are multiplied at a time."""
_FILLED = 264
"""Tiles from which wide ones fill a GPU."""
_TF32_CAPABILITY = (8, 0)
"""The compute capability from which GPUs multiply TF32."""


@triton.jit
def _fc1(
    x, weight, bias, y, squares, width, depth,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One tile of gelu(x·weights + bias), and the sum of squares of each of its columns."""
    row, column = tile_of_program(width, BLOCK_C)
    r = row.to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    c = column * BLOCK_C + tl.arange(0, BLOCK_C)
    k = tl.arange(0, BLOCK_K)
    left = x + r[:, None] * depth + k[None, :]
    right = weight + c[None, :] * depth + k[:, None]
    total = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    for start in range(0, depth, BLOCK_K):
        total = tl.dot(tl.load(left + start), tl.load(right + start), total, input_precision="tf32x3")
    total = gelu(total + tl.load(bias + c)[None, :])
    tl.store(y + r[:, None] * width + c[None, :], total)
    tl.store(squares + row.to(tl.int64) * width + c, tl.sum(total * total, 0))


@triton.jit(do_not_specialize=["tiles"])
def _grn_scale(squares, gamma, factors, tiles, width, BLOCK: tl.constexpr):
    """What the global response normalisation multiplies each channel of one image with."""
    n = tl.program_id(0).to(tl.int64)
    c = tl.arange(0, BLOCK)
    inside = c < width
    total = tl.zeros((BLOCK,), tl.float32)
    for tile in range(tiles):
        total += tl.load(squares + (n * tiles + tile) * width + c, mask=inside, other=0.0)
    energy = tl.sqrt(total)
    mean = tl.sum(energy, 0) / width
    factor = 1.0 + tl.load(gamma + c, mask=inside, other=0.0) * (energy / (mean + 1e-6))
    tl.store(factors + n * width + c, factor, mask=inside)


@triton.jit(do_not_specialize=["length"])
def _fc2(
    x, factors, weight, bias, other, y, length, width, depth,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One tile of (x * its image's factors)·weights + bias + other."""
    row, column = tile_of_program(width, BLOCK_C)
    first = row.to(tl.int64) * BLOCK_R
    r = first + tl.arange(0, BLOCK_R)
    c = column * BLOCK_C + tl.arange(0, BLOCK_C)
    k = tl.arange(0, BLOCK_K)
    left = x + r[:, None] * depth + k[None, :]
    right = weight + c[None, :] * depth + k[:, None]
    scale = factors + (first // length) * depth + k
    total = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    for start in range(0, depth, BLOCK_K):
        part = tl.load(left + start) * tl.load(scale + start)[None, :]
        total = tl.dot(part, tl.load(right + start), total, input_precision="tf32x3")
    place = r[:, None] * width + c[None, :]
    tl.store(y + place, total + tl.load(bias + c)[None, :] + tl.load(other + place))


def grn_mlp(
    x: Tensor, fc1: Tensor, fc1_bias: Tensor, gamma: Tensor, fc2: Tensor, fc2_bias: Tensor, other: Tensor
) -> Tensor:
    """See `operations.grn_mlp`; sizes that are not whole tiles go there, and on old GPUs everything does."""
    n, length, channels = x.shape
    width = fc1.shape[0]
    old = x.device.type == "cuda" and torch.cuda.get_device_capability(x.device) < _TF32_CAPABILITY
    if old or length % ROWS or channels % DEPTH or width % DEPTH:
        return operations.grn_mlp(x, fc1, fc1_bias, gamma, fc2, fc2_bias, other)
    x, other, rows = x.contiguous(), other.contiguous(), n * length
    hidden = torch.empty((n, length, width), dtype=torch.float32, device=x.device)
    squares = torch.empty((rows // ROWS, width), dtype=torch.float32, device=x.device)
    columns = _columns(rows, width)
    _fc1[(rows // ROWS * (width // columns),)](
        x, fc1, fc1_bias, hidden, squares, width, channels,
        BLOCK_R=ROWS, BLOCK_C=columns, BLOCK_K=DEPTH, num_warps=4, num_stages=3,
    )  # fmt: skip
    factors = torch.empty((n, width), dtype=torch.float32, device=x.device)
    _grn_scale[(n,)](squares, gamma, factors, length // ROWS, width, BLOCK=triton.next_power_of_2(width), num_warps=8)
    y = torch.empty_like(other)
    columns = _columns(rows, channels)
    _fc2[(rows // ROWS * (channels // columns),)](
        hidden, factors, fc2, fc2_bias, other, y, length, channels, width,
        BLOCK_R=ROWS, BLOCK_C=columns, BLOCK_K=DEPTH, num_warps=4, num_stages=3,
    )  # fmt: skip
    return y


def _columns(rows: int, width: int) -> int:
    """Columns of a tile: narrow ones where wide ones would not fill the GPU."""
    return 64 if width % 64 == 0 and rows // ROWS * (width // 64) >= _FILLED else 32
