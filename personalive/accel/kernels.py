"""Which implementation of each operation a device gets. What does not work on a machine is skipped, with a line in the
log: the result is the same, only slower."""

import functools
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from personalive.accel.autotune import Autotuned
from personalive.accel.findings import Findings
from personalive.accel.ops import cuda, onednn, reference
from personalive.accel.ops.attention import prebuilt
from personalive.accel.ops.reference import Attention, Operations, linear_add
from personalive.errors import InputError, first_line

TRIED, WORKS = "own kernels", "work"
"""Topic and answer in `Findings`."""

_log = logging.getLogger(__name__)


def choose_operations(
    device: torch.device,
    dtype: torch.dtype,
    attention: Attention,
    findings: Findings,
    *,
    own_attention: bool = False,
    float8: bool = False,
    half_sums: bool = False,
) -> Operations:
    """The fastest that work on the device; `attention` counts on a GPU.

    Args:
        own_attention: attention to the portrait may be computed by a kernel of this package instead.
        float8: the kernels for fp8 will be used.
        half_sums: those of `with_half_sums` will be.

    Raises:
        InputError: kernels that were asked for do not work here.
    """
    if device.type == "cuda":
        return _on_gpu(
            device, dtype, attention, findings, own_attention=own_attention, float8=float8, half_sums=half_sums
        )
    return onednn.OPERATIONS if onednn.works(device, dtype) else Operations()


def with_half_sums(operations: Operations, device: torch.device, findings: Findings) -> Operations:
    """The same on a GPU, with sums of convolutions and linear layers in fp16 wherever that is measured to be faster."""
    from personalive.accel.ops.triton import convolution, products

    autotuned = functools.partial(_autotuned, findings, "fp32 sums")

    def new_sum(total: Tensor, x: Tensor, weight: Tensor, tile: products.Tile | None = None) -> Tensor:
        if tile is None:
            return total.addmm(x, weight.t())
        return products.linear_add(x, weight, None, total, tile)

    capability = torch.cuda.get_device_capability(device)
    tiles = products.worth_trying(products.HALF_SUM_TILES, capability)
    blocks = products.worth_trying(convolution.HALF_SUM_TILES, capability)
    sums = autotuned("a sum, fp16 sums", new_sum, new_sum, tiles)
    chosen = autotuned("a linear layer, fp16 sums", operations.linear, products.linear, tiles)

    def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return chosen(x, weight) if bias is None else chosen(x, weight, bias)

    def add_linear_(total: Tensor, x: Tensor, weight: Tensor) -> None:
        # Measured are sums in new tensors, as candidates run several times.
        tile = tiles.get(sums.chosen(total, x, weight))
        if tile is None:
            operations.add_linear_(total, x, weight)
        else:
            products.add_linear_(total, x, weight, tile)

    gated, added = operations.gated_linear, operations.linear_add
    return replace(
        operations,
        linear=linear,
        gated_linear=autotuned("a feed-forward's gate, fp16 sums", gated, products.gated_linear, tiles),
        linear_add=autotuned("a transformer's end, fp16 sums", added, products.linear_add, tiles),
        add_linear_=add_linear_,
        conv3x3=autotuned("a convolution, fp16 sums", operations.conv3x3, convolution.conv_half_sums, blocks),
    )


def _on_gpu(
    device: torch.device,
    dtype: torch.dtype,
    attention: Attention,
    findings: Findings,
    *,
    own_attention: bool,
    float8: bool,
    half_sums: bool,
) -> Operations:
    attend_bank: Callable[..., Tensor] = functools.partial(reference.attend_bank, attention=attention)
    plain = Operations(attention=attention, attend_bank=attend_bank)
    if dtype not in (torch.float16, torch.bfloat16):
        return plain  # the kernels are for half precision
    try:
        from personalive.accel.ops import triton as kernels
        from personalive.accel.ops.triton import pointwise, trial

        operations: Any = {name: getattr(kernels, name) for name in kernels.__all__}
        attend_bank = functools.partial(attend_bank, append=pointwise.append_bank)
        if own_attention:
            attend_bank = _attention_to_bank(device, dtype, attend_bank, findings)
        operations |= {"attention": attention, "attend_bank": attend_bank}
        fast = Operations(**operations, **_products(device, findings))
        question = f"{dtype}{', fp8' if float8 else ''}{', fp16 sums' if half_sums else ''}"
        known = findings.get(TRIED, question) == WORKS
        trial.run(fast, device, dtype, float8=float8, half_sums=half_sums, briefly=known)
        if not known:
            findings.keep(TRIED, question, WORKS)
    except Exception as error:  # no Triton, no C compiler, an unsupported GPU: this fails in many ways
        if float8 or half_sums:
            raise InputError(
                f"{'quantize fp8' if float8 else 'accumulate fp16'} needs Triton's kernels, which do not work here "
                f"({first_line(error)}): leave it out"
            ) from error
        _log.warning("the GPU kernels do not work here, PyTorch's are used instead: %s", first_line(error))
        return plain
    return fast


def _products(device: torch.device, findings: Findings) -> dict[str, Any]:
    """Products and what follows them: one kernel for both, or PyTorch's product and a second kernel, as measured."""
    from personalive.accel.ops.triton import geglu, products

    autotuned = functools.partial(_autotuned, findings, "two kernels")

    def gated(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return geglu(nn.functional.linear(x, weight, bias))

    capability = torch.cuda.get_device_capability(device)
    gates, sums = (products.worth_trying(tiles, capability) for tiles in (products.TILES, products.SUM_TILES))
    return {
        "gated_linear": autotuned("a feed-forward's gate", gated, products.gated_linear, gates),
        "linear_add": autotuned("a transformer's end", linear_add, products.linear_add, sums),
    }


def _attention_to_bank(
    device: torch.device, dtype: torch.dtype, joined: Callable[..., Tensor], findings: Findings
) -> Callable[..., Tensor]:
    """Attention to a portrait: PyTorch's after its keys have been joined to each frame's, or a kernel for both."""
    if torch.cuda.get_device_capability(device) != cuda.CAPABILITY:
        return joined
    try:
        from personalive.accel.ops.cuda.bank_attention import BankAttention

        own = BankAttention(dtype)
    except Exception as error:  # cuda-bindings or NVRTC is missing or broken, or of another version
        _log.warning("attention of our own does not work here, PyTorch's is used instead: %s", first_line(error))
        return joined

    def suits(candidate: str, qkv: Tensor, keys: Tensor, values: Tensor) -> bool:
        return own.suits(qkv, keys)

    # Compared with what is there at once: cuDNN's kernel takes seconds to be made, and is slower than the own one.
    at_once = functools.partial(joined, attention=prebuilt)
    choice = Autotuned("attention to a portrait", {"joined": at_once, "own": own}, suits, findings)

    def attend_bank(qkv: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        attend = own if choice.chosen(qkv, keys, values) == "own" else joined
        return attend(qkv, keys, values)

    return attend_bank


def _autotuned(
    findings: Findings,
    plain_name: str,
    name: str,
    plain: Callable[..., Tensor],
    kernel: Callable[..., Tensor],
    tiles: Mapping[str, Any],
) -> Autotuned:
    """A choice between a plain way and a kernel with each of some tiles."""
    kernels = {key: functools.partial(kernel, tile=tile) for key, tile in tiles.items()}
    return Autotuned(name, {plain_name: plain, **kernels}, findings=findings)
