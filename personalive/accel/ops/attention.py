"""Which attention implementation runs: on a GPU, the fastest for each shape, as measured on that GPU.

Head widths of 40, 80 and 160 suit some kernels badly, and which ones differs between GPUs and versions of PyTorch.
"""

import logging
import math
from collections.abc import Callable
from typing import Any, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from personalive.errors import InputError
from personalive.types import AttentionName as AttentionName

ATTENTION_NAMES: tuple[AttentionName, ...] = get_args(AttentionName)

Backend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Queries [n, heads, l, width], keys and values [n, heads, m, width] → [n, heads, l, width]."""

TRIALS = 3
"""Timed runs of each candidate, of which the shortest counts."""
NARROWEST, SHORTEST = 32, 64
"""Head width and number of keys from which the fused kernels are tried, by name, without PyTorch's own checks. Smaller
attention is so quick that the choice does not matter, and not every kernel refuses politely what it can not do."""
MAX_SCORES = 2**28
"""Scores that may be held at once: 512 MiB in half precision."""

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


def _products(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Two products with the scores in memory: the best for few heads that are too wide for the fused kernels."""
    scores = (query * (1 / math.sqrt(query.shape[-1]))) @ key.transpose(-1, -2)
    return scores.softmax(dim=-1) @ value


def _xformers() -> Backend | None:
    try:
        from xformers.ops import memory_efficient_attention
    except Exception:  # a library built for another PyTorch or CUDA fails in many ways
        return None

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out: Tensor = memory_efficient_attention(*(x.transpose(1, 2) for x in (query, key, value)))
        return out.transpose(1, 2)

    return attend


class MeasuredAttention:
    """Attention by the backend that was fastest when a shape came for the first time."""

    def __init__(self, name: AttentionName = "auto") -> None:
        """Choose among PyTorch's own ("sdpa"), these and xformers ("auto"), or take xformers wherever it works.

        Raises:
            InputError: an unknown name.
        """
        if name not in ATTENTION_NAMES:
            raise InputError(f"attention is {name!r}: choose one of {', '.join(ATTENTION_NAMES)}")
        xformers = None if name == "sdpa" else _xformers()
        if name == "xformers" and xformers is None:
            _log.warning("xformers is missing or does not work here: PyTorch's attention takes its place")
        self._candidates: dict[str, Backend] = {"cudnn": _cudnn, "flash": _flash, "efficient": _efficient}
        if name == "xformers" and xformers is not None:
            self._candidates = {"xformers": xformers}
        elif xformers is not None:
            self._candidates["xformers"] = xformers
        self._choices: dict[Any, tuple[str, Backend]] = {}

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        shape = (*query.shape, key.shape[2], query.dtype)
        choice = self._choices.get(shape)
        if choice is None:
            if torch.cuda.is_current_stream_capturing():  # nothing can be timed while a graph is recorded
                return F.scaled_dot_product_attention(query, key, value)
            choice = self._choices[shape] = self._measure(query, key, value)
        return choice[1](query, key, value)

    @property
    def choices(self) -> dict[str, str]:
        """Name of the backend for each shape so far, "batch x heads x queries x width, keys, dtype"."""
        return {
            f"{n}x{heads}x{queries}x{width}, {keys}, {str(dtype)[6:]}": name
            for (n, heads, queries, width, keys, dtype), (name, _) in self._choices.items()
        }

    def _measure(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[str, Backend]:
        width, lengths = query.shape[-1], (query.shape[2], key.shape[2])
        if width % 8 or width < NARROWEST or min(lengths) < SHORTEST:
            return "default", F.scaled_dot_product_attention
        candidates = dict(self._candidates)
        if query.shape[:3].numel() * key.shape[2] <= MAX_SCORES and query.shape[-1] > 256:
            candidates["products"] = _products
        times: dict[str, float] = {}
        for name, backend in candidates.items():
            try:
                times[name] = _time(backend, query, key, value)
            except RuntimeError:  # not built, or not for this width, dtype or GPU
                continue
        if not times:
            return "default", F.scaled_dot_product_attention
        best = min(times, key=times.__getitem__)
        _log.debug("attention %s, %d keys: %s of %s", tuple(query.shape), key.shape[2], best, times)
        return best, candidates[best]


def _time(backend: Backend, query: Tensor, key: Tensor, value: Tensor) -> float:
    """Shortest of some runs in milliseconds, after one that is not counted."""
    backend(query, key, value)
    times: list[float] = []
    for _ in range(TRIALS):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        backend(query, key, value)
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return min(times)
