"""How often one address may ask for what costs the loop a lot."""

import time
from collections import OrderedDict
from collections.abc import Callable

from personalive.errors import PersonaLiveError
from personalive.net.waiting import group

BURST = 10
"""Requests at once, in seconds' worth."""
MAX_ADDRESSES = 4096
"""Addresses that are remembered; the one that asked longest ago is forgotten first."""


class TooManyError(PersonaLiveError):
    """One address asks too often."""


class RequestRate:
    """A token bucket for each address; see `group` for what counts as one."""

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._most = max(1.0, BURST * per_second)
        self._clock = clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """Requests that an address may still make, and when that was so."""

    def __len__(self) -> int:
        """Addresses that are remembered."""
        return len(self._left)

    def admit(self, address: str) -> None:
        """Count a request.

        Raises:
            TooManyError: it comes too soon.
        """
        key, now = group(address), self._clock()
        left, since = self._left.pop(key, (self._most, now))
        left = min(self._most, left + (now - since) * self._per_second)
        self._left[key] = max(0.0, left - 1) if left >= 1 else left, now
        if len(self._left) > MAX_ADDRESSES:
            self._left.popitem(last=False)
        if left < 1:
            raise TooManyError(
                f"your address asks for this more than {self._per_second:g} times a second: try again in a moment"
            )
