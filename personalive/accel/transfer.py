"""Asynchronous copies between the host and a device."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def cat(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors concatenated along the first axis; a single one is not copied."""
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors))


def upload(tensors: Sequence[Tensor], device: torch.device) -> Tensor:
    """Tensors concatenated along the first axis, on `device`; a single one that is already there is not copied.

    The copy to a GPU goes through pinned memory, unless it is in pinned memory already. PyTorch reuses that memory.
    """
    first = tensors[0]
    if device.type != "cuda" or any(tensor.device.type != "cpu" for tensor in tensors) or first.dtype == torch.bfloat16:
        return cat(tensors).to(device)
    ready = all(tensor.is_pinned() and tensor.is_contiguous() for tensor in tensors)
    pieces = tensors if ready else [pin(tensors)]
    if len(pieces) == 1:
        return pieces[0].to(device, non_blocking=True)
    result = torch.empty((sum(map(len, pieces)), *first.shape[1:]), dtype=first.dtype, device=device)
    for place, piece in zip(result.split([len(piece) for piece in pieces]), pieces, strict=True):
        place.copy_(piece, non_blocking=True)
    return result


def pin(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors on the host concatenated along the first axis, in pinned memory, from which a GPU copies by itself."""
    first = tensors[0]
    staged = torch.empty((sum(map(len, tensors)), *first.shape[1:]), dtype=first.dtype, pin_memory=True)
    start = 0
    for tensor in tensors:
        # NumPy copies in this thread: waking PyTorch's threads takes longer where other processes have the cores.
        np.copyto(staged[start : start + len(tensor)].numpy(), tensor.detach().numpy())
        start += len(tensor)
    return staged


class HostCopy:
    """A tensor's values on their way to the host."""

    def __init__(self, tensor: Tensor) -> None:
        """Start copying values of a type that NumPy has, on the device after the work that was started before."""
        self._staged, self._done = tensor, None
        if tensor.device.type == "cuda":
            self._staged = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._staged.copy_(tensor, non_blocking=True)
            self._done = torch.cuda.current_stream(tensor.device).record_event()

    def result(self) -> npt.NDArray[Any]:
        """Wait for the values, not for work that was started after the copy. They belong to the caller."""
        staged: npt.NDArray[Any] = self._staged.numpy()
        if self._done is None:
            return staged
        self._done.synchronize()
        return staged.copy()
