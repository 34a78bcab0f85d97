"""Several ways to compute the same thing, of which the fastest on this GPU is used."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

TRIALS = 5
"""Timed runs of each candidate; the shortest counts."""
MAX_REL_ERROR = 0.02
"""The largest relative difference from the first candidate's result that passes as rounding."""

_log = logging.getLogger(__name__)


class Autotuned:
    """A function of tensors that uses, for each combination of shapes, the candidate that was fastest at first."""

    def __init__(
        self,
        name: str,
        candidates: Mapping[str, Callable[..., Tensor]],
        suits: Callable[..., bool] = lambda candidate, *arguments: True,
    ) -> None:
        """Choose among functions with the same result, which do not change their arguments.

        Args:
            name: for the log.
            candidates: by name; the first always works, and is used while a graph is captured.
            suits: whether a candidate, by its name and the arguments, is worth trying. It is not asked about the first.
        """
        self._name, self._candidates, self._suits = name, dict(candidates), suits
        self._choices: dict[Any, str] = {}

    def __call__(self, *arguments: Tensor) -> Tensor:
        key = tuple((argument.shape, argument.dtype) for argument in arguments)
        if key not in self._choices:
            if torch.cuda.is_current_stream_capturing():  # nothing can be timed meanwhile
                return next(iter(self._candidates.values()))(*arguments)
            self._choices[key] = self._measure(arguments)
        return self._candidates[self._choices[key]](*arguments)

    @property
    def choices(self) -> dict[str, str]:
        """Name of the candidate for each combination of shapes so far."""
        return {
            ", ".join("x".join(map(str, shape)) for shape, _ in key): choice for key, choice in self._choices.items()
        }

    def _measure(self, arguments: tuple[Tensor, ...]) -> str:
        (first, plain), *others = self._candidates.items()
        others = [(name, candidate) for name, candidate in others if self._suits(name, *arguments)]
        if not others:
            return first
        expected = plain(*arguments).float()
        times = {first: milliseconds(plain, arguments)}
        for name, candidate in others:
            try:
                if not (candidate(*arguments).float() - expected).norm() <= MAX_REL_ERROR * expected.norm():
                    raise RuntimeError("its result is wrong")
                times[name] = milliseconds(candidate, arguments)
            except Exception as error:  # a kernel that does not compile or fit fails in many ways
                _log.debug("%s by %s does not work: %s", self._name, name, error)
        best = min(times, key=times.__getitem__)
        _log.debug("%s of %s: %s of %s", self._name, [tuple(a.shape) for a in arguments], best, times)
        return best


def milliseconds(function: Callable[..., Any], arguments: tuple[Tensor, ...]) -> float:
    """The shortest of some runs on a GPU, after one that is not counted."""
    function(*arguments)
    times: list[float] = []
    for _ in range(TRIALS):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        function(*arguments)
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return min(times)
