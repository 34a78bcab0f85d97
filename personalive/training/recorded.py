"""Functions of tensors as CUDA graphs: small networks take less time on a GPU than Python takes to launch them."""

from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor

from personalive.accel.cuda_graphs import GraphFunction, GraphMemory

Tensors: TypeAlias = dict[str, Tensor]


class Recorded:
    """A function of named tensors. On a GPU it is captured once for each set of shapes, and replayed from then on.

    The function must not depend on anything else that changes, and must not wait for the GPU. On a CPU it simply runs.
    """

    def __init__(self, name: str, function: Callable[[Tensors], Tensors]) -> None:
        """Wrap `function`; the name is for the log."""
        self._name, self._function = name, function
        self._memory: GraphMemory | None = None
        self._graphs: dict[tuple[str, ...], GraphFunction] = {}
        """By the inputs' names: all captures of such a function read each input from the same place and type."""

    def __call__(self, inputs: Tensors) -> Tensors:
        """Run it. The results belong to the caller, and carry no gradient."""
        device = next(iter(inputs.values())).device
        if device.type != "cuda":
            return self._function(inputs)
        key = tuple(inputs)
        if key not in self._graphs:
            self._memory = self._memory or GraphMemory(device)
            self._graphs[key] = GraphFunction(self._name, self._listed, self._memory)
        names, tensors = self._graphs[key](key, list(inputs.values()))
        return dict(zip(names, tensors, strict=True))

    def _listed(self, names: tuple[str, ...], tensors: list[Tensor]) -> tuple[tuple[str, ...], list[Tensor]]:
        results = self._function(dict(zip(names, tensors, strict=True)))
        return tuple(results), [tensor.detach() for tensor in results.values()]
