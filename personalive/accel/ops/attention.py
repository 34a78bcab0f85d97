"""Which attention implementation runs: on a GPU, the fastest for each shape, as measured on that GPU.

Head widths of 40, 80 and 160 suit some kernels badly; which ones depends on the GPU and the version of PyTorch.
"""

import logging
import math
from collections.abc import Callable
from typing import get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from personalive.accel.autotune import Autotuned
from personalive.accel.findings import Findings
from personalive.errors import check_choice
from personalive.types import AttentionName

Backend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Queries [n, heads, l, width], keys and values [n, heads, m, width] → [n, heads, l, width]."""

NARROWEST, SHORTEST = 32, 64
"""Head width and number of keys from which the fused kernels are tried, by name, without PyTorch's own checks. Smaller
attention is so quick that the choice does not matter, and not every kernel fails cleanly at what it cannot do."""
WIDEST = 256
"""Head width up to which the fused kernels work."""
MAX_SCORES = 2**28
"""The most scores that are held at once: 512 MiB in half precision."""
MANY_SCORES = 2**27
"""Scores beyond which cuDNN's kernel is worth having: it takes seconds to be made for each new shape."""
CUDNN_CAPABILITY = (9, 0)
"""The compute capability from which cuDNN's kernel is what PyTorch takes by itself."""

_log = logging.getLogger(__name__)


def _cudnn(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    out: Tensor = torch.ops.aten._scaled_dot_product_cudnn_attention(query, key, value, None, False)[0]
    return out


def _flash(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    out: Tensor = torch.ops.aten._scaled_dot_product_flash_attention(query, key, value)[0]
    return out


def _efficient(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    out: Tensor = torch.ops.aten._scaled_dot_product_efficient_attention(query, key, value, None, False)[0]
    return out


def prebuilt(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """PyTorch's own choice, unless that is a kernel that has to be made first."""
    ready = query.is_cuda and torch.cuda.get_device_capability(query.device) >= CUDNN_CAPABILITY
    if ready and query.dtype in (torch.float16, torch.bfloat16) and _fits(query, key):
        return _flash(query, key, value)
    return F.scaled_dot_product_attention(query, key, value)


def _products(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Two products with the scores in memory: best for a few heads that are too wide for the fused kernels."""
    scores = (query * (1 / math.sqrt(query.shape[-1]))) @ key.transpose(-1, -2)
    return scores.softmax(dim=-1) @ value


def _xformers() -> Backend | None:
    try:
        from xformers.ops import memory_efficient_attention
    except Exception:  # a library that was built for another PyTorch or CUDA fails in many ways
        return None

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out: Tensor = memory_efficient_attention(*(x.transpose(1, 2) for x in (query, key, value)))
        return out.transpose(1, 2)

    return attend


def autotuned_attention(name: AttentionName = "auto", findings: Findings | None = None) -> Autotuned:
    """Attention by PyTorch's kernels ("sdpa"), by these or xformers ("auto"), or by xformers wherever it is faster.

    Raises:
        InputError: an unknown name.
    """
    check_choice("attention", name, get_args(AttentionName))
    xformers = None if name == "sdpa" else _xformers()
    candidates: dict[str, Backend] = {"cudnn": _cudnn, "flash": _flash, "efficient": _efficient, "products": _products}
    if xformers is not None:
        candidates = {"xformers": xformers} if name == "xformers" else {**candidates, "xformers": xformers}
    elif name == "xformers":
        _log.warning("xformers is missing or does not work here: PyTorch's attention is used instead")
    return Autotuned(f"attention, {name}", {"default": prebuilt, **candidates}, _suits, findings)


def _suits(candidate: str, query: Tensor, key: Tensor, value: Tensor) -> bool:
    scores = query.shape[:3].numel() * key.shape[2]
    if candidate == "products":
        return query.shape[-1] > WIDEST and scores <= MAX_SCORES
    return _fits(query, key) and (candidate != "cudnn" or scores > MANY_SCORES)


def _fits(query: Tensor, key: Tensor) -> bool:
    """Whether the fused kernels can compute it, and their choice matters."""
    width = query.shape[-1]
    return width % 8 == 0 and NARROWEST <= width <= WIDEST and min(query.shape[2], key.shape[2]) >= SHORTEST
