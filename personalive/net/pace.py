"""Limits on the duration and the data rate of an exchange with an untrusted peer."""

import time
from collections.abc import Callable


class Pace:
    """A total deadline and a least rate, so that neither silence nor an occasional byte keeps an exchange alive.

    Args:
        seconds: for the whole exchange.
        rate: bytes a second that must come or go after the first `grace` seconds, on average.
        grace: seconds for what comes before the bytes.
        clock: a monotonic clock, in seconds.
    """

    def __init__(
        self, *, seconds: float, rate: float, grace: float = 10.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._seconds = seconds
        self._rate = rate
        self._grace = grace
        self._clock = clock
        self._begun = clock()
        self._bytes = 0
        self._stopped = False

    def count(self, size: int) -> None:
        """Bytes were received or sent."""
        self._bytes += size

    def stop(self) -> None:
        """End the exchange, from another thread: `left` fails from now on."""
        self._stopped = True

    def left(self) -> float:
        """Seconds within which the next bytes must come or go; always more than 0.

        Raises:
            TimeoutError: none is left.
        """
        if self._stopped:
            raise TimeoutError("it was stopped")
        passed = self._clock() - self._begun
        earned = self._grace + self._bytes / self._rate
        if passed >= self._seconds:
            raise TimeoutError(f"it took longer than {self._seconds:g} seconds")
        if passed >= earned:
            raise TimeoutError(f"it was slower than {self._rate / 1024:g} KiB a second")
        return min(self._seconds, earned) - passed
