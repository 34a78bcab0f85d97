"""uvicorn's connections, with limits on how long and how many of them wait for their clients.

uvicorn itself waits for ever for the rest of a request, and for a client to take its answer.
"""

import asyncio
import math
import time
from collections import Counter

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_CONNECTIONS = 256
"""The most connections: beyond that, one that is waiting for its client gives way to a new one."""
REQUEST_SECONDS = 20.0
"""Seconds from the start, or the end of an answer, until the head of the next request is complete."""
TAKE_SECONDS = 30.0
"""Seconds for a client to take what it was sent: pieces of at most 256 KiB, so this is 8 KiB a second."""
MAX_HEAD = 32 * 1024
"""Bytes of a request's line and headers, for uvicorn's `h11_max_incomplete_event_size`."""


class BoundedProtocol(H11Protocol):
    """One connection. Give the class to uvicorn as `http`."""

    _request_timer: asyncio.TimerHandle | None = None
    _take_timer: asyncio.TimerHandle | None = None
    _waiting_since = math.inf
    """When the wait for a whole request started; infinity while one is answered."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client connects."""
        super().connection_made(transport)
        self._wait_for_request()
        if len(self.connections) > MAX_CONNECTIONS:
            self._make_room()

    def _make_room(self) -> None:
        """Of the waiting connections, the address with most of them loses the one that has waited longest.

        So a client that opens many displaces itself first. If all come from one address, as behind a proxy, those that
        say nothing give way to those that do.
        """
        connections = [each for each in self.connections if isinstance(each, BoundedProtocol)]
        waiting = [each for each in connections if each._waiting_since < math.inf]
        greediest, _ = Counter(each._address for each in waiting).most_common(1)[0]
        oldest = min((each for each in waiting if each._address == greediest), key=lambda each: each._waiting_since)
        oldest.transport.abort()
        self.connections.discard(oldest)

    @property
    def _address(self) -> str:
        return self.client[0] if self.client else ""

    def data_received(self, data: bytes) -> None:
        """Part of a request."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:  # a head was complete
            self._cancel(self._request_timer)
            if self.conn.their_state is not h11.SEND_BODY:
                self._waiting_since = math.inf

    def on_response_complete(self) -> None:
        """An answer was sent."""
        self._wait_for_request()
        super().on_response_complete()

    def _wait_for_request(self) -> None:
        self._waiting_since = time.monotonic()
        self._cancel(self._request_timer)
        self._request_timer = self.loop.call_later(REQUEST_SECONDS, self.transport.abort)

    def pause_writing(self) -> None:
        """The client does not take its answer."""
        super().pause_writing()
        self._take_timer = self.loop.call_later(TAKE_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """It does."""
        super().resume_writing()
        self._cancel(self._take_timer)

    def connection_lost(self, exc: Exception | None) -> None:
        """The end."""
        self._cancel(self._request_timer)
        self._cancel(self._take_timer)
        super().connection_lost(exc)

    @staticmethod
    def _cancel(timer: asyncio.TimerHandle | None) -> None:
        if timer is not None:
            timer.cancel()
