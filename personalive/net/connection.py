"""uvicorn's HTTP connections with read and write deadlines, and a limit on how many may wait.

uvicorn waits for ever for the rest of a request, and counts waiting connections among those that it serves, so a few
hundred half requests lock everyone out. `docs/decisions.md` says what else was measured.
"""

import asyncio
import enum
import http
import json
import ssl
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, cast

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from personalive.net.waiting import WaitingRoom

ROOM, TLS = "waiting_room", "tls"
"""Where the application's lifespan puts the `WaitingRoom`, and the context for https or None."""
TLS_SHUTDOWN_SECONDS = 1.0


class Stage(enum.Enum):
    """What a connection is waiting for."""

    HANDSHAKE = "TLS"
    REQUEST = "the head of a request"
    BODY = "its body"
    ANSWER = "the client to take its answer"
    GOODBYE = "the client's side of a WebSocket to be closed"


SECONDS: Mapping[Stage, float] = {
    Stage.HANDSHAKE: 10.0,
    Stage.REQUEST: 15.0,
    Stage.BODY: 40.0,
    Stage.ANSWER: 20.0,
    Stage.GOODBYE: 3.0,
}
"""Time for each. A request's runs from the last answer, or from the start, until its head is complete. The application
gives a body 30 seconds, and says so; this is for bodies that it does not read. An answer's is for each full buffer,
which makes three kilobytes a second."""


class Place:
    """One connection's place in the waiting room, with its deadline."""

    def __init__(
        self,
        room: WaitingRoom,
        transport: asyncio.Transport,
        on_deadline: Callable[[], None],
        seconds: Mapping[Stage, float] = SECONDS,
    ) -> None:
        self._room = room
        self._seconds = seconds
        self._transport = transport
        self._on_deadline = on_deadline
        self._stage: Stage | None = None
        self._timer: asyncio.TimerHandle | None = None
        peer = transport.get_extra_info("peername")
        self.address = str(peer[0]) if isinstance(peer, tuple) else "unknown"

    def move(self, stage: Stage | None) -> None:
        """Wait for something else, or for nothing. An unchanged wait keeps its deadline."""
        if stage is self._stage:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._room.leave(self)
        self._stage, self._timer = stage, None
        if stage is not None:
            self._timer = asyncio.get_running_loop().call_later(self._seconds[stage], self._on_deadline)
            self._room.enter(self)

    def hold(self, size: int) -> None:
        """Account for bytes of a body in memory."""
        self._room.hold(self, size)

    def release(self) -> None:
        """The body is no longer needed."""
        self._room.release(self)

    def give_way(self) -> None:
        """End at once, to make room for others."""
        self.move(None)
        self._transport.abort()


class HttpConnection(H11Protocol):
    """HTTP/1.1, with TLS below it if wanted: uvicorn would start TLS before the connection is counted."""

    seconds: ClassVar[Mapping[Stage, float]] = SECONDS
    """Time for each stage."""
    refusal_headers: ClassVar[Mapping[str, str]] = {}
    """What goes with refusals that the application does not see."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._place: Place | None = None
        self._handshake: asyncio.Task[None] | None = None
        self._ready = False
        """Whether requests can come: there is no TLS, or its handshake is done."""
        self._early = b""
        """What arrived with the end of the handshake."""

    # ---- events ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        transport = cast(asyncio.Transport, transport)
        self._place = Place(self.app_state[ROOM], transport, self._expire, self.seconds)
        if self.app_state[TLS] is None:
            self._begin(transport)
        else:
            self._place.move(Stage.HANDSHAKE)
            transport.pause_reading()
            self._handshake = self.loop.create_task(self._start_tls(transport, self.app_state[TLS]))

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        self.leave()
        if self._ready:
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Data arrived from the client."""
        if not self._ready:
            self._early += data
            return
        super().data_received(data)
        self._watch()
        if self._place is not None and self._stage is not Stage.REQUEST:
            self._place.hold(len(data))

    def on_response_complete(self) -> None:
        """An answer has gone out; there may be another request already."""
        if self._place is not None:
            self._place.release()
            self._place.move(None)
        super().on_response_complete()
        self._watch()

    def pause_writing(self) -> None:
        """The client is not reading its response."""
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        """The client is reading again."""
        super().resume_writing()
        self._watch()

    def send_400_response(self, msg: str) -> None:
        """Answer something that is not HTTP."""
        self.refuse(400, "this is not a valid HTTP request")

    # ---- inside ----

    @property
    def _stage(self) -> Stage | None:
        if self.cycle is None or self.cycle.response_complete:
            return Stage.REQUEST
        if self.cycle.more_body:
            return Stage.BODY
        return Stage.ANSWER if self.flow.write_paused else None

    def _watch(self) -> None:
        if self._place is not None:
            self._place.move(self._stage)

    def leave(self) -> None:
        """Give up the place in the waiting room."""
        if self._place is not None:
            self._place.release()
            self._place.move(None)
            self._place = None

    def _begin(self, transport: asyncio.Transport) -> None:
        self._ready = True
        super().connection_made(transport)
        self._watch()

    async def _start_tls(self, transport: asyncio.Transport, context: ssl.SSLContext) -> None:
        try:
            secure = await self.loop.start_tls(
                transport,
                self,
                context,
                server_side=True,
                ssl_handshake_timeout=self.seconds[Stage.HANDSHAKE],
                ssl_shutdown_timeout=TLS_SHUTDOWN_SECONDS,
            )
        except OSError:  # no TLS, too late, or a client that left
            self.leave()
            transport.abort()
            return
        if secure is None or secure.is_closing() or self._place is None:
            self.leave()
            return
        self._begin(secure)
        if self._early:
            self.data_received(self._early)

    def _expire(self) -> None:
        """The client's time is up."""
        begun = self._ready and self._stage is Stage.REQUEST and bool(self.conn.trailing_data[0])
        if begun and self.conn.our_state is h11.IDLE:
            self.refuse(408, f"the request did not come within {self.seconds[Stage.REQUEST]:g} seconds")
        elif self._place is not None:
            self._place.give_way()

    def refuse(self, status: int, detail: str, *more: tuple[bytes, bytes]) -> None:
        """Answer a request that never reaches the application, and close the connection."""
        body = json.dumps({"detail": detail}).encode()
        headers = [
            *((name.lower().encode(), value.encode()) for name, value in self.refusal_headers.items()),
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
            *more,
        ]
        reason = http.HTTPStatus(status).phrase.encode()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):  # otherwise an answer is already on its way
            answer = h11.Response(status_code=status, headers=headers, reason=reason)
            for event in (answer, h11.Data(body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        if self.transport.get_write_buffer_size():  # no one takes it
            self.transport.abort()
        self.transport.close()
