"""Numbers by which the weights of networks are recognised, whatever the precision in which they were loaded."""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import nn

LENGTH = 16
TOLERANCE = 0.01
"""How far numbers of the same weights may be apart: bf16 moves them by less than 0.001, other weights by about 0.3."""


@torch.no_grad()
def fingerprint(networks: Iterable[nn.Module]) -> tuple[float, ...]:
    """`LENGTH` sums of all weights with fixed signs, as parts of their norm: a hash that rounding does not change."""
    sums, squares = [0.0] * LENGTH, 0.0
    for network in networks:
        for index, (_, weights) in enumerate(sorted(network.named_parameters())):
            values = weights.detach().double().flatten()
            places = torch.arange(values.numel(), device=values.device)
            signs = 1 - 2 * ((places * 2654435761 + 40503 * index) >> 15 & 1)
            padded = nn.functional.pad(values * signs, (0, -values.numel() % LENGTH))
            part = padded.view(-1, LENGTH).sum(0).tolist()
            sums = [total + value for total, value in zip(sums, part, strict=True)]
            squares += float(values.square().sum())
    norm = math.sqrt(squares) or 1.0
    return tuple(round(value / norm, 6) for value in sums)


def matches(first: Sequence[float], second: Sequence[float]) -> bool:
    """Whether two fingerprints are of the same weights."""
    return len(first) == len(second) and all(abs(a - b) <= TOLERANCE for a, b in zip(first, second, strict=True))
