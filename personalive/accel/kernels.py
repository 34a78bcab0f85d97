"""Which implementation of each operation a device gets. What does not work on a machine is skipped, with a line in the
log: the result is the same, only slower."""

import functools
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from personalive.accel.autotune import Autotuned
from personalive.accel.findings import Findings
from personalive.accel.ops import onednn
from personalive.accel.ops.reference import Attention, Operations, linear_add
from personalive.errors import InputError, first_line

TRIED, WORKS = "own kernels", "work"
"""Topic and answer in `Findings`."""

_log = logging.getLogger(__name__)


def choose_operations(
    device: torch.device, dtype: torch.dtype, attention: Attention, findings: Findings, *, float8: bool
) -> Operations:
    """The fastest that work on the device; `attention` counts on a GPU."""
    if device.type == "cuda":
        return _on_gpu(device, dtype, attention, findings, float8=float8)
    return onednn.OPERATIONS if onednn.works(device, dtype) else Operations()


def _on_gpu(
    device: torch.device, dtype: torch.dtype, attention: Attention, findings: Findings, *, float8: bool
) -> Operations:
    plain = Operations(attention=attention)
    if dtype not in (torch.float16, torch.bfloat16):
        return plain  # the kernels are for half precision
    try:
        from personalive.accel.ops import triton as kernels
        from personalive.accel.ops.triton import trial

        operations: Any = {name: getattr(kernels, name) for name in kernels.__all__}
        fast = Operations(**operations, **_products(device, findings), attention=attention)
        question = f"{dtype}{', fp8' if float8 else ''}"
        known = findings.get(TRIED, question) == WORKS
        trial.run(fast, device, dtype, float8=float8, briefly=known)
        if not known:
            findings.keep(TRIED, question, WORKS)
    except Exception as error:  # no Triton, no C compiler, an unsupported GPU: this fails in many ways
        if float8:
            raise InputError(
                f"quantize fp8 needs Triton's kernels, which do not work here ({first_line(error)}): leave it out"
            ) from error
        _log.warning("the GPU kernels do not work here, PyTorch's are used instead: %s", first_line(error))
        return plain
    return fast


def _products(device: torch.device, findings: Findings) -> dict[str, Any]:
    """Products and what follows them: one kernel for both, or PyTorch's product and a second kernel, as measured."""
    from personalive.accel.ops.triton import geglu, products

    def autotuned(name: str, plain: Callable[..., Tensor], kernel: Callable[..., Tensor], tiles: Any) -> Autotuned:
        one = {f"one kernel, {key}": functools.partial(kernel, tile=tile) for key, tile in tiles.items()}
        return Autotuned(name, {"two kernels": plain, **one}, findings=findings)

    def gated(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return geglu(nn.functional.linear(x, weight, bias))

    gates, sums = products.tiles(torch.cuda.get_device_capability(device))
    return {
        "gated_linear": autotuned("a feed-forward's gate", gated, products.gated_linear, gates),
        "linear_add": autotuned("a transformer's end", linear_add, products.linear_add, sums),
    }
