"""Functions of tensors as CUDA graphs: small networks take less time on a GPU than Python takes to launch them."""

from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor

from personalive.accel.cuda_graphs import CapturedFunction, GraphMemory

Tensors: TypeAlias = dict[str, Tensor]


class Captured:
    """A function of tensors by name. On a GPU it is captured once for each set of shapes, and replayed from then on.

    The function must not depend on anything else that changes, and must not wait for the GPU. On a CPU it simply runs.
    """

    def __init__(self, name: str, function: Callable[[Tensors], Tensors]) -> None:
        """Wrap `function`, which always returns the same names; `name` is for the log."""
        self._name, self._function = name, function
        self._memory: GraphMemory | None = None
        self._graphs: dict[tuple[str, ...], CapturedFunction] = {}
        """By the inputs' names: captures of one such function read each input from one place, of one type."""
        self._results: tuple[str, ...] = ()

    def __call__(self, inputs: Tensors) -> Tensors:
        """Run it. The results belong to the caller, and carry no gradient."""
        device = next(iter(inputs.values())).device
        if device.type != "cuda":
            return self._function(inputs)
        names = tuple(inputs)
        if names not in self._graphs:
            self._memory = self._memory or GraphMemory(device)
            self._graphs[names] = CapturedFunction(self._name, self._run, self._memory)
        results = self._graphs[names](*inputs.values(), names=names)
        return dict(zip(self._results, results, strict=True))

    def _run(self, *tensors: Tensor, names: tuple[str, ...]) -> tuple[Tensor, ...]:
        results = self._function(dict(zip(names, tensors, strict=True)))
        self._results = tuple(results)
        return tuple(tensor.detach() for tensor in results.values())
