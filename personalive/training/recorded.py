"""Functions of tensors as CUDA graphs: small networks take less time on a GPU than Python takes to launch them."""

from collections.abc import Callable

import torch
from torch import Tensor

Tensors = dict[str, Tensor]
WARM_UPS = 3
"""Runs before a recording, in which libraries choose their kernels."""


class Recorded:
    """A function of tensors by name. On a GPU it is recorded once for each set of shapes, and replayed from then on.

    The function must not depend on anything else that changes, nor wait for the GPU. On a CPU it simply runs.
    """

    def __init__(self, function: Callable[[Tensors], Tensors]) -> None:
        self._function = function
        self._recordings: dict[tuple[object, ...], tuple[torch.cuda.CUDAGraph, Tensors, Tensors]] = {}

    def __call__(self, inputs: Tensors) -> Tensors:
        """Run it. The results are the caller's own."""
        if not next(iter(inputs.values())).is_cuda:
            return self._function(inputs)
        key = tuple((name, tuple(tensor.shape), tensor.dtype, tensor.stride()) for name, tensor in inputs.items())
        if key not in self._recordings:
            self._recordings[key] = self._record(inputs)
        graph, places, results = self._recordings[key]
        torch._foreach_copy_(list(places.values()), list(inputs.values()))
        graph.replay()
        return {name: tensor.clone() for name, tensor in results.items()}

    def _record(self, inputs: Tensors) -> tuple[torch.cuda.CUDAGraph, Tensors, Tensors]:
        places = {name: tensor.detach().clone() for name, tensor in inputs.items()}
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                self._function(places)
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            results = {name: tensor.detach() for name, tensor in self._function(places).items()}
        return graph, places, results
