"""Figures of one session, for the page and for the metrics."""

import threading
from bisect import bisect_left
from collections import deque
from dataclasses import dataclass

RATE_SECONDS = 3.0
"""Seconds over which frame rates are counted."""
DELAY_SECONDS, DELAYS = 10.0, 1024
"""The latest pictures whose delays count: this many seconds of them, and at most this many."""
DELAY_BOUNDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0)
"""Upper bounds, in seconds, of the delay histogram; the last bucket has none."""


class Rate:
    """Events a second over the last few seconds."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=512)

    def add(self, now: float) -> None:
        """Count one event."""
        self._times.append(now)

    def value(self, now: float) -> float:
        """Events a second."""
        times = [each for each in self._times.copy() if each > now - RATE_SECONDS]
        return len(times) / RATE_SECONDS


@dataclass(frozen=True)
class Delays:
    """Seconds from capture to display."""

    counts: tuple[int, ...]
    """Counts since the start, for each bucket of `DELAY_BOUNDS` and beyond the last."""
    total: float
    median: float | None
    """None: no picture was shown yet."""
    slow: float | None
    """The 95th percentile."""


class SessionStatistics:
    """Counters of one session; every method may be called from any thread."""

    def __init__(self) -> None:
        self.frames_in = 0
        self.pictures_made = 0
        self.pictures_shown = 0
        self._in = Rate()
        self._out = Rate()
        self._delays: deque[tuple[float, float]] = deque(maxlen=DELAYS)
        self._delay_counts = [0] * (len(DELAY_BOUNDS) + 1)
        self._delay_total = 0.0
        self._lock = threading.Lock()

    def frame_in(self, now: float) -> None:
        """A camera frame came."""
        with self._lock:
            self.frames_in += 1
            self._in.add(now)

    def made(self, pictures: int) -> None:
        """The model returned pictures."""
        with self._lock:
            self.pictures_made += pictures

    def shown(self, delay: float | None, now: float) -> None:
        """A picture was sent; `delay` is None for pictures that no camera frame drove."""
        with self._lock:
            self.pictures_shown += 1
            self._out.add(now)
            if delay is not None:
                self._delays.append((now, delay))
                self._delay_counts[bisect_left(DELAY_BOUNDS, delay)] += 1
                self._delay_total += delay

    def rates(self, now: float) -> tuple[float, float]:
        """Frames a second in and out."""
        with self._lock:
            return self._in.value(now), self._out.value(now)

    def delays(self) -> Delays:
        """Delays: counts and sum since the start, percentiles of the latest."""
        with self._lock:
            since = self._delays[-1][0] - DELAY_SECONDS if self._delays else 0.0
            latest = sorted(delay for when, delay in self._delays if when > since)
            counts, total = tuple(self._delay_counts), self._delay_total
        if not latest:
            return Delays(counts, total, None, None)
        return Delays(counts, total, latest[len(latest) // 2], latest[int(len(latest) * 0.95)])
