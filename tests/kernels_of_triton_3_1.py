"""Compiles the GPU kernels that a start tries, with Triton 3.1 (PyTorch 2.5's) and no GPU.

    python tests/kernels_of_triton_3_1.py CAPABILITY [fp8]

Prints one line for each kernel, `ok` or `failed`, its name and its constants. Each is compiled in a process of its own,
as a defect in the compiler ends the process.
"""

import os
import sys
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, AttrsDescriptor
from triton.runtime.jit import KernelInterface

from personalive.accel.ops import triton as kernels
from personalive.accel.ops.reference import Operations
from personalive.accel.ops.triton import trial

TYPES = {torch.float16: "fp16", torch.float32: "fp32", torch.float8_e4m3fn: "fp8e4nv"}
OPTIONS = ("num_warps", "num_stages")

Launch = tuple[Any, dict[int, str], dict[int, Any], tuple[int, ...], dict[str, int]]
"""A kernel, the types and constants of its arguments, those that are divisible by 16, and the compiler's options."""


def launches(float8: bool) -> list[Launch]:
    """What the trial would launch at the model's sizes."""
    found: dict[str, Launch] = {}

    def record(kernel: Any, grid: Any) -> Any:
        def launch(*arguments: Any, **named: Any) -> None:
            options = {name: named.pop(name) for name in OPTIONS if name in named}
            bound = kernel.signature.bind(*arguments, **named)
            types: dict[int, str] = {}
            constants: dict[int, Any] = {}
            divisible = []
            for index, (parameter, value) in enumerate(zip(kernel.params, bound.arguments.values(), strict=True)):
                is_size = type(value) is int and not parameter.do_not_specialize
                if parameter.is_constexpr or (is_size and value == 1):
                    constants[index] = value
                    continue
                is_tensor = isinstance(value, torch.Tensor)
                types[index] = f"*{TYPES[value.dtype]}" if is_tensor else "i32" if isinstance(value, int) else "fp32"
                if is_tensor or (is_size and value % 16 == 0):
                    divisible.append(index)
            found[f"{kernel.__name__} {constants} {types} {divisible} {options}"] = (
                kernel, types, constants, tuple(divisible), options,
            )  # fmt: skip

        return launch

    KernelInterface.__getitem__ = record
    operations = Operations(**{name: getattr(kernels, name) for name in kernels.__all__})

    def zeros(*shape: int) -> torch.Tensor:
        return torch.zeros(shape, dtype=torch.float16)

    for each in trial._trials(zeros, float8=float8):
        each.call(operations)(*each.arguments, **each.options)
    for call in trial._products(torch.device("cpu"), zeros, half_sums=False):
        call()
    return list(found.values())


def compiles(launch: Launch, capability: int) -> bool:
    """Whether a process that compiles it ends well."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] == 0
    status = 1
    try:
        kernel, types, constants, divisible, options = launch
        source = ASTSource(kernel, types, constants, AttrsDescriptor(divisible, ()))
        triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
        status = 0
    finally:
        os._exit(status)


def main() -> None:
    assert triton.__version__.startswith("3.1."), triton.__version__
    capability, float8 = int(sys.argv[1]), sys.argv[2:] == ["fp8"]
    for launch in launches(float8):
        kernel, _, constants, _, options = launch
        named = {kernel.params[index].name: value for index, value in constants.items()}
        print("ok" if compiles(launch, capability) else "failed", kernel.__name__, named, options, flush=True)


if __name__ == "__main__":
    main()
