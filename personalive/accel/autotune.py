"""Several ways to compute the same thing, of which the fastest on this GPU is used."""

import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from personalive.accel.findings import Findings

TRIALS = 5
"""Timed runs of each candidate; the shortest counts."""
HELD_CYCLES = 4_000_000
"""For how many of its cycles, some 2 ms, a GPU is kept busy while the host starts the timed runs."""
MAX_SLOWER = 1.2
"""How many times as long as the first candidate a choice of an earlier start may take without being measured again."""
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
        findings: Findings | None = None,
    ) -> None:
        """Choose among functions with the same result, which do not change their arguments.

        Args:
            name: for the log.
            candidates: by name; the first always works, and is used while a graph is captured.
            suits: whether a candidate, by its name and the arguments, is worth trying. It is not asked about the first.
            findings: what earlier starts have found. It is tried once before it is believed.
        """
        self._name, self._candidates, self._suits = name, dict(candidates), suits
        self._findings = findings or Findings(None)
        self._choices: dict[Any, str] = {}

    def __call__(self, *arguments: Tensor) -> Tensor:
        return self._candidates[self.chosen(*arguments)](*arguments)

    def chosen(self, *arguments: Tensor) -> str:
        """Name of the candidate for arguments of these shapes, measured with these if it is not known yet."""
        key = tuple((argument.shape, argument.dtype) for argument in arguments)
        if key not in self._choices:
            if torch.cuda.is_current_stream_capturing():  # nothing can be timed meanwhile
                return next(iter(self._candidates))
            self._choices[key] = self._choose(arguments)
        return self._choices[key]

    @property
    def choices(self) -> dict[str, str]:
        """Name of the candidate for each combination of shapes so far."""
        return {", ".join(_by(shape) for shape, _ in key): choice for key, choice in self._choices.items()}

    def _choose(self, arguments: tuple[Tensor, ...]) -> str:
        """What an earlier start has found, if that still holds; otherwise what is measured now."""
        question = ", ".join(f"{_by(argument.shape)} {argument.dtype}" for argument in arguments)
        found = self._findings.get(self._name, question)
        if found is not None and self._holds(found, arguments):
            return found
        best = self._measure(arguments)
        self._findings.keep(self._name, question, best)
        return best

    def _holds(self, found: str, arguments: tuple[Tensor, ...]) -> bool:
        """Whether a candidate works, is right, and is not slower than the first; by one run."""
        (first, plain), *_ = self._candidates.items()
        if found == first:
            return True
        if found not in self._candidates or not self._suits(found, *arguments):
            return False
        candidate = self._candidates[found]
        try:
            if not _agrees(candidate(*arguments), plain(*arguments)):
                return False
            return milliseconds(candidate, arguments, 1) <= MAX_SLOWER * milliseconds(plain, arguments, 1)
        except Exception as error:  # as in `_measure`
            _log.debug("%s by %s, found by an earlier start, does not work: %s", self._name, found, error)
            return False

    def _measure(self, arguments: tuple[Tensor, ...]) -> str:
        (first, plain), *others = self._candidates.items()
        others = [(name, candidate) for name, candidate in others if self._suits(name, *arguments)]
        if not others:
            return first
        expected = plain(*arguments)
        times = {first: milliseconds(plain, arguments)}
        for name, candidate in others:
            try:
                if not _agrees(candidate(*arguments), expected):
                    raise RuntimeError("its result is wrong")
                times[name] = milliseconds(candidate, arguments)
            except Exception as error:  # a kernel that does not compile or fit fails in many ways
                _log.debug("%s by %s does not work: %s", self._name, name, error)
        best = min(times, key=times.__getitem__)
        _log.debug("%s of %s: %s of %s", self._name, [tuple(a.shape) for a in arguments], best, times)
        return best


def milliseconds(function: Callable[..., Any], arguments: tuple[Tensor, ...], trials: int = TRIALS) -> float:
    """The shortest of some runs on a GPU, after one that is not counted.

    The host's time to start a kernel does not count: graphs do without it. So the GPU is kept busy until all runs are
    waiting for it.
    """
    function(*arguments)
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(trials)]
    torch.cuda._sleep(HELD_CYCLES)
    for start, end in events:
        start.record()
        function(*arguments)
        end.record()
    events[-1][1].synchronize()
    return min(float(start.elapsed_time(end)) for start, end in events)


def _agrees(result: Tensor, expected: Tensor) -> bool:
    """Without copies in fp32: captures keep what is used here."""
    length = functools.partial(torch.linalg.vector_norm, dtype=torch.float32)
    return bool(length(result - expected) <= MAX_REL_ERROR * length(expected))


def _by(shape: torch.Size) -> str:
    return "x".join(map(str, shape))
