"""How many sessions a worker can carry, and on which worker a new one begins."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from personalive.config import CHUNK
from personalive.live.core.scheduler import Call
from personalive.types import Latency

CAMERA_FPS = 25.0
"""Frames a second of the camera for which room is kept."""
FEW_CALLS = 8
"""Fewer calls than this say nothing: the first ones of a model are slower."""
LATEST = 64
"""Calls that count: keyframes make them slower over time."""


def call_seconds(calls: Sequence[Call]) -> float | None:
    """Seconds of the device that one session's chunk takes, from the latest calls; None if there are too few."""
    latest = calls[-LATEST:]
    if len(latest) < FEW_CALLS:
        return None
    return statistics.median(call.seconds / call.sessions for call in latest)


def carries(seconds: float | None, latency: Latency, most: int) -> int:
    """How many sessions a worker keeps up with.

    Args:
        seconds: of the device for one session's chunk; None: not known yet.
        latency: of its sessions; `low` makes twice as many calls for each frame.
        most: what the operator allows.

    Returns:
        1 to `most`: a device that is too slow for one session still has one, with fewer frames.
    """
    if not seconds:
        return most
    frames = CHUNK / 2 if latency == "low" else CHUNK
    return max(1, min(most, int(frames / CAMERA_FPS / seconds)))


@dataclass(frozen=True)
class Load:
    """How busy a worker is, as far as placing a session depends on it."""

    sessions: int
    """Sessions that it has, and those that are on their way to it."""
    limit: int
    """Sessions that it carries; 0: it takes no new ones."""
    waiting: int = 0
    """Of its sessions, those without a connection: they give way if it is full."""
    has_own: bool = False
    """Whether one of these is the client's own, which gives way in any case."""
    is_home: bool = False
    """Whether the client's last session was there: what it has kept is there too."""
    has_portrait: bool = False
    """Whether the client's portrait is there already."""

    @property
    def has_room(self) -> bool:
        """Whether a new session fits without another giving way."""
        return self.sessions < self.limit

    @property
    def share(self) -> float:
        """Which part of it is in use."""
        return self.sessions / self.limit


def order(loads: Sequence[Load]) -> list[int]:
    """The workers to ask for a new session's place, the best first; empty if all of them are full.

    First the one where a session of the client's own waits, which gives way. Then those that have room: the one where
    the client's last session was, then the least loaded. Then those where another's session may give way, which only
    they know for certain.

    Args:
        loads: of all workers; the result has their indices.
    """
    open_ones = [index for index, load in enumerate(loads) if load.limit > 0]
    first = [index for index in open_ones if loads[index].has_own]
    roomy = [index for index in open_ones if loads[index].has_room and index not in first]
    full = [index for index in open_ones if loads[index].waiting and index not in first and index not in roomy]
    roomy.sort(key=lambda index: (not loads[index].is_home, loads[index].share, not loads[index].has_portrait))
    full.sort(key=lambda index: (not loads[index].is_home, -loads[index].waiting))
    return [*first, *roomy, *full]
