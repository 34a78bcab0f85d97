"""What happens at driving frames without a usable face, and at cuts: a cue for each frame.

While the face is away the last motion is held; after some seconds the pose eases to the portrait's own, and when the
face is back its motion is eased in. Files and live use the same cues.
"""

import math
from dataclasses import dataclass

HOLD_SECONDS = 2.0
"""Seconds for which the last motion is held."""
NEUTRAL_SECONDS = 1.5
"""Seconds in which the pose then eases to the portrait's own."""
RETURN_SECONDS = 0.3
"""Seconds in which the motion eases back to the driver's."""


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


class Presence:
    """Produces the cues of one animation, frame by frame."""

    def __init__(self, rate: float) -> None:
        """`rate`: driving frames a second."""
        self._hold = round(HOLD_SECONDS * rate)
        self._to_neutral = max(1, round(NEUTRAL_SECONDS * rate))
        self._back = max(1, math.ceil(RETURN_SECONDS * rate))
        self._seen = False
        self._away = 0
        self._returning = 0

    def cue(self, usable: bool, *, cut: bool = False) -> Cue:
        """The cue of the next frame: whether it shows the face that drives, and whether a new scene starts with it."""
        if not usable:
            return self._absent()
        anchor = not self._seen or (cut and self._away == 0)
        if self._away and self._seen:
            self._returning = self._back
        first = not self._seen
        self._seen, self._away = True, 0
        if cut and not first:
            self._returning = self._back
        if not self._returning:
            return Cue(anchor=True) if anchor else PLAIN
        share = 1 / self._returning
        self._returning -= 1
        return Cue(weight=share, anchor=anchor)

    def _absent(self) -> Cue:
        self._away += 1
        if not self._seen:  # nothing to hold yet
            return Cue(weight=0.0, neutral=1.0)
        step = self._away - self._hold
        if step <= 0:
            return Cue(weight=0.0)
        # Equal steps to the end, each from where the last one stopped.
        left = self._to_neutral - step + 1
        return Cue(weight=0.0, neutral=1.0 if left <= 1 else 1 / left)
