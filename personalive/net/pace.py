"""How long an exchange with a stranger may take: in all, and for every byte of it."""

import time
from collections.abc import Callable


class Pace:
    """A total deadline and a least rate, so that neither silence nor one byte now and then keeps an exchange alive.

    Args:
        seconds: for all of it.
        rate: bytes a second that must come or go after the first `grace` seconds, on average.
        grace: seconds for what comes before the bytes.
        clock: seconds that only grow.
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
        """So many bytes came or went."""
        self._bytes += size

    def stop(self) -> None:
        """End the exchange, from another thread: `left` fails from now on."""
        self._stopped = True

    def left(self) -> float:
        """Seconds for which nothing may happen, more than 0.

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
            raise TimeoutError(f"it went slower than {self._rate / 1024:g} KiB a second")
        return min(self._seconds, earned) - passed
