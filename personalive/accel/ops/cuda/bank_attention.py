"""Attention to a portrait on Hopper GPUs: see `bank_attention.cu`."""

import ctypes
import math
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from personalive.accel.ops.cuda.compiler import Kernel, Module, compiled

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
    """`reference.attend_bank` by kernels that are compiled for the current GPU."""

    def __init__(self, dtype: torch.dtype) -> None:
        """Compile them, which takes half a second.

        Raises:
            RuntimeError: they do not compile here, or the GPU does not take them.
        """
        torch.cuda.synchronize()  # a thread that has not used the GPU has nothing that code could be loaded into
        source = Path(__file__).with_suffix(".cu").read_text("utf-8")
        self._dtype = dtype
        self._kernels = {width: _compile(source, width, dtype) for width in SHAPES}

    def __call__(self, qkv: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """See `reference.attend_bank`, with what this `suits`."""
        query, own_keys, own_values = qkv.unbind(2)
        query = _dense_rows(query)
        frames, length, heads, width = query.shape
        shape, kernels = SHAPES[width], self._kernels[width]
        own = _packed(kernels.pack, own_keys, own_values)
        bank = _packed(kernels.pack, keys, values)
        out = torch.empty((frames, length, heads * width), dtype=query.dtype, device=query.device)
        scale = math.log2(math.e) / math.sqrt(width)
        grid = (math.ceil(length / (64 * shape.groups)), heads, frames)
        kernels.attend(
            grid, 128 * (shape.groups + 1), query, *_strides(query), length, own, own.shape[2], bank, bank.shape[2],
            scale, out,
        )  # fmt: skip
        return out

    def suits(self, qkv: Tensor, keys: Tensor) -> bool:
        """Whether the kernels can compute attention of these shapes and this type."""
        _, length, _, heads, width = qkv.shape
        known = width in SHAPES and qkv.dtype == self._dtype and heads * width % 32 == 0
        return known and len(keys) == 1 and keys.shape[1] > 0 and length % KEYS == keys.shape[1] % KEYS == 0


def _compile(source: str, width: int, dtype: torch.dtype) -> _Kernels:
    shape = SHAPES[width]
    definitions = {"WIDTH": width, "KEYS": KEYS, "BF16": int(dtype == torch.bfloat16)}
    definitions |= {name.upper(): value for name, value in shape._asdict().items()}
    module = Module(compiled(source, definitions, "sm_90a"))
    stage, constants, barriers = 4 * KEYS * width, 16 * KEYS, 16 * shape.stages  # bytes of shared memory
    return _Kernels(module.kernel("pack_keys"), module.kernel("attend", shape.stages * stage + constants + barriers))


def _packed(pack: Kernel, keys: Tensor, values: Tensor) -> Tensor:
    """Keys and values [n, l, heads, width] → [n, heads, blocks, 2, width / 8, 64, 8]."""
    keys, values = _dense_rows(keys), _dense_rows(values)
    if keys.stride() != values.stride():
        keys, values = keys.contiguous(), values.contiguous()
    n, length, heads, width = keys.shape
    out = torch.empty((n, heads, length // KEYS, 2, width // 8, KEYS, 8), dtype=keys.dtype, device=keys.device)
    pack((length // KEYS, n, 2), _PACKING_THREADS, keys, values, *_strides(keys), heads, out)
    return out


def _dense_rows(x: Tensor) -> Tensor:
    """The same with each token's heads side by side in memory, where 16 bytes can be read at once."""
    dense = x.stride()[2:] == (x.shape[3], 1) and x.data_ptr() % 16 == 0
    return x if dense and all(stride % 8 == 0 for stride in x.stride()[:2]) else x.contiguous()


def _strides(x: Tensor) -> tuple[ctypes.c_uint64, ctypes.c_uint64]:
    """Bytes between images and between tokens."""
    return ctypes.c_uint64(x.stride(0) * x.element_size()), ctypes.c_uint64(x.stride(1) * x.element_size())
