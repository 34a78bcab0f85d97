"""Which camera frame drove which picture: the model returns its pictures some frames later."""

import math
from collections import deque
from collections.abc import Sequence

from personalive.live.core.frames import CameraFrame, Picture, between, evenly_before
from personalive.types import RGBArray

GAP_FRAMES, GAP_SECONDS = 3, 0.3
"""After a pause of the camera of this many intervals, and this many seconds, motion starts again."""
ASSUMED_INTERVAL, LONGEST_INTERVAL = 0.04, 2.0
"""Seconds between camera frames: the value until two have come, and the most that is believed."""


class Stamps:
    """Capture times of the frames that are under way in one session. Not for several threads at once."""

    def __init__(self, chunk_frames: int, delay_frames: int) -> None:
        self._chunk_frames = chunk_frames
        self._delay_frames = delay_frames
        self._under_way: deque[tuple[float, float | None, bool]] = deque()
        self._interval = ASSUMED_INTERVAL
        self._resumed = -math.inf
        """Capture time of the first frame after the camera's last pause. A slow model is not a pause."""
        self._last: float | None = None

    def arrived(self, captured: float, before: float | None) -> None:
        """A camera frame came after another that was captured `before`."""
        if before is not None:
            if captured - before > GAP_FRAMES * self._interval + GAP_SECONDS:
                self._resumed = captured
            self._interval += 0.1 * (min(captured - before, LONGEST_INTERVAL) - self._interval)

    def of_chunk(self, frames: Sequence[CameraFrame]) -> list[tuple[float, float | None]]:
        """Stamps for a whole chunk of pictures: those between two camera frames get times between theirs."""
        captured = [frame.captured for frame in frames]
        previous = self._last
        if previous is None or previous < self._resumed <= captured[-1]:
            previous = captured[0] - self._interval
        self._last = captured[-1]
        return [(time, frames[index].client_stamp) for index, time in between(previous, captured, self._chunk_frames)]

    def enter(self, chunk: Sequence[tuple[float, float | None]]) -> None:
        """A chunk goes into the model.

        After a pause of the camera, what is under way is too old to time the play-out by: it gets times that lead up to
        the chunk.
        """
        first, last = chunk[0][0], chunk[-1][0]
        if not self._under_way or self._under_way[-1][0] < self._resumed <= last:
            spacing = (last - first) / max(1, len(chunk) - 1)
            times = evenly_before(first, spacing, self._delay_frames)
            self._under_way = deque((captured, None, False) for captured in times)
        self._under_way.extend((captured, client_stamp, True) for captured, client_stamp in chunk)

    def leave(self, images: RGBArray) -> list[Picture]:
        """Pictures [n,h,w,3] come out of the model."""
        pictures = []
        for image in images[max(0, len(images) - len(self._under_way)) :]:
            captured, client_stamp, driven = self._under_way.popleft()
            pictures.append(Picture(image, captured, client_stamp, driven))
        return pictures

    def forget(self) -> None:
        """Nothing is under way any more."""
        self._under_way.clear()
        self._last = None
