"""The geometry of baked heads: shapes, expressions, hair, glasses, and how they are posed."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from personalive.errors import InputError

AROUND, ROWS = 64, 24
"""Directions in which the surface of the head is known: azimuths, and angles from the crown."""
POLE = (0.0, -0.12, -0.12)
"""Centre of the head, from which directions are measured."""
LOWEST_ANGLE = 2.45
"""Radians from the crown: how far down the surface of the head is known."""
LEAVES = 1.75
"""Radians from the crown: where long hair leaves the head and hangs."""


@dataclass(frozen=True)
class HeadModel:
    """Everything about heads that does not differ between people; lengths are head units."""

    shapes: Tensor
    """`[N, V, 3]`"""
    scales: Tensor
    """Head units per decimetre of the person, `[N]`."""
    mean: Tensor
    """`[V, 3]`"""
    units: Tensor
    """Offsets in decimetres, `[U, V, 3]`."""
    unit_names: tuple[str, ...]
    faces: Tensor
    part: Tensor
    """`[F]`, see bake.PARTS."""
    masks: Tensor
    """Lips, eyelids, ears, inside of the mouth, face; 0 to 1, `[V, 5]`."""
    head_weight: Tensor
    points: dict[str, int]
    textures: Tensor
    """`[T, 3, s, s]` in [0, 1]."""
    scalp: Tensor
    """Vertices around each direction, `[AROUND * ROWS, 8]`."""
    scalp_weight: Tensor
    eyes: tuple[Tensor, Tensor]
    """Vertices of the left and the right eyeball."""
    lids: tuple[Tensor, Tensor]
    """Skin vertices around the left and the right eyeball."""

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.mean.device


def load_heads(path: Path, device: torch.device) -> HeadModel:
    """Read a file that `bake` wrote.

    Raises:
        InputError: it is no such file.
    """
    try:
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
            names = [str(name) for name in arrays["point_names"]]
            faces = torch.from_numpy(arrays["faces"].astype(np.int64))
            part = torch.from_numpy(arrays["part"].astype(np.int64))
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{path} holds no baked heads ({error}): make it with personalive.training.heads.bake"
        ) from None
    mean, masks = torch.from_numpy(arrays["mean"]), torch.from_numpy(arrays["masks"]).float() / 255
    skin = torch.unique(faces[part == 0])
    eyes = tuple(torch.unique(faces[part == number]) for number in (1, 2))
    scalp, weight = _scalp(mean, skin[masks[skin, 2] < 0.3])
    lids = tuple(skin[_around(mean, skin, eye)] for eye in eyes)
    textures = torch.from_numpy(arrays["textures"]).permute(0, 3, 1, 2).float() / 255

    def move(tensor: Tensor) -> Tensor:
        return tensor.to(device)

    return HeadModel(
        move(torch.from_numpy(arrays["shapes"]).float()), move(torch.from_numpy(arrays["scales"])), move(mean),
        move(torch.from_numpy(arrays["units"]).float()), tuple(str(name) for name in arrays["unit_names"]),
        move(faces), move(part), move(masks), move(torch.from_numpy(arrays["head_weight"]).float()),
        dict(zip(names, arrays["points"].tolist(), strict=True)), move(textures), move(scalp), move(weight),
        (move(eyes[0]), move(eyes[1])), (move(lids[0]), move(lids[1])),
    )  # fmt: skip


def _around(mean: Tensor, skin: Tensor, eye: Tensor) -> Tensor:
    centre = mean[eye].mean(dim=0)
    radius = (mean[eye] - centre).norm(dim=1).median()
    around: Tensor = ((mean[skin] - centre).norm(dim=1) < 1.6 * radius) & (mean[skin, 2] > centre[2])
    return around


def _directions() -> Tensor:
    """Unit vectors of the grid of the scalp, rows of polar angle by columns of azimuth, `[ROWS * AROUND, 3]`."""
    polar = torch.linspace(0, LOWEST_ANGLE, ROWS)[:, None]
    azimuth = torch.linspace(-math.pi, math.pi, AROUND)[None]
    sphere = (polar.sin() * azimuth.sin(), -polar.cos() + 0 * azimuth, polar.sin() * azimuth.cos())
    return torch.stack(sphere, dim=-1).reshape(-1, 3)


def _scalp(mean: Tensor, skin: Tensor) -> tuple[Tensor, Tensor]:
    """For each direction the 8 outermost vertices that lie there, and their weights."""
    away = mean[skin] - torch.tensor(POLE)
    nearness = _directions() @ F.normalize(away, dim=1).T
    # Of vertices in one direction (lips and teeth, the cavity of an eye) the outer ones count.
    score, chosen = (nearness + 0.02 * away.norm(dim=1)).topk(8, dim=1)
    weight = ((score - score.amax(dim=1, keepdim=True)) * 400).softmax(dim=1)
    return skin[chosen], weight
