"""Frames on their way in and out of a session: bounded on both sides, every one stamped with its capture time."""

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from personalive.types import RGBArray

RING_FRAMES = 16
"""Camera frames that wait to be chosen."""
DELAY_MEMORY = 5.0
"""Seconds over which the play-out remembers how late pictures came."""
CATCH_UP, CATCH_UP_SHARE = 0.1, 0.5
"""When pictures come earlier again, the delay shrinks by this many seconds and this share of the excess a second."""
SKEW_DRIFT = 0.001
"""Seconds a second by which the sender's clock may drift from ours."""


@dataclass(frozen=True)
class CameraFrame:
    """One frame of the driver, decoded only when it is chosen."""

    captured: float
    """Seconds on the server's monotonic clock."""
    read: Callable[[], RGBArray]
    """Returns the picture, uint8 [h,w,3]."""
    client_stamp: float | None = None
    """What the client wants back with the picture that this frame drives."""


class FrameRing:
    """The camera frames since the last chunk, at most `capacity`.

    A full ring forgets the frame that leaves the smallest gap, so what is left still covers the whole time evenly,
    however slow the model and however fast the camera.
    """

    def __init__(self, capacity: int = RING_FRAMES) -> None:
        self._capacity = capacity
        self._frames: list[CameraFrame] = []
        self.newest: float | None = None
        """Capture time of the last frame that came."""
        self._taken: float | None = None
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def oldest(self) -> float | None:
        """Capture time of the first frame that waits."""
        return self._frames[0].captured if self._frames else None

    def add(self, frame: CameraFrame) -> None:
        """Keep a frame; one that is not later than the last is dropped."""
        if self.newest is not None and frame.captured <= self.newest:
            self.dropped += 1
            return
        self.newest = frame.captured
        self._frames.append(frame)
        if len(self._frames) > self._capacity:
            del self._frames[self._least_missed()]
            self.dropped += 1

    def take(self, most: int) -> list[CameraFrame]:
        """Empty the ring and return its frames; if it has more than `most`, that many of them, evenly spaced in time.

        The last of them is the newest.
        """
        if not self._frames:
            return []
        have, times = len(self._frames), [frame.captured for frame in self._frames]
        count = min(most, have)
        before = self._taken if self._taken is not None else times[0] - (times[-1] - times[0]) / max(1, have - 1)
        chosen = [self._frames[index] for index in nearest(times, even_times(before, times[-1], count))]
        self.dropped += have - count
        self._taken = times[-1]
        self._frames = []
        return chosen

    def _least_missed(self) -> int:
        times = [frame.captured for frame in self._frames]
        return min(range(1, len(times) - 1), key=lambda index: times[index + 1] - times[index - 1])

    def clear(self) -> None:
        """Forget every frame."""
        self._frames = []
        self.newest = self._taken = None


def even_times(before: float, last: float, count: int) -> list[float]:
    """`count` times after `before`, evenly spaced and ending with `last`."""
    return [before + (last - before) * (position + 1) / count for position in range(count)]


def nearest(times: Sequence[float], wanted: Sequence[float]) -> list[int]:
    """For each wanted time, the index of the nearest of `times`; both ascend, and no index is returned twice."""
    indices: list[int] = []
    for position, target in enumerate(wanted):
        first = indices[-1] + 1 if indices else 0
        last = len(times) - (len(wanted) - position)
        indices.append(min(range(first, last + 1), key=lambda index: abs(times[index] - target)))
    return indices


@dataclass(frozen=True)
class Picture:
    """One frame on its way out."""

    image: RGBArray
    """uint8 [h,w,3], or with a transparent background [h,w,4]."""
    captured: float
    """Capture time of the camera frame that drove it, seconds on the server's monotonic clock."""
    client_stamp: float | None
    driven: bool
    """False for the lead-in between the portrait's own pose and the driver's first."""


class Playout:
    """Finished pictures waiting for their turn: shown at capture time plus a delay that adapts.

    The model makes several pictures at once; showing each at its capture time plus the delay of the latest one restores
    the driver's own rhythm. The delay rises at once when a chunk is late and shrinks slowly afterwards. At most
    one chunk waits behind the one that is being shown; the oldest are dropped, never the newest.
    """

    def __init__(self, chunk_frames: int) -> None:
        self._chunk_frames = chunk_frames
        self._waiting: deque[Picture] = deque()
        self._needs: deque[tuple[float, float]] = deque()
        self._updated: float | None = None
        self.delay = 0.0
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def push(self, pictures: Sequence[Picture], now: float) -> None:
        """Add the pictures of one call, in order of capture."""
        if not pictures:
            return
        self._adapt(now - pictures[0].captured, now)
        self._waiting.extend(pictures)
        if len(self._waiting) > 2 * self._chunk_frames:
            while len(self._waiting) > 2 * self._chunk_frames:
                self._waiting.popleft()
                self.dropped += 1
            # Pictures come so much earlier than the delay that they do not fit. Show the oldest now: otherwise the next
            # chunk would push it out as well, and nothing would ever be shown.
            self.delay = min(self.delay, now - self._waiting[0].captured)
            self._needs = deque([self._needs[-1]])

    def due(self) -> float | None:
        """When the next picture is to be shown, or None while none waits."""
        if not self._waiting:
            return None
        if self._chunk_frames == 1:  # pictures do not come in bursts: show each at once
            return self._waiting[0].captured
        return self._waiting[0].captured + self.delay

    def pop(self, now: float) -> Picture | None:
        """The picture that is due; the newest if several are overdue."""
        picture = None
        due = self.due()
        while due is not None and due <= now:
            self.dropped += picture is not None
            picture = self._waiting.popleft()
            due = self.due()
        return picture

    def clear(self) -> None:
        """Forget what is waiting and how late pictures were."""
        self._waiting.clear()
        self._needs.clear()
        self._updated = None
        self.delay = 0.0

    def _adapt(self, need: float, now: float) -> None:
        self._needs.append((now, need))
        while self._needs[0][0] < now - DELAY_MEMORY:
            self._needs.popleft()
        wanted = max(need for _, need in self._needs)
        elapsed = 0.0 if self._updated is None else now - self._updated
        self._updated = now
        shrink = elapsed * (CATCH_UP + CATCH_UP_SHARE * (self.delay - wanted))
        self.delay = max(wanted, self.delay - shrink)


class SenderClock:
    """Turns the time stamps of a sender into the server's monotonic time, without the network's jitter.

    The earliest arrival is the one that travelled without delay. Its offset applies to all, apart from a slow drift.
    """

    def __init__(self) -> None:
        self._offset: float | None = None
        self._last = 0.0

    def captured(self, sent: float, arrived: float) -> float:
        """Capture time of a frame that the sender stamped `sent`, both in seconds; never later than its arrival."""
        offset = arrived - sent
        if self._offset is None or abs(offset - self._offset) > 5.0:  # the sender's clock jumped: start again
            self._offset = offset
        else:
            drift = SKEW_DRIFT * max(0.0, arrived - self._last)
            self._offset = min(offset, self._offset + drift)
        self._last = arrived
        return sent + self._offset


def evenly_before(first: float, spacing: float, count: int) -> list[float]:
    """`count` times that lead up to `first`, `spacing` apart: capture times for the lead-in."""
    return [first - spacing * (count - index) for index in range(count)]


def between(previous: float, captured: Sequence[float], count: int) -> list[tuple[int, float]]:
    """`count` pictures that lead from the time `previous` through the times `captured` in equal steps of motion.

    Returns:
        For each picture the index of the frame that it leads to or is, and its own time.
    """
    path, pictures = [previous, *captured], []
    for step in range(count):
        place = len(captured) * (step + 1) / count
        start = math.ceil(place) - 1
        pictures.append((start, path[start] + (place - start) * (path[start + 1] - path[start])))
    return pictures


Message = dict[str, Any]
"""What is sent to the client over the data channel or the socket: an object with a `type`."""
