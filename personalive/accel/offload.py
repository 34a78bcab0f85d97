"""Where weights are: packed on the device, or on the host while they are not needed."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

ALIGNMENT = 512
"""Alignment of weights in bytes, the same as if each were allocated separately."""
BLOCK = 256 * 2**20
"""Size in bytes of the blocks that weights are packed into; packing needs that much more memory."""


def packed_size(tensors: Sequence[Tensor]) -> int:
    """Bytes that the tensors take when packed."""
    return sum(_padded(tensor) for tensor in tensors)


def place(tensors: Sequence[Tensor], block: Tensor) -> list[Tensor]:
    """Consecutive views of `block`, uint8, with the shapes, layouts and types of the tensors."""
    views, first = [], 0
    for tensor in tensors:
        part = block[first : first + tensor.numel() * tensor.element_size()].view(tensor.dtype)
        views.append(part.as_strided(tensor.shape, packed_strides(tensor)))
        first += _padded(tensor)
    return views


def packed_strides(tensor: Tensor) -> tuple[int, ...]:
    """Strides of a copy without gaps, its axes in the same order.

    `torch.empty_like` on "meta" says so too, but imports SymPy, which takes seconds.
    """
    if torch.ops.aten.is_non_overlapping_and_dense.default(tensor):
        return tensor.stride()
    return torch.empty_like(tensor, device="cpu").stride()


@torch.no_grad()
def pack(networks: Sequence[nn.Module], device: torch.device) -> None:
    """Pack the weights of networks; those on other devices stay where they are.

    Merging layers leaves gaps between weights, which PyTorch keeps reserved and only smaller tensors can use.
    """
    tensors = [tensor for tensor in _tensors(networks) if tensor.device.type == device.type]
    tensors.sort(key=torch.Tensor.data_ptr)  # neighbours go together, so that what they leave can be released at once
    for group in _groups(tensors):
        views = place(group, torch.empty(packed_size(group), dtype=torch.uint8, device=device))
        for tensor, view in zip(group, views, strict=True):
            view.copy_(tensor)
            tensor.data = view
        if device.type == "cuda":
            torch.cuda.empty_cache()  # what they leave is too small for the next block


class HostMemory:
    """Weights of a network that stay on the host except while they are used.

    The network's units take turns in one place on the device, so only the largest of them has to fit.
    """

    def __init__(self, network: nn.Module, units: Sequence[nn.Module], device: torch.device) -> None:
        """Move the weights of `units`, which are parts of `network`, to the host, and all others to the device.

        Args:
            units: modules whose weights are used by their own `forward` only, one after another.
        """
        self._device = device
        tensors = [_tensors([unit]) for unit in units]
        self._largest = max(packed_size(group) for group in tensors)
        parked = {id(tensor) for group in tensors for tensor in group}
        for tensor in _tensors([network]):
            if id(tensor) not in parked:
                tensor.data = tensor.data.to(device)
        network.register_forward_pre_hook(self._give_back)
        for unit, group in zip(units, tensors, strict=True):
            _Parked(group, self._largest, device).attach(unit)
        network.register_forward_hook(self._give_back, always_call=True)

    def _give_back(self, *_: Any) -> None:
        """Release what PyTorch has cached, before the units need room and after they no longer do."""
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


class _Parked:
    """The weights of one unit."""

    @torch.no_grad()
    def __init__(self, tensors: list[Tensor], room: int, device: torch.device) -> None:
        self._tensors, self._room, self._device = tensors, room, device
        size = packed_size(tensors)
        self._block = torch.empty(size, dtype=torch.uint8, pin_memory=device.type == "cuda")
        self._host = place(tensors, self._block)
        for tensor, view in zip(tensors, self._host, strict=True):
            view.copy_(tensor)
            tensor.data = view

    def attach(self, unit: nn.Module) -> None:
        """Bring the weights to the device while `unit` runs."""
        unit.register_forward_pre_hook(self._bring)
        unit.register_forward_hook(self._leave, always_call=True)

    def _bring(self, *_: Any) -> None:
        # Every unit asks for the same size, so PyTorch hands it the block that the previous unit has freed.
        block = torch.empty(self._room, dtype=torch.uint8, device=self._device)
        block[: len(self._block)].copy_(self._block, non_blocking=True)
        for tensor, view in zip(self._tensors, place(self._tensors, block), strict=True):
            tensor.data = view

    def _leave(self, *_: Any) -> None:
        for tensor, view in zip(self._tensors, self._host, strict=True):
            tensor.data = view  # inference changes no weights, so nothing has to be copied back


def _padded(tensor: Tensor) -> int:
    size = tensor.numel() * tensor.element_size()
    return -(-size // ALIGNMENT) * ALIGNMENT


def _tensors(networks: Sequence[nn.Module]) -> list[Tensor]:
    """Parameters and buffers, each once."""
    every = [tensor for network in networks for tensor in (*network.parameters(), *network.buffers())]
    return list({id(tensor): tensor for tensor in every}.values())


def _groups(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Tensors that share a block."""
    group: list[Tensor] = []
    size = 0
    for tensor in tensors:
        if group and size + _padded(tensor) > BLOCK:
            yield group
            group, size = [], 0
        group.append(tensor)
        size += _padded(tensor)
    if group:
        yield group
