"""GroupNorm over channels-last images and LayerNorm over tokens, for GPUs.

PyTorch's GroupNorm takes many times as long as its memory traffic does when channels are last. Here the image is read
twice and written once, and the reduction is split over enough programs to fill the GPU, however few images there are.
Sums are in float32.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from personalive.accel.ops.reference import FLOAT8

_PROGRAMS = 1024
"""Programs that a reduction is split into: as many as run at once on the largest GPUs."""
_THREADS = 128
"""Of a program that takes a part of an image."""
_VECTOR = 8
"""Values that a thread loads at once."""
_SUMMED = 128, 64
"""Pixels and channels that a program sums at a time: as many as a thread can have under way, in whole cache lines."""
_SMALL = 32768
"""The most values of one group and image, padded to powers of two, that one program holds in registers."""
_SPLITS_AT_ONCE = 32
"""Parts of an image whose sums are added up at a time."""


@triton.jit(do_not_specialize=["rows", "split_rows", "splits"])
def _channel_sums(
    x, branch, bias, y, sums, rows, split_rows, splits, channels,
    BRANCH: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, LINES: tl.constexpr,
):  # fmt: skip
    """Sum and sum of squares of each channel over one split of an image's pixels, or of what is added there first.

    All threads together load LINES pixels at once, so each adds up its own of a block, and they meet at the end only.
    """
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    split = tl.program_id(1)
    n = tl.program_id(2).to(tl.int64)
    x += n * rows * channels
    branch += n * rows * channels
    y += n * rows * channels
    inside = c < channels
    if BRANCH:
        added = tl.load(bias + c, mask=inside, other=0.0).to(tl.float32)[None, :]
    first = split * split_rows
    last = tl.minimum(first + split_rows, rows)
    total = tl.zeros((LINES, BLOCK_C), tl.float32)
    squares = tl.zeros((LINES, BLOCK_C), tl.float32)
    for start in range(first, last, BLOCK_R):
        r = start + tl.arange(0, BLOCK_R)
        mask = (r < last)[:, None] & inside[None, :]
        place = r[:, None] * channels + c[None, :]
        value = tl.load(x + place, mask=mask, other=0.0).to(tl.float32)
        if BRANCH:
            value += tl.load(branch + place, mask=mask, other=0.0).to(tl.float32) + added
            stored = value.to(y.dtype.element_ty)
            tl.store(y + place, stored, mask=mask)
            value = tl.where(mask, stored.to(tl.float32), 0.0)
        value = value.reshape(BLOCK_R // LINES, LINES, BLOCK_C)
        total += tl.sum(value, 0)
        squares += tl.sum(value * value, 0)
    place = sums + (n * splits + split) * 2 * channels + c
    tl.store(place, tl.sum(total, 0), mask=inside)
    tl.store(place + channels, tl.sum(squares, 0), mask=inside)


# Every new combination of a kernel's constants takes a third of a second to compile, at the first call with it. So
# sizes that say nothing about alignment are plain numbers.
@triton.jit(do_not_specialize=["rows", "splits", "width", "shift_stride"])
def _channel_factors(
    sums, weight, bias, shift, factors, rows, splits, channels, width, shift_stride, eps,
    BLOCK: tl.constexpr, SPLITS: tl.constexpr, SHIFT: tl.constexpr,
):  # fmt: skip
    """Scale and shift of each channel of one group, from the sums of all splits."""
    group = tl.program_id(0)
    n = tl.program_id(1).to(tl.int64)
    c = tl.arange(0, BLOCK)
    inside = c < width
    c += group * width
    # Each thread adds up its own splits: a reduction in the loop, whose result is used twice, makes Triton 3.1 abort.
    totals = tl.zeros((SPLITS, BLOCK), tl.float32)
    squared = tl.zeros((SPLITS, BLOCK), tl.float32)
    for first in range(0, splits, SPLITS):
        split = first + tl.arange(0, SPLITS)
        mask = (split < splits)[:, None] & inside[None, :]
        place = sums + (n * splits + split)[:, None] * 2 * channels + c[None, :]
        totals += tl.load(place, mask=mask, other=0.0)
        squared += tl.load(place + channels, mask=mask, other=0.0)
    total = tl.sum(totals, 0)
    squares = tl.sum(squared, 0)
    added = tl.zeros((BLOCK,), tl.float32)
    if SHIFT:
        added = tl.load(shift + n * shift_stride + c, mask=inside, other=0.0).to(tl.float32)
        squares += (2 * total + added * rows) * added
        total += added * rows
    count = rows * width
    mean = tl.sum(total, 0) / count
    variance = tl.maximum(tl.sum(squares, 0) / count - mean * mean, 0.0)
    factor = tl.load(weight + c, mask=inside, other=0.0).to(tl.float32) / tl.sqrt(variance + eps)
    addend = tl.load(bias + c, mask=inside, other=0.0).to(tl.float32) + (added - mean) * factor
    tl.store(factors + n * 2 * channels + c, factor, mask=inside)
    tl.store(factors + (n * 2 + 1) * channels + c, addend, mask=inside)


@triton.jit(do_not_specialize=["rows"])
def _scale(x, factors, y, rows, channels, gain, SILU: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr):
    """y = x * scale + shift of its channel, then SiLU if asked for, times the gain."""
    r = tl.program_id(1) * BLOCK_R + tl.arange(0, BLOCK_R)
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    n = tl.program_id(2).to(tl.int64)
    inside = c < channels
    factor = tl.load(factors + n * 2 * channels + c, mask=inside, other=0.0)
    addend = tl.load(factors + (n * 2 + 1) * channels + c, mask=inside, other=0.0)
    place = n * rows * channels + r[:, None] * channels + c[None, :]
    mask = (r < rows)[:, None] & inside[None, :]
    value = tl.load(x + place, mask=mask, other=0.0).to(tl.float32) * factor[None, :] + addend[None, :]
    if SILU:
        value = value * tl.sigmoid(value)
    tl.store(y + place, (value * gain).to(y.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["rows", "shift_stride"])
def _small_group_norm(
    x, weight, bias, shift, y, rows, channels, shift_stride, eps, gain,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, SHIFT: tl.constexpr, SILU: tl.constexpr,
):  # fmt: skip
    """The whole norm of one group of one small image."""
    group = tl.program_id(0)
    n = tl.program_id(1).to(tl.int64)
    r = tl.arange(0, ROWS)
    c = tl.arange(0, BLOCK)
    inside = c < WIDTH
    c += group * WIDTH
    mask = (r < rows)[:, None] & inside[None, :]
    place = n * rows * channels + r[:, None] * channels + c[None, :]
    value = tl.load(x + place, mask=mask, other=0.0).to(tl.float32)
    if SHIFT:
        value += tl.load(shift + n * shift_stride + c, mask=inside, other=0.0).to(tl.float32)[None, :]
    count = rows * WIDTH
    mean = tl.sum(tl.where(mask, value, 0.0)) / count
    value = tl.where(mask, value - mean, 0.0)
    factor = 1 / tl.sqrt(tl.sum(value * value) / count + eps)
    value *= factor * tl.load(weight + c, mask=inside, other=0.0).to(tl.float32)[None, :]
    value += tl.load(bias + c, mask=inside, other=0.0).to(tl.float32)[None, :]
    if SILU:
        value = value * tl.sigmoid(value)
    tl.store(y + place, (value * gain).to(y.dtype.element_ty), mask=mask)


def group_norm(
    x: Tensor,
    groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    *,
    silu: bool = False,
    shift: Tensor | None = None,
    sums: Tensor | None = None,
) -> Tensor:
    """GroupNorm of `x + shift`, followed by SiLU if `silu`.

    Args:
        x: `[n, c, h, w]`, channels last in memory (else it is copied).
        weight: `[c]`, like `bias`.
        shift: added to every pixel, `[n, c]` or `[1, c]`.
        sums: what `add_bias_sums` has returned beside x.

    Returns:
        `[n, c, h, w]`, channels last.
    """
    return _launch_group_norm(x, groups, weight, bias, eps, shift, x.dtype, silu=silu, sums=sums)


def group_norm_float8(
    x: Tensor,
    groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    scale: float,
    *,
    shift: Tensor | None = None,
    sums: Tensor | None = None,
) -> Tensor:
    """`group_norm` with SiLU, divided by `scale`, in fp8; channels last."""
    return _launch_group_norm(x, groups, weight, bias, eps, shift, FLOAT8, silu=True, gain=1 / scale, sums=sums)


def _launch_group_norm(
    x: Tensor,
    groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    shift: Tensor | None,
    dtype: torch.dtype,
    *,
    silu: bool,
    gain: float = 1.0,
    sums: Tensor | None = None,
) -> Tensor:
    x = x.contiguous(memory_format=torch.channels_last)
    n, channels, height, width = x.shape
    rows = height * width
    y = torch.empty_like(x, dtype=dtype)
    group = channels // groups
    block = triton.next_power_of_2(group)
    stride = 0 if shift is None or shift.shape[0] == 1 else channels
    added = (
        weight if shift is None else shift.contiguous()
    )  # a kernel cannot take None; what SHIFT turns off is not read
    padded = triton.next_power_of_2(rows) * block
    if padded <= _SMALL:
        _small_group_norm[(groups, n)](
            x, weight, bias, added, y, rows, channels, stride, eps, gain,
            WIDTH=group, ROWS=triton.next_power_of_2(rows), BLOCK=block, SHIFT=shift is not None, SILU=silu,
            num_warps=max(1, min(16, padded // 1024)),
        )  # fmt: skip
        return y
    sums = _sums(x) if sums is None else sums
    splits = sums.shape[1]
    factors = torch.empty((n, 2, channels), dtype=torch.float32, device=x.device)
    _channel_factors[(groups, n)](
        sums, weight, bias, added, factors, rows, splits, channels, group, stride, eps,
        BLOCK=max(16, block), SPLITS=_SPLITS_AT_ONCE, SHIFT=shift is not None,
        num_warps=max(1, block // 32),
    )  # fmt: skip
    tile_r, tile_c = _tile(channels)
    _scale[(triton.cdiv(channels, tile_c), triton.cdiv(rows, tile_r), n)](
        x, factors, y, rows, channels, gain, SILU=silu, BLOCK_R=tile_r, BLOCK_C=tile_c, num_warps=4
    )
    return y


def add_bias_sums(x: Tensor, branch: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """`x + branch + bias` of images `[n, c, h, w]`, channels last in memory, and what a `group_norm` of it needs.

    Args:
        bias: `[c]`.

    Returns:
        The image, and sums and sums of squares of each channel over parts of it: fp32 `[n, parts, 2, c]`.
    """
    x, branch = (each.contiguous(memory_format=torch.channels_last) for each in (x, branch))
    y = torch.empty_like(x)
    return y, _sums(x, branch, bias, y)


def _sums(x: Tensor, branch: Tensor | None = None, bias: Tensor | None = None, y: Tensor | None = None) -> Tensor:
    """Sum and sum of squares of each channel over parts of each image: fp32 `[n, parts, 2, c]`.

    Of `x + branch + bias`, which is written to y, if they are given.
    """
    n, channels, height, width = x.shape
    rows = height * width
    tile_r, tile_c = _SUMMED
    tiles = triton.cdiv(channels, tile_c)
    splits = max(1, min(256, _PROGRAMS // (tiles * n), triton.cdiv(rows, tile_r)))
    split_rows = triton.cdiv(triton.cdiv(rows, splits), tile_r) * tile_r
    splits = triton.cdiv(rows, split_rows)
    sums = torch.empty((n, splits, 2, channels), dtype=torch.float32, device=x.device)
    added = (x, x, x) if branch is None or bias is None or y is None else (branch, bias, y)  # not read or written
    _channel_sums[(tiles, splits, n)](
        x, *added, sums, rows, split_rows, splits, channels, BRANCH=branch is not None,
        BLOCK_R=tile_r, BLOCK_C=tile_c, LINES=_THREADS * _VECTOR // tile_c, num_warps=_THREADS // 32,
    )  # fmt: skip
    return sums


def _tile(channels: int) -> tuple[int, int]:
    """Pixels and channels that a program takes at once, so that all lanes are busy and whole cache lines are read."""
    columns = next((tile for tile in (128, 64, 32) if channels % tile == 0), 64)
    return 4096 // columns, columns


@triton.jit(do_not_specialize=["rows", "length", "add_length"])
def _layer_norm(
    x, branch, add, weight, bias, total, y, rows, channels, length, frames, add_length, add_rows, eps,
    BRANCH: tl.constexpr, ADD: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """LayerNorm of some rows, or of their sum with a branch if there is one."""
    r = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    c = tl.arange(0, BLOCK)
    inside = c < channels
    mask = (r < rows)[:, None] & inside[None, :]
    place = r[:, None] * channels + c[None, :]
    value = tl.load(x + place, mask=mask, other=0.0).to(tl.float32)
    if BRANCH:
        value += tl.load(branch + place, mask=mask, other=0.0).to(tl.float32)
        if ADD:
            row = (r // add_length) % add_rows
            value += tl.load(add + row[:, None] * channels + c[None, :], mask=mask, other=0.0).to(tl.float32)
        stored = value.to(total.dtype.element_ty)
        tl.store(total + place, stored, mask=mask)
        value = stored.to(tl.float32)
    mean = tl.sum(value, 1) / channels
    value = tl.where(mask, value - mean[:, None], 0.0)
    factor = 1 / tl.sqrt(tl.sum(value * value, 1) / channels + eps)
    value = value * factor[:, None] * tl.load(weight + c, mask=inside, other=0.0).to(tl.float32)[None, :]
    frame = (r // length) % frames
    value += tl.load(bias + frame[:, None] * channels + c[None, :], mask=mask, other=0.0).to(tl.float32)
    tl.store(y + place, value.to(y.dtype.element_ty), mask=mask)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float, *, dtype: torch.dtype | None = None) -> Tensor:
    """LayerNorm of tokens, in `dtype` if given.

    Args:
        x: `[n, l, c]`, contiguous (else it is copied).
        weight: `[c]`.
        bias: `[c]`, or `[f, c]` with a row for each frame: image i takes row i % f.

    Returns:
        `[n, l, c]`.
    """
    return _launch_layer_norm(x, None, None, weight, bias, eps, dtype)[1]


def add_layer_norm(
    x: Tensor,
    branch: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    *,
    add: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """The sum `x + branch + add`, and its LayerNorm, in `dtype` if given.

    Args:
        x: `[n, l, c]`, contiguous (else it is copied), and so is `branch`.
        weight: `[c]`.
        bias: `[c]` or `[f, c]`, as in `layer_norm`.
        add: `[k, c]`, n a multiple of k: images 0 to n/k - 1 take row 0, and so on.

    Returns:
        Two tensors `[n, l, c]`.
    """
    return _launch_layer_norm(x, branch, add, weight, bias, eps, dtype)


def _launch_layer_norm(
    x: Tensor,
    branch: Tensor | None,
    add: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    x = x.contiguous()
    n, length, channels = x.shape
    y = torch.empty_like(x, dtype=dtype)
    total = x if branch is None else torch.empty_like(x)
    block = triton.next_power_of_2(channels)
    tile = max(1, 1024 // block)  # with a single warp, so that no sum of a row passes through shared memory
    add_rows = 1 if add is None else add.shape[0]
    _layer_norm[(triton.cdiv(n * length, tile),)](
        x, x if branch is None else branch.contiguous(), weight if add is None else add.contiguous(), weight,
        bias.contiguous(), total, y, n * length, channels, length, bias.numel() // channels,
        n * length // add_rows, add_rows, eps,
        BRANCH=branch is not None, ADD=add is not None, ROWS=tile, BLOCK=block, num_warps=1,
    )  # fmt: skip
    return total, y
