"""Functions of tensors as CUDA graphs: small networks take less time on a GPU than Python takes to launch them."""

import logging
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

Tensors = dict[str, Tensor]
Recording: TypeAlias = tuple[torch.cuda.CUDAGraph, Tensors, Tensors]
"""The graph, where its inputs lie, and where its results do."""
WARM_UPS = 3
"""Runs before a recording, in which libraries choose their kernels."""

log = logging.getLogger("personalive.training")


class Recorded:
    """A function of tensors by name. On a GPU it is recorded once for each set of shapes, and replayed from then on.

    The function must not depend on anything else that changes, nor wait for the GPU. On a CPU it simply runs.
    """

    def __init__(self, function: Callable[[Tensors], Tensors]) -> None:
        self._function = function
        self._recordings: dict[tuple[object, ...], Recording | None] = {}

    def __call__(self, inputs: Tensors) -> Tensors:
        """Run it. The results are the caller's own."""
        if not next(iter(inputs.values())).is_cuda:
            return self._function(inputs)
        key = tuple((name, tuple(tensor.shape), tensor.dtype, tensor.stride()) for name, tensor in inputs.items())
        if key not in self._recordings:
            try:
                self._recordings[key] = self._record(inputs)
            except RuntimeError as error:
                log.warning("not recorded, and so slower: %s", str(error).splitlines()[0])
                self._recordings[key] = None
        recording = self._recordings[key]
        if recording is None:
            return self._function(inputs)
        graph, places, results = recording
        torch._foreach_copy_(list(places.values()), list(inputs.values()))
        graph.replay()
        return {name: tensor.clone() for name, tensor in results.items()}

    def _record(self, inputs: Tensors) -> Recording:
        places = {name: tensor.detach().clone() for name, tensor in inputs.items()}
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                self._function(places)
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads watch over messages
            results = {name: tensor.detach() for name, tensor in self._function(places).items()}
        return graph, places, results
