"""One reader of a session's pictures."""

import threading
from collections.abc import Callable

from personalive.live.frames import Picture, Playout
from personalive.live.statistics import SessionStatistics


class Subscription:
    """A play-out of its own, and a call when something new is there. Any thread may push, pop and clear."""

    def __init__(self, window: int, statistics: SessionStatistics, on_ready: Callable[[], None]) -> None:
        self.playout = Playout(window)
        self.on_ready = on_ready
        self._statistics = statistics
        self._lock = threading.Lock()

    def push(self, pictures: list[Picture], now: float) -> None:
        """Hand pictures over."""
        with self._lock:
            self.playout.push(pictures, now)
        self.on_ready()

    def pop(self, now: float) -> tuple[Picture | None, float | None]:
        """The picture whose turn it is, and when the next one is due."""
        with self._lock:
            picture, due = self.playout.pop(now), self.playout.due()
        if picture is not None:
            self._statistics.shown(now - picture.captured if picture.driven else None, now)
        return picture, due

    def clear(self) -> None:
        """Forget what waits."""
        with self._lock:
            self.playout.clear()
