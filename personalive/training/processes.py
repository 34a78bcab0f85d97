"""Several processes that train one model, as `torchrun` starts them. A single process uses the same code."""

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass
class Processes(AbstractContextManager["Processes"]):
    """This process's place among all."""

    rank: int
    world: int
    device: torch.device

    @classmethod
    def start(cls, device: str | None = None) -> "Processes":
        """Join the others: NCCL on GPUs, gloo on CPUs."""
        rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
        place = torch.device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if kind == "cuda" else kind)
        if place.type == "cuda":
            torch.cuda.set_device(place)
        if world > 1:
            dist.init_process_group("nccl" if place.type == "cuda" else "gloo")
        return cls(rank, world, place)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.world > 1 and dist.is_initialized():
            dist.destroy_process_group()

    @property
    def first(self) -> bool:
        """Whether this process reports and saves."""
        return self.rank == 0

    def average(self, parameters: Sequence[Tensor], values: Tensor) -> Tensor:
        """Replace gradients by their mean over all processes, and return the mean of `values` `[k]`.

        Everything is sent in one message, of the same length everywhere. Parameters without a gradient count as 0.
        """
        if self.world == 1:
            return values
        grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        flat = torch.cat([values.float(), *(grad.flatten().float() for grad in grads)])
        dist.all_reduce(flat)
        flat /= self.world
        start = len(values)
        for parameter, grad in zip(parameters, grads, strict=True):
            parameter.grad = grad.copy_(flat[start : start + grad.numel()].view_as(grad))
            start += grad.numel()
        return flat[: len(values)]

    def same(self, tensors: Sequence[Tensor]) -> None:
        """Copy the first process's tensors to all others."""
        if self.world > 1:
            for tensor in tensors:
                copy = tensor.data.contiguous()  # not every back-end sends channels-last tensors
                dist.broadcast(copy, 0)
                tensor.data.copy_(copy)

    def wait(self) -> None:
        """Wait for all processes."""
        if self.world > 1:
            dist.barrier()
