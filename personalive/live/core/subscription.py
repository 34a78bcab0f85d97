"""The readers of a session's pictures."""

import threading
from collections.abc import Callable

from personalive.live.core.frames import Picture, Playout
from personalive.live.core.statistics import SessionStatistics


class Subscription:
    """A play-out of its own, and a call when something new is there. Any thread may push, pop and clear."""

    def __init__(self, window: int, statistics: SessionStatistics, on_ready: Callable[[], None]) -> None:
        self.playout = Playout(window)
        self.on_ready = on_ready
        self._statistics = statistics
        self._lock = threading.Lock()

    def push(self, pictures: list[Picture], now: float) -> None:
        """Pass pictures on."""
        with self._lock:
            self.playout.push(pictures, now)
        self.on_ready()

    def pop(self, now: float) -> tuple[Picture | None, float | None]:
        """The picture that is due, and when the next one is."""
        with self._lock:
            picture, due = self.playout.pop(now), self.playout.due()
        if picture is not None:
            self._statistics.shown(now - picture.captured if picture.driven else None, now)
        return picture, due

    def clear(self) -> None:
        """Forget what is waiting."""
        with self._lock:
            self.playout.clear()


class Subscriptions:
    """All readers of one session. Any thread may call."""

    def __init__(self, window: int, statistics: SessionStatistics) -> None:
        self._window = window
        self._statistics = statistics
        self._readers: list[Subscription] = []
        self._dropped = 0
        self._lock = threading.Lock()

    def add(self, on_ready: Callable[[], None]) -> Subscription:
        """A new reader of the pictures from now on."""
        reader = Subscription(self._window, self._statistics, on_ready)
        with self._lock:
            self._readers.append(reader)
        return reader

    def remove(self, reader: Subscription) -> None:
        """End a reader."""
        with self._lock:
            if reader in self._readers:
                self._readers.remove(reader)
                self._dropped += reader.playout.dropped

    def push(self, pictures: list[Picture], now: float) -> None:
        """Pass pictures to every reader."""
        for reader in self._all():
            reader.push(pictures, now)

    def clear(self) -> None:
        """Forget what is waiting."""
        for reader in self._all():
            reader.clear()

    @property
    def waiting(self) -> int:
        """Pictures that are waiting for the slowest reader."""
        return max((len(reader.playout) for reader in self._all()), default=0)

    @property
    def dropped(self) -> int:
        """Pictures that were dropped so far."""
        with self._lock:
            return self._dropped + sum(reader.playout.dropped for reader in self._readers)

    def _all(self) -> list[Subscription]:
        with self._lock:
            return list(self._readers)
