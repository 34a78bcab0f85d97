"""Less trembling: a filter for the driver's pose that is strong while the head rests and weak while it moves.

The one-euro filter (Casiez, Roussel and Vogel, CHI 2012): a low-pass whose cutoff rises with speed. It looks only
back, so it delays no frame; what moves slowly trails by less than a tenth of a second at half strength.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from personalive.engine.cues import Cue
from personalive.engine.motion import HeadPose

STRONGEST, WEAKEST = 0.3, 8.0
"""Cutoffs in Hz for a head at rest: at smoothing 1, and near 0."""
SPEED_CUTOFF = 1.0
"""Cutoff in Hz with which the speed is smoothed."""
GAIN_ANGLES, GAIN_PLACE = 0.05, 4.0
"""By how many Hz the cutoff rises per degree a second, and per half image (or doubled size) a second."""


@dataclass(frozen=True)
class Smoothed:
    """The filter's memory: smoothed angles, translation and scale of one head [1, 7], and their speeds a second."""

    values: Tensor
    speeds: Tensor


def smooth_pose(
    pose: HeadPose, before: Smoothed | None, strength: float, rate: float, cues: Sequence[Cue]
) -> tuple[HeadPose, Smoothed]:
    """The driver's poses, smoothed.

    Args:
        pose: n heads in order.
        before: the memory after the frame before; None: these are the first.
        strength: above 0, at most 1.
        rate: frames a second.
        cues: one for each frame, or none. Frames whose motion is not used leave the filter as it is, and an anchor
            starts it again.
    """
    raw = torch.cat((pose.angles, pose.translation, pose.scale), dim=1)
    gain = torch.tensor([GAIN_ANGLES] * 3 + [GAIN_PLACE] * 4, device=raw.device)
    rest = STRONGEST + (WEAKEST - STRONGEST) * (1 - strength) ** 2
    values = []
    for index, row in enumerate(raw.split(1)):
        cue = cues[index] if cues else Cue()
        if before is None or cue.anchor:
            before = Smoothed(row, torch.zeros_like(row))
        elif cue.weight > 0:
            speeds = torch.lerp(before.speeds, (row - before.values) * rate, _share(SPEED_CUTOFF, rate))
            cutoff = rest + gain * speeds.abs()
            before = Smoothed(before.values + (row - before.values) * _share(cutoff, rate), speeds)
        values.append(before.values)
    assert before is not None  # there is at least one frame
    angles, translation, scale = torch.cat(values).split((3, 3, 1), dim=1)
    return HeadPose(angles, translation, scale, pose.canonical), before


def _share(cutoff: "float | Tensor", rate: float) -> "float | Tensor":
    """How far a low-pass goes in one frame towards the new value."""
    return 1 / (1 + rate / (2 * math.pi * cutoff))
