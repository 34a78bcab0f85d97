"""All weights in a few long tensors.

A small model has thousands of small parameters, and an update that visits each of them takes longer than the networks
themselves. Here parameters are views of long tensors, so an optimizer step, an average or a message between
processes takes a handful of operations.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

ALIGNMENT = 64
"""Every parameter starts at a multiple of this many numbers, as a GPU's fast convolutions require."""


@dataclass
class Part:
    """Weights that the working networks keep in one dtype: `[n]` each."""

    master: Tensor
    """What the optimizer changes, fp32."""
    average: Tensor
    """Its moving average, fp32; `master` itself where there is none."""
    working: Tensor
    """What the networks compute with; `master` itself where the dtype is the same."""
    gradient: Tensor
    """Of `working`."""


@dataclass
class Chosen:
    """A slice of a part that is being trained, and the optimizer's view of it."""

    part: Part
    place: slice
    parameter: Tensor
    """Of `master`, with its gradient in fp32."""


class FlatWeights:
    """The parameters of all networks: masters, averages and working copies, each as views of long tensors."""

    def __init__(
        self, masters: Mapping[str, nn.Module], averages: Mapping[str, nn.Module], working: Mapping[str, nn.Module]
    ) -> None:
        """Take over the parameters of the networks: the same ones in up to three precisions, or the same objects."""
        self._working = {
            f"{network}.{key}": parameter
            for network in masters
            for key, parameter in working[network].named_parameters()
        }
        self._places: dict[str, tuple[Part, int]] = {}
        self.parts: list[Part] = []
        for dtype in dict.fromkeys(parameter.dtype for parameter in self._working.values()):
            keys = [key for key, parameter in self._working.items() if parameter.dtype == dtype]
            at_work = [self._working[key] for key in keys]
            own = _parameters(masters, keys)
            master = _gather(own)
            average = master if averages is masters else _gather(_parameters(averages, keys))
            flat = master if own[0] is at_work[0] else _gather(at_work)
            part = Part(master, average, flat, torch.zeros_like(flat))
            self.parts.append(part)
            start = 0
            for key, parameter in zip(keys, at_work, strict=True):
                self._places[key] = part, start
                start += _room(parameter)

    def choose(self, names: Sequence[str]) -> list[Chosen]:
        """Train only some networks, or parts of them ("vae.decoder")."""
        wanted = [key for key in self._places if any(key.startswith(f"{name}.") for name in names)]
        for parameter in self._working.values():
            parameter.requires_grad_(False)
            parameter.grad = None
        stretches: list[tuple[Part, slice]] = []
        for key in wanted:
            part, start = self._places[key]
            trained = self._working[key]
            trained.requires_grad_(True)
            trained.grad = _view(part.gradient, start, trained)
            end = start + _room(trained)
            if stretches and stretches[-1][0] is part and stretches[-1][1].stop == start:
                stretches[-1] = part, slice(stretches[-1][1].start, end)
            else:
                stretches.append((part, slice(start, end)))
        chosen = []
        for part, place in stretches:
            seen = part.master[place].detach()
            seen.grad = torch.zeros_like(seen)
            chosen.append(Chosen(part, place, seen))
        return chosen

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the masters' values into the working networks."""
        for part in self.parts:
            if part.working is not part.master:
                part.working.copy_(part.master)


@torch.no_grad()
def clear_gradients(chosen: Iterable[Chosen]) -> None:
    """Set the gradients of the working networks to 0, in place."""
    for stretch in chosen:
        stretch.part.gradient[stretch.place].zero_()


@torch.no_grad()
def collect_gradients(chosen: Iterable[Chosen]) -> None:
    """Hand the gradients of the working networks to the optimizer's parameters."""
    for stretch in chosen:
        assert stretch.parameter.grad is not None
        stretch.parameter.grad.copy_(stretch.part.gradient[stretch.place])


@torch.no_grad()
def publish(chosen: Iterable[Chosen], decay: float) -> None:
    """After the optimizer's step: move averages by 1 - `decay`, and copy the new values into the working networks."""
    for stretch in chosen:
        part, place = stretch.part, stretch.place
        if part.average is not part.master:
            part.average[place].lerp_(part.master[place], 1 - decay)
        if part.working is not part.master:
            part.working[place].copy_(part.master[place])


def _parameters(networks: Mapping[str, nn.Module], keys: Sequence[str]) -> list[nn.Parameter]:
    every = {f"{name}.{key}": p for name, network in networks.items() for key, p in network.named_parameters()}
    return [every[key] for key in keys]


def _gather(parameters: Sequence[nn.Parameter]) -> Tensor:
    """Copy parameters into one tensor, and make them views of it."""
    first = parameters[0]
    flat = torch.zeros(sum(map(_room, parameters)), dtype=first.dtype, device=first.device)
    start = 0
    for parameter in parameters:
        view = _view(flat, start, parameter)
        view.copy_(parameter.data)
        parameter.data = view
        start += _room(parameter)
    return flat


def _room(parameter: Tensor) -> int:
    """Numbers that a parameter takes up in a long tensor, padding included."""
    return math.ceil(parameter.numel() / ALIGNMENT) * ALIGNMENT


def _view(flat: Tensor, start: int, like: Tensor) -> Tensor:
    """A part of `flat` with the shape and the strides (channels-last, or not) of a dense tensor."""
    return flat.as_strided(like.shape, like.stride(), start)
