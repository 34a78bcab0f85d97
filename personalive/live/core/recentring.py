"""When the driver has settled in another place, so that movement is to be measured from there."""

import math

from personalive.types import FractionBox

STILL_SECONDS = 3.0
"""Seconds for which the face must have stayed where it is."""
STILL = 0.08
"""How far it may move meanwhile, and its size change, in units of its size."""
AWAY = 0.25
"""How far it must have come from where movement is measured, and how much its size must have changed, in that unit."""


class Recentring:
    """Watches where one driver's face is; boxes are left, top, right, bottom as fractions of the picture."""

    def __init__(self) -> None:
        self._home: FractionBox | None = None
        self._resting: FractionBox | None = None
        self._since = -math.inf

    def start_over(self) -> None:
        """Movement is measured from the next frame on."""
        self._home = None

    def settled(self, box: FractionBox, at: float) -> bool:
        """Whether movement is to be measured from this frame on: the face has moved, and has been still since.

        Args:
            box: where the face is.
            at: time of the frame in seconds.
        """
        if self._home is None:
            self._home = box
        if self._resting is None or _distance(box, self._resting) > STILL:
            self._resting, self._since = box, at
        if at - self._since < STILL_SECONDS or _distance(box, self._home) < AWAY:
            return False
        self._home = box
        return True


def _distance(box: FractionBox, before: FractionBox) -> float:
    """How far a face has moved or how much its size has changed, whichever is more, in units of its size before."""
    size = max(before[2] - before[0], 1e-6)
    across = (box[0] + box[2] - before[0] - before[2]) / 2
    down = (box[1] + box[3] - before[1] - before[3]) / 2
    return max(abs(across), abs(down), abs(box[2] - box[0] - size)) / size
