"""Attention to a portrait on Hopper GPUs: see `bank_attention.cu`."""

import ctypes
import math
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from personalive.accel.ops.cuda.compiler import Kernel, Module, compiled

CAPABILITY = (9, 0)
"""The only compute capability with these instructions."""
KEYS = 64
"""In a block: own keys and the bank's must be a multiple."""
_PACKING_THREADS = 256


class Shape(NamedTuple):
    """What a kernel is compiled with; see there."""

    groups: int
    registers: int
    stages: int


SHAPES = {40: Shape(groups=4, registers=112, stages=8), 80: Shape(groups=3, registers=160, stages=6)}
"""The fastest for each width of a head, as measured on an H200."""


class _Kernels(NamedTuple):
    pack: Kernel
    attend: Kernel


class BankAttention:
    """`reference.attend_bank` by kernels that are compiled when a width is first used."""

    def __init__(self) -> None:
        self._kernels: dict[tuple[int, torch.dtype], _Kernels] = {}

    def __call__(self, qkv: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """See `reference.attend_bank`, with what `suits` allows.

        Raises:
            RuntimeError: the kernels do not compile or run here.
        """
        query, own_keys, own_values = qkv.unbind(2)
        query = _dense_rows(query)
        frames, length, heads, width = query.shape
        shape, kernels = SHAPES[width], self._for(width, query.dtype)
        own = _packed(kernels.pack, _dense_rows(own_keys), _dense_rows(own_values))
        bank = _packed(kernels.pack, keys.contiguous(), values.contiguous())
        out = torch.empty((frames, length, heads * width), dtype=query.dtype, device=query.device)
        scale = math.log2(math.e) / math.sqrt(width)
        grid = (math.ceil(length / (64 * shape.groups)), heads, frames)
        kernels.attend(
            grid, 128 * (shape.groups + 1), query, *_strides(query), length, own, own.shape[2], bank, bank.shape[2],
            scale, out,
        )  # fmt: skip
        return out

    def _for(self, width: int, dtype: torch.dtype) -> _Kernels:
        key = width, dtype
        if key not in self._kernels:
            shape = SHAPES[width]
            definitions = {"WIDTH": width, "BF16": int(dtype == torch.bfloat16)}
            definitions |= {name.upper(): value for name, value in shape._asdict().items()}
            module = Module(compiled(Path(__file__).with_suffix(".cu").read_text("utf-8"), definitions, "sm_90a"))
            block, constants, barriers = 4 * KEYS * width, 16 * KEYS, 16 * shape.stages
            attend = module.kernel("attend", shape.stages * block + constants + barriers)
            self._kernels[key] = _Kernels(module.kernel("pack_keys"), attend)
        return self._kernels[key]


def suits(qkv: Tensor, keys: Tensor) -> bool:
    """Whether the kernels can compute attention of these shapes and types."""
    _, length, _, heads, width = qkv.shape
    known = width in SHAPES and qkv.dtype in (torch.float16, torch.bfloat16) and heads * width % 32 == 0
    return known and len(keys) == 1 and keys.shape[1] > 0 and length % KEYS == keys.shape[1] % KEYS == 0


def _packed(pack: Kernel, keys: Tensor, values: Tensor) -> Tensor:
    """Keys and values [n, l, heads, width] → [n, heads, blocks, 2, width / 8, 64, 8]."""
    n, length, heads, width = keys.shape
    out = torch.empty((n, heads, length // KEYS, 2, width // 8, KEYS, 8), dtype=keys.dtype, device=keys.device)
    pack((length // KEYS, n, 2), _PACKING_THREADS, keys, values, *_strides(keys), heads, out)
    return out


def _dense_rows(x: Tensor) -> Tensor:
    """The same with each token's heads side by side in memory."""
    return x if x.stride()[2:] == (x.shape[3], 1) else x.contiguous()


def _strides(x: Tensor) -> tuple[ctypes.c_uint64, ctypes.c_uint64]:
    """Bytes between images and between tokens."""
    return ctypes.c_uint64(x.stride(0) * x.element_size()), ctypes.c_uint64(x.stride(1) * x.element_size())
