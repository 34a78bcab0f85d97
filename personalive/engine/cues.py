"""What happens at driving frames without a usable face, and at cuts: a cue for each frame.

While the face is away the last motion is held; after some seconds the pose eases to the portrait's own, and when the
face is back its motion is eased in. Files and live use the same cues.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

HOLD_SECONDS = 2.0
"""Seconds for which the last motion is held."""
NEUTRAL_SECONDS = 1.5
"""Seconds in which the pose then eases to the portrait's own."""
RETURN_SECONDS = 0.3
"""Seconds in which the motion eases back to the driver's."""
LONGEST_FRAME = 0.1
"""The most seconds that a frame counts for on the way back, so that no pause of a camera ends in a jump."""


@dataclass(frozen=True)
class Cue:
    """How one driving frame's motion is used."""

    weight: float = 1.0
    """From the motion of the frame before (0) to the frame's own (1)."""
    neutral: float = 0.0
    """From there to the portrait's own pose and expression (1)."""
    anchor: bool = False
    """Whether movement across the picture is measured from this frame on, as after a cut."""


PLAIN = Cue()
"""The cue of a frame with a face, after others like it."""


def cue_rows(cues: Sequence[Cue]) -> Tensor:
    """Cues as rows, fp32 [n, 3]: their fields."""
    return torch.tensor([[cue.weight, cue.neutral, float(cue.anchor)] for cue in cues], dtype=torch.float32)


def cue_of(rows: Tensor | None, frame: int) -> Cue:
    """The cue of a frame; without rows, all are `PLAIN`."""
    if rows is None:
        return PLAIN
    weight, neutral, anchor = rows[frame].tolist()
    return Cue(weight, neutral, bool(anchor))


def join_rows(first: Tensor | None, count: int, second: Tensor | None, more: int) -> Tensor | None:
    """The rows of `count` frames, then those of `more` others."""
    if first is None and second is None:
        return None
    rows = (cue_rows([PLAIN] * n) if each is None else each for each, n in ((first, count), (second, more)))
    return torch.cat([row.cpu() for row in rows])


class Presence:
    """Produces the cues of one animation, frame by frame."""

    def __init__(self) -> None:
        self._seen = False
        self._last = 0.0
        self._seen_at = 0.0
        self._away = self._cut = False
        self._back_at = -math.inf
        """When the motion is the driver's again."""

    def cue(self, usable: bool, at: float, *, cut: bool = False) -> Cue:
        """The cue of the next frame.

        Args:
            usable: whether it shows the face that drives.
            at: its time in seconds, later than the last frame's.
            cut: whether a new scene starts with it, perhaps before there is a face in it.
        """
        last, self._last = self._last, at
        self._cut = self._cut or cut
        if not usable:
            self._away = True
            # Equal steps to the end, each from where the last one stopped. Before the first face there is no motion.
            hold_ends = self._seen_at + HOLD_SECONDS
            neutral = _share(max(last, hold_ends), at, hold_ends + NEUTRAL_SECONDS) if self._seen else 1.0
            return Cue(weight=0.0, neutral=neutral)
        last = max(last, at - LONGEST_FRAME)
        anchor = not self._seen or self._cut
        if self._seen and (self._away or self._cut):
            self._back_at = last + RETURN_SECONDS
        self._seen, self._away, self._cut, self._seen_at = True, False, False, at
        weight = _share(last, at, self._back_at)
        return Cue(weight=weight, anchor=anchor) if anchor or weight < 1 else PLAIN


def _share(last: float, now: float, end: float) -> float:
    """The part of the way from `last` to `end` that is gone now, from 0 to 1."""
    return min(max((now - last) / (end - last), 0.0), 1.0) if now < end else 1.0
