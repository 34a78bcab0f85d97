"""Functions as CUDA graphs: recorded once per combination of shapes, then replayed as a whole, not kernel by kernel."""

import logging
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from personalive.errors import first_line

MAX_GRAPHS = 12
"""Recordings that one function keeps; the one that was unused for longest goes first."""

_ALLOCATE_FROM_POOL = (
    ("_cuda_beginAllocateCurrentThreadToPool", "_cuda_endAllocateToPool"),
    ("_cuda_beginAllocateCurrentStreamToPool", "_cuda_endAllocateCurrentStreamToPool"),  # PyTorch 2.5
)
_log = logging.getLogger(__name__)


def flatten(value: Any, leaves: list[Tensor]) -> Any:
    """Append every tensor within `value` to `leaves`; give a hashable description of the rest.

    Looks into tuples, lists and dataclasses; anything else must be hashable.
    """
    if isinstance(value, Tensor):
        leaves.append(value)
        return value.shape, value.dtype, value.device
    if is_dataclass(value) and not isinstance(value, type):
        return type(value), *(flatten(getattr(value, field.name), leaves) for field in fields(value))
    if isinstance(value, tuple | list):
        return type(value), *(flatten(item, leaves) for item in value)
    return value


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where each tensor within `value` is, in the order in which `flatten` finds them."""
    if isinstance(value, Tensor):
        yield at
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from places(getattr(value, field.name), (*at, field.name))
    elif isinstance(value, tuple | list):
        for index, item in enumerate(value):
            yield from places(item, (*at, index))


def rebuild(value: Any, leaves: Sequence[Tensor]) -> Any:
    """`value` with its tensors replaced by `leaves`, in the order in which `flatten` found them."""
    return _rebuild(value, iter(leaves))


def _rebuild(value: Any, leaves: Any) -> Any:
    if isinstance(value, Tensor):
        return next(leaves)
    if is_dataclass(value) and not isinstance(value, type):
        return type(value)(*(_rebuild(getattr(value, field.name), leaves) for field in fields(value)))
    if isinstance(value, tuple | list):
        items = [_rebuild(item, leaves) for item in value]
        # A named tuple takes its items one by one.
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value


class _Input:
    """Where recordings read one tensor from. All recordings of a function share it, whatever the shapes."""

    def __init__(self) -> None:
        self.memory: Tensor | None = None
        self.source: Tensor | None = None
        """The tensor whose values it holds, if that never changes; kept, so that no other can be taken for it."""

    def view(self, like: Tensor) -> tuple[Tensor, bool]:
        """A part of the memory with the shape and layout of `like`, and whether the memory had to grow for it."""
        grown = self.memory is None or self.memory.numel() < like.numel() or self.memory.dtype != like.dtype
        if grown or self.memory is None:
            self.memory, self.source = torch.empty(like.numel(), dtype=like.dtype, device=like.device), None
        strides = torch.empty_like(like, device="meta").stride()
        return self.memory[: like.numel()].as_strided(like.shape, strides), grown

    def write(self, target: Tensor, given: Tensor, constant: bool) -> None:
        """Copy the argument to its `view`, unless it is a constant that is there already."""
        if constant and self.source is given:
            return
        self.source = given if constant else None
        target.copy_(given, non_blocking=True)


@dataclass(frozen=True)
class _Recording:
    replay: Callable[[], None]
    places: list[_Input]
    inputs: list[Tensor]
    outputs: Any


class GraphMemory:
    """Memory and the stream that all recordings of a model share.

    Recordings that share memory must not run at the same time: `lock` sees to it.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.pool: Any = torch.cuda.graph_pool_handle()
        self.stream = torch.cuda.Stream(device)
        self.lock = threading.RLock()
        self._keeper = torch.cuda.CUDAGraph()
        """It records nothing. PyTorch gives a pool up with the last of its graphs, even before there is a first."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The CUDA Graph is empty")
            with self._capture(self._keeper):
                pass

    @contextmanager
    def first_run(self, within: bool) -> Iterator[None]:
        """For the run before a recording; `within` as in `record`."""
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        torch.cuda.empty_cache()  # what other work has left must not add to what this run takes
        with torch.cuda.stream(self.stream):
            torch.cuda.current_blas_handle()  # this makes what a library keeps for the thread and the stream
            with _allocating_from(self.pool, self.device) if within else nullcontext():
                yield
        current.wait_stream(self.stream)
        torch.cuda.synchronize(self.device)
        torch.cuda.empty_cache()

    def record(self, run: Callable[[], Any], within: bool) -> tuple[Callable[[], None], Any]:
        """Run once, so that everything that is made at first use exists, then record.

        Args:
            within: that run takes the memory that the recording will take. What it makes for good must not lie there:
                recordings that were made before write to all of it that was free then.

        Returns:
            What runs the recording, and what it puts its results into.
        """
        with self.first_run(within):
            run()
        graph = torch.cuda.CUDAGraph()
        with self._capture(graph):
            outputs = run()
        return graph.replay, outputs

    def _capture(self, graph: Any) -> AbstractContextManager[Any]:
        # Other threads may do what a recording can not take in, such as waiting for a copy.
        return torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local")


@contextmanager
def _allocating_from(pool: Any, device: torch.device) -> Iterator[None]:
    """What this thread allocates on its current stream comes from a pool that recordings have.

    PyTorch's compiler does so before its own recordings. The functions for it are not public, and their names depend on
    the version; without them the run takes memory of its own, 0.7 GiB in the published model.
    """
    functions: Any = torch._C
    for begin, end in _ALLOCATE_FROM_POOL:
        if hasattr(functions, begin) and hasattr(functions, end):
            break
    else:
        yield
        return
    index = torch.cuda.current_device() if device.index is None else device.index
    getattr(functions, begin)(index, pool)
    try:
        yield
    finally:
        getattr(functions, end)(index, pool)
        functions._cuda_releasePool(index, pool)


class GraphFunction:
    """A function of tensors that is recorded for each combination of shapes, and replayed."""

    def __init__(
        self,
        name: str,
        function: Callable[..., Any],
        memory: GraphMemory,
        constants: Sequence[int] = (),
        *,
        keeps: bool = True,
    ) -> None:
        """Wrap `function`, whose result depends on its arguments alone.

        Args:
            name: for the log.
            constants: places of arguments whose tensors never change once they are made: they are copied to the graph
                when they are others than at the last call, and not at every call.
            keeps: whether its first call may make what it keeps for good, such as a table.
        """
        self.name, self.function, self.memory, self.constants = name, function, memory, frozenset(constants)
        self.keeps = keeps
        self._recordings: OrderedDict[Any, _Recording] = OrderedDict()
        self._inputs: dict[tuple[Any, ...], _Input] = {}
        self._works, self._has_recorded = True, False

    def __call__(self, *arguments: Any) -> Any:
        """What `function` returns; the tensors in it are the caller's own."""
        if not self._works:
            return self.function(*arguments)
        with self.memory.lock:
            return self._call(arguments)

    def prepare(self, *arguments: Any) -> None:
        """Record for the shapes of these arguments, if that is not done yet."""
        if self._works:
            with self.memory.lock:
                self._find(arguments)

    def _call(self, arguments: tuple[Any, ...]) -> Any:
        recording, leaves, constant = self._find(arguments)
        if recording is None:
            return self.function(*arguments)
        for source, target, given, fixed in zip(recording.places, recording.inputs, leaves, constant, strict=True):
            source.write(target, given, fixed)
        recording.replay()
        outputs: list[Tensor] = []
        flatten(recording.outputs, outputs)
        return rebuild(recording.outputs, [output.clone() for output in outputs])

    def _find(self, arguments: tuple[Any, ...]) -> tuple[_Recording | None, list[Tensor], list[bool]]:
        """The recording for these arguments, made if need be; the tensors in them, and which of those are constants."""
        leaves: list[Tensor] = []
        constant: list[bool] = []
        shape = []
        for place, argument in enumerate(arguments):
            shape.append(flatten(argument, leaves))
            constant += [place in self.constants] * (len(leaves) - len(constant))
        key = tuple(shape)
        if key not in self._recordings:
            try:
                self._recordings[key] = self._record(arguments, leaves)
            except RuntimeError as error:
                self._works = False
                self._recordings.clear()
                self._inputs.clear()
                _log.warning("%s runs without a CUDA graph: %s", self.name, first_line(error))
                return None, leaves, constant
        self._recordings.move_to_end(key)
        while len(self._recordings) > MAX_GRAPHS:
            self._recordings.popitem(last=False)
        return self._recordings[key], leaves, constant

    def _record(self, arguments: tuple[Any, ...], leaves: list[Tensor]) -> _Recording:
        """Record for the shapes of these arguments, which then are where the recording reads them."""
        sources = [self._inputs.setdefault(place, _Input()) for place in places(arguments)]
        views = [source.view(leaf) for source, leaf in zip(sources, leaves, strict=True)]
        grown = {source for source, (_, has_grown) in zip(sources, views, strict=True) if has_grown}
        # Recordings that read from memory that has been given up.
        for key in [key for key, recording in self._recordings.items() if not grown.isdisjoint(recording.places)]:
            del self._recordings[key]
        inputs = [view for view, _ in views]
        for source, target, leaf in zip(sources, inputs, leaves, strict=True):
            source.write(target, leaf, constant=False)
        static = rebuild(arguments, inputs)
        replay, outputs = self.memory.record(lambda: self.function(*static), self._has_recorded or not self.keeps)
        self._has_recorded = True
        return _Recording(replay, sources, inputs, outputs)
