"""Functions as CUDA graphs: captured once per combination of shapes, then replayed as a whole, not kernel by kernel."""

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from personalive.accel.offload import packed_strides
from personalive.errors import first_line

MAX_GRAPHS = 12
"""The most captures of one function; the least recently used goes first."""
FIRST_PAUSE = 4
"""Calls that run without a graph after the device had too little memory to capture one; doubled each time."""

Function: TypeAlias = Callable[..., tuple[Tensor, ...]]

_log = logging.getLogger(__name__)


class _Input:
    """Where captures read one tensor from. All captures of a function share it, whatever the shapes."""

    def __init__(self) -> None:
        self.memory: Tensor | None = None
        self.source: Tensor | None = None
        """The tensor whose values it holds, if that never changes; kept, so that no other can be mistaken for it."""

    def view(self, like: Tensor) -> tuple[Tensor, bool]:
        """A part of the memory with the shape and layout of `like`, and whether the memory had to grow for it."""
        grown = self.memory is None or self.memory.numel() < like.numel() or self.memory.dtype != like.dtype
        if grown or self.memory is None:
            self.memory, self.source = torch.empty(like.numel(), dtype=like.dtype, device=like.device), None
        return self.memory[: like.numel()].as_strided(like.shape, packed_strides(like)), grown

    def write(self, target: Tensor, given: Tensor, constant: bool) -> None:
        """Copy the argument to its `view`, unless it is a constant that is already there."""
        if constant and self.source is given:
            return
        self.source = given if constant else None
        target.copy_(given, non_blocking=True)


@dataclass(frozen=True)
class _Capture:
    replay: Callable[[], None]
    inputs: list[_Input]
    views: list[Tensor]
    outputs: tuple[Tensor, ...]


class GraphMemory:
    """Memory and the stream that all captures of a model share.

    Captures that share memory must not run at the same time; `lock` ensures that.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
        self.stream = torch.cuda.Stream(self.device)
        self.lock = threading.RLock()
        self.renew()

    def renew(self) -> None:
        """Use a new pool from now on: a failed capture may have spoilt the last one."""
        with torch.cuda.device(self.device):
            self.pool: Any = torch.cuda.MemPool()

    def capture(self, run: Callable[[], Any], shared: bool) -> tuple[Callable[[], None], Any]:
        """Run once, so that everything that is created on first use exists, then capture.

        Args:
            shared: the first run uses the memory that the capture will use. What it creates for good must not be
                there: earlier captures write to everything that was free when they were made.

        Returns:
            What replays the capture, and the tensors that receive its results.
        """
        with self._first_run(shared):
            run()
        graph = torch.cuda.CUDAGraph()
        # The outer context returns to the caller's stream even if the capture fails at its end. Other threads may do
        # what is not allowed in a capture, such as waiting for a copy.
        with (
            torch.cuda.stream(torch.cuda.current_stream(self.device)),
            torch.cuda.graph(graph, pool=self.pool.id, stream=self.stream, capture_error_mode="thread_local"),
        ):
            outputs = run()
        return graph.replay, outputs

    @contextmanager
    def _first_run(self, shared: bool) -> Iterator[None]:
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        torch.cuda.empty_cache()  # what other work has left must not add to what this run uses
        with torch.cuda.stream(self.stream):
            torch.cuda.current_blas_handle()  # this creates what a library keeps for the thread and the stream
            with torch.cuda.use_mem_pool(self.pool, self.device) if shared else nullcontext():
                yield
        current.wait_stream(self.stream)
        torch.cuda.synchronize(self.device)
        torch.cuda.empty_cache()


class CapturedFunction:
    """A function of tensors that is captured for each combination of shapes, and replayed."""

    def __init__(
        self, name: str, function: Function, memory: GraphMemory, *, allocates_persistent: bool = True
    ) -> None:
        """Wrap `function`, whose results depend on its arguments alone.

        Args:
            name: for the log.
            allocates_persistent: whether its first run may create something that stays, such as a table.
        """
        self.name, self.function, self.memory = name, function, memory
        self._allocates_persistent = allocates_persistent
        self._captures: OrderedDict[Hashable, _Capture] = OrderedDict()
        self._inputs: dict[tuple[str, int], _Input] = {}
        self._works, self._has_captured = True, False
        self._pause, self._calls_left = FIRST_PAUSE, 0

    def __call__(self, *tensors: Tensor, constants: Sequence[Tensor] = (), **static: Hashable) -> tuple[Tensor, ...]:
        """What `function(*tensors, *constants, **static)` returns; the tensors belong to the caller.

        Args:
            constants: tensors that never change once they are made. They are copied to where the graph reads them only
                when they differ from those of the last call.
            static: arguments that are not tensors.
        """
        with self.memory.lock:
            capture = self._find(tensors, constants, static)
            if capture is None:
                return self.function(*tensors, *constants, **static)
            for place, (source, view, given) in enumerate(
                zip(capture.inputs, capture.views, (*tensors, *constants), strict=True)
            ):
                source.write(view, given, constant=place >= len(tensors))
            capture.replay()
            return tuple(output.clone() for output in capture.outputs)

    def prepare(self, *tensors: Tensor) -> None:
        """Capture for the shapes of these tensors, if that has not been done yet."""
        with self.memory.lock:
            self._find(tensors, (), {})

    def _find(
        self, tensors: Sequence[Tensor], constants: Sequence[Tensor], static: dict[str, Hashable]
    ) -> _Capture | None:
        """The capture for these arguments, made if necessary; None if that is not possible now."""
        if not self._works:
            return None
        given = (*tensors, *constants)
        key = (len(tensors), tuple((x.shape, x.dtype, x.device) for x in given), tuple(sorted(static.items())))
        if key not in self._captures:
            if self._calls_left:
                self._calls_left -= 1
                return None
            try:
                self._captures[key] = self._capture(tensors, constants, static)
            except RuntimeError as error:
                self._give_up(error)
                return None
            self._pause = FIRST_PAUSE
        self._captures.move_to_end(key)
        while len(self._captures) > MAX_GRAPHS:
            self._captures.popitem(last=False)
        return self._captures[key]

    def _capture(self, tensors: Sequence[Tensor], constants: Sequence[Tensor], static: dict[str, Hashable]) -> _Capture:
        given = (*tensors, *constants)
        places = [("tensor", i) for i in range(len(tensors))] + [("constant", i) for i in range(len(constants))]
        inputs = [self._inputs.setdefault(place, _Input()) for place in places]
        seen = [source.view(tensor) for source, tensor in zip(inputs, given, strict=True)]
        grown = {source for source, (_, has_grown) in zip(inputs, seen, strict=True) if has_grown}
        # Captures that read from memory that has been released.
        for key in [key for key, capture in self._captures.items() if not grown.isdisjoint(capture.inputs)]:
            del self._captures[key]
        views = [view for view, _ in seen]
        for source, view, tensor in zip(inputs, views, given, strict=True):
            source.write(view, tensor, constant=False)
        shared = self._has_captured or not self._allocates_persistent
        replay, outputs = self.memory.capture(lambda: self.function(*views, **static), shared)
        self._has_captured = True
        return _Capture(replay, inputs, views, outputs)

    def _give_up(self, error: RuntimeError) -> None:
        """Do without a graph: for good, or only for a while if memory was short."""
        self.memory.renew()
        if _is_out_of_memory(error):
            self._calls_left, self._pause = self._pause, 2 * self._pause
            _log.warning("too little memory to capture %s: it runs without a CUDA graph for a while", self.name)
            return
        self._works = False
        self._captures.clear()
        self._inputs.clear()
        _log.warning("%s runs without a CUDA graph: %s", self.name, first_line(error))


def _is_out_of_memory(error: BaseException | None) -> bool:
    """Whether memory was short, even if ending the capture then failed too."""
    while error is not None and not isinstance(error, torch.OutOfMemoryError):
        error = error.__cause__ or error.__context__
    return error is not None
