"""Reads what clients send: bounded in size, not too slowly, and bounded in memory over all requests."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.exceptions import HTTPException
from starlette.requests import Request

from personalive.net.pace import Pace

SECONDS = 300.0
LEAST_RATE = 32 * 1024
MAX_HELD = 384 * 2**20
"""The most bytes of all bodies in memory. Beyond that, the oldest incomplete one gives way."""


class _Reader:
    """One body on its way."""

    def __init__(self) -> None:
        self.deadline = asyncio.timeout(None)
        self.held = 0
        self.gave_way = False

    def give_way(self) -> None:
        self.gave_way = True
        self.deadline.reschedule(0.0)


class Bodies:
    """The bodies of all requests."""

    def __init__(self, max_held: int = MAX_HELD) -> None:
        self._max_held = max_held
        self._held = 0
        self._readers: dict[_Reader, None] = {}
        """The oldest first."""

    @asynccontextmanager
    async def read(self, request: Request, limit: int) -> AsyncIterator[bytes]:
        """The whole body, which counts as held until the block ends.

        Args:
            request: one that has not been read from.
            limit: the most bytes that its body may have.

        Raises:
            HTTPException: 408 if it comes too slowly, 413 if it is too long, 503 if it gave way.
            ClientDisconnect: it ended early.
        """
        reader = _Reader()
        self._readers[reader] = None
        try:
            try:
                body = await self._receive(request, limit, reader)
            finally:
                del self._readers[reader]
            yield body
        finally:
            self._held -= reader.held

    async def skip(self, request: Request, limit: int) -> None:
        """Wait for the end of an unneeded body, as not every client reads an answer while it is sending.

        Raises:
            As `read` does.
        """
        await self._receive(request, limit, None)

    async def _receive(self, request: Request, limit: int, reader: _Reader | None) -> bytes:
        deadline = asyncio.timeout(None) if reader is None else reader.deadline
        pace = Pace(seconds=SECONDS, rate=LEAST_RATE)
        pieces: list[bytes] = []
        size = 0
        stream = request.stream()
        try:
            async with deadline:
                while True:
                    if reader is None or not reader.gave_way:
                        deadline.reschedule(asyncio.get_running_loop().time() + pace.left())
                    piece = await anext(stream, None)
                    if piece is None:
                        return b"".join(pieces)
                    size += len(piece)
                    pace.count(len(piece))
                    if size > limit:
                        raise HTTPException(413, f"the body has more than the {limit} bytes that are allowed")
                    if reader is not None:
                        pieces.append(piece)
                        self._hold(reader, len(piece))
                        if reader.gave_way:  # for itself: there is no other
                            raise TimeoutError
        except TimeoutError as error:
            if reader is not None and reader.gave_way:
                raise HTTPException(503, "too many request bodies at once", {"Retry-After": "10"}) from None
            raise HTTPException(408, f"the body did not arrive in time: {str(error) or 'no data came'}") from None

    def _hold(self, reader: _Reader, size: int) -> None:
        reader.held += size
        self._held += size
        if self._held > self._max_held:
            oldest = next((each for each in self._readers if not each.gave_way), reader)
            oldest.give_way()
            self._held -= oldest.held
            oldest.held = 0
