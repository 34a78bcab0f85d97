"""CUDA C++ compiled by NVRTC, which PyTorch for CUDA brings, and its kernels.

`cuda-bindings` is NVIDIA's own Python interface to both; PyTorch 2.10 and later bring it too.
"""

import ctypes
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

import torch
from cuda.bindings import driver, nvrtc
from torch import Tensor

Argument: TypeAlias = "Tensor | int | float | ctypes.c_uint64"
"""Of a kernel: a pointer, an `int`, a `float` or an `unsigned long long`."""


def compiled(source: str, definitions: Mapping[str, int], architecture: str) -> bytes:
    """Machine code, in less than a second and without a GPU.

    Args:
        source: CUDA C++ that includes nothing, with `extern "C"` kernels.
        definitions: of its macros.
        architecture: such as "sm_90a".

    Raises:
        RuntimeError: NVRTC is missing, or the source does not compile.
    """
    options = [f"--gpu-architecture={architecture}", "--std=c++17", "--use_fast_math"]
    options += [f"-D{name}={value}" for name, value in definitions.items()]
    # NVRTC 12.4 leaves its thread in the C locale, where Python takes text files for ASCII.
    with ThreadPoolExecutor(1, thread_name_prefix="nvrtc") as thread:
        return thread.submit(_compile, source, [option.encode() for option in options]).result()


def _compile(source: str, options: list[bytes]) -> bytes:
    program = _checked(nvrtc.nvrtcCreateProgram(source.encode(), b"kernels.cu", 0, [], []))
    try:
        (status,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
        if int(status):
            log = b" " * _checked(nvrtc.nvrtcGetProgramLogSize(program))
            _checked(nvrtc.nvrtcGetProgramLog(program, log))
            raise RuntimeError(f"a kernel does not compile: {log.decode(errors='replace').strip()}")
        code: bytes = b" " * _checked(nvrtc.nvrtcGetCUBINSize(program))
        _checked(nvrtc.nvrtcGetCUBIN(program, code))
        return code
    finally:
        nvrtc.nvrtcDestroyProgram(program)


class Module:
    """Kernels, loaded into the context of the current GPU."""

    def __init__(self, code: bytes) -> None:
        """Load what was `compiled`.

        Raises:
            RuntimeError: the GPU does not take it.
        """
        self._context = _checked(driver.cuCtxGetCurrent())
        self._module = _checked(driver.cuModuleLoadData(code))

    def kernel(self, name: str, shared: int = 0) -> "Kernel":
        """A kernel, which gets `shared` bytes of dynamic shared memory."""
        function = _checked(driver.cuModuleGetFunction(self._module, name.encode()))
        limit = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        _checked(driver.cuFuncSetAttribute(function, limit, shared))
        return Kernel(function, self._context, shared)


class Kernel:
    """A kernel of a `Module`."""

    def __init__(self, function: Any, context: Any, shared: int) -> None:
        self._function, self._context, self._shared = function, context, shared

    def __call__(self, grid: tuple[int, int, int], threads: int, *arguments: Argument) -> None:
        """Launch it on PyTorch's current stream. Tensors must be on that GPU, and outlive the launch."""
        if int(_checked(driver.cuCtxGetCurrent())) != int(self._context):  # a thread that has not used the GPU yet
            _checked(driver.cuCtxSetCurrent(self._context))
        values, types = zip(*map(_as_c, arguments), strict=True)
        stream = torch.cuda.current_stream().cuda_stream
        _checked(driver.cuLaunchKernel(self._function, *grid, threads, 1, 1, self._shared, stream, (values, types), 0))


def _as_c(argument: Argument) -> tuple[int | float, Any]:
    """Value and type of an argument, as the driver takes them."""
    if isinstance(argument, Tensor):
        return argument.data_ptr(), ctypes.c_void_p
    if isinstance(argument, ctypes.c_uint64):
        return argument.value, ctypes.c_uint64
    return argument, ctypes.c_float if isinstance(argument, float) else ctypes.c_int


def _checked(answer: tuple[Any, ...]) -> Any:
    """What a function returned beside its status."""
    status, *results = answer
    if int(status):
        raise RuntimeError(f"CUDA says {status.name}")
    return results[0] if results else None
