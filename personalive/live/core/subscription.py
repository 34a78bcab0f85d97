"""The readers of a session's pictures."""

import threading
from collections.abc import Callable

from personalive.live.core.frames import Picture, Playout
from personalive.live.core.statistics import SessionStatistics


class Subscription:
    """A play-out of its own, and a call when something new is there. Any thread may push, pop and clear."""

    def __init__(
        self, chunk_frames: int, on_ready: Callable[[], None], on_shown: "OnShown", *, counts: bool = True
    ) -> None:
        """Args as in `Session.subscribe`; `on_shown` is told of each picture when its turn has come."""
        self.playout = Playout(chunk_frames)
        self.on_ready = on_ready
        self.counts = counts
        self._on_shown = on_shown
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
            self._on_shown(self, picture, now)
        return picture, due

    def clear(self) -> None:
        """Forget what waits."""
        with self._lock:
            self.playout.clear()


OnShown = Callable[[Subscription, Picture, float], None]


class Subscriptions:
    """All readers of one session. Any thread may call."""

    def __init__(self, chunk_frames: int, statistics: SessionStatistics) -> None:
        self._chunk_frames = chunk_frames
        self._statistics = statistics
        self._readers: list[Subscription] = []
        self._dropped = 0
        self._lock = threading.Lock()

    def add(self, on_ready: Callable[[], None], *, counts: bool = True) -> Subscription:
        """A new reader of the pictures from now on; `counts` as for `Session.subscribe`."""
        reader = Subscription(self._chunk_frames, on_ready, self._shown, counts=counts)
        with self._lock:
            self._readers.append(reader)
        return reader

    def remove(self, reader: Subscription) -> None:
        """End a reader."""
        with self._lock:
            if reader in self._readers:
                self._readers.remove(reader)
                self._dropped += reader.playout.dropped * reader.counts

    def push(self, pictures: list[Picture], now: float) -> None:
        """Hand pictures to every reader."""
        for reader in self._all():
            reader.push(pictures, now)

    def clear(self) -> None:
        """Forget what waits."""
        for reader in self._all():
            reader.clear()

    @property
    def waiting(self) -> int:
        """Pictures that wait for the slowest reader that counts."""
        return max((len(reader.playout) for reader in self._all() if reader.counts), default=0)

    @property
    def dropped(self) -> int:
        """Pictures that were dropped so far."""
        with self._lock:
            return self._dropped + sum(reader.playout.dropped for reader in self._readers if reader.counts)

    def _shown(self, reader: Subscription, picture: Picture, now: float) -> None:
        """Count it, if the figures are of this reader: of the first viewer, where nobody else sees the pictures."""
        readers = self._all()
        if reader is next((each for each in readers if each.counts), next(iter(readers), None)):
            self._statistics.shown(now - picture.captured if picture.driven else None, now)

    def _all(self) -> list[Subscription]:
        with self._lock:
            return list(self._readers)
