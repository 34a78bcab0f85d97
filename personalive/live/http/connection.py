"""The connections of the live server: HTTP as `personalive.net` bounds it, and WebSockets with a pace."""

import asyncio
import base64
import binascii
import time
from typing import Any

import h11
from uvicorn.config import Config
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.frames import CloseCode, Frame

from personalive.live.http.security import answer_headers
from personalive.net.connection import ROOM, SECONDS, HttpConnection, Place, Stage

CONTROL_FRAMES = 200
"""Pings, pongs and parts of messages that a WebSocket may send at once, and again ten seconds later."""
PIECE = 2 * 1024
"""Bytes of a WebSocket that are parsed at once."""
PARSING_SECONDS = 0.002
"""After so much parsing in one go, others have their turn."""
PARSING_SHARE = 0.25
"""Of the event loop's time, for a WebSocket that has more to parse than that."""
MAX_LATE_BYTES = 65536
"""Bytes of a WebSocket that are read after we closed it, to find the client's close frame."""


class LiveConnection(HttpConnection):
    """HTTP/1.1 that may become a WebSocket."""

    refusal_headers = answer_headers("")

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        """Hand the connection over, if the handshake is valid: the library's refusals go out without our headers."""
        given = dict(self.headers)
        if given.get(b"sec-websocket-version") != b"13":
            self.refuse(
                426, "only version 13 of the WebSocket protocol is supported", (b"sec-websocket-version", b"13")
            )
        elif event.method != b"GET" or not _is_key(given.get(b"sec-websocket-key", b"")):
            self.refuse(400, "the WebSocket handshake is not complete")
        else:
            self.leave()
            super().handle_websocket_upgrade(event)


def _is_key(value: bytes) -> bool:
    try:
        return len(base64.b64decode(value.strip(), validate=True)) == 16
    except binascii.Error:
        return False


class SocketConnection(WebSocketsSansIOProtocol):
    """A WebSocket: control frames are limited in rate, and closing in time.

    Whole messages are read one by one, as fast as the application takes them. Pings, pongs and parts of messages are
    not: a client that sends nothing else would make the server answer for ever, into a buffer that is never emptied.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._place: Place | None = None
        self._frames_left = float(CONTROL_FRAMES)
        self._counted = time.monotonic()
        self._late_bytes = 0
        self._unread = b""
        """What has arrived and is not parsed yet."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A request becomes a WebSocket."""
        super().connection_made(transport)
        self._place = Place(self.app_state[ROOM], self.transport, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        if self._place is not None:
            self._place.move(None)
        super().connection_lost(exc)

    async def run_asgi(self) -> None:
        """Serve, and then wait for the client to close its side."""
        await super().run_asgi()
        if self._place is not None and not self.disconnected:
            self._place.move(Stage.GOODBYE)

    def data_received(self, data: bytes) -> None:
        """Data arrived. After the end it is dropped: a client that cannot send does not read either."""
        if self.close_sent:
            self._late_bytes += len(data)
        if self._late_bytes <= MAX_LATE_BYTES:
            waiting = bool(self._unread)
            self._unread += data
            if not waiting:
                self._parse()

    def _parse(self) -> None:
        """Read on, a piece at a time: what a flood leaves in the socket's buffer takes a tenth of a second to parse."""
        began = time.perf_counter()
        spent = 0.0
        while self._unread and spent < PARSING_SECONDS:
            piece, self._unread = self._unread[:PIECE], self._unread[PIECE:]
            if self._late_bytes > MAX_LATE_BYTES or self.transport.is_closing():
                self._unread = b""
                return
            super().data_received(piece)
            spent = time.perf_counter() - began
        if self._unread:
            if not self.read_paused:
                self.read_paused = True
                self.transport.pause_reading()
            self.loop.call_later(spent * (1 / PARSING_SHARE - 1), self._parse)
        elif self.read_paused and self.queue.empty():  # the application waits already, and would not resume it
            self.read_paused = False
            self.transport.resume_reading()

    async def send(self, message: Any) -> None:
        """Send for the application, which may not know yet that the connection was dropped."""
        if self.close_sent:
            raise ClientDisconnected
        await super().send(message)
        if message["type"] == "websocket.http.response.body":  # a refusal; uvicorn would report it as a defect
            self.handshake_complete = self.close_sent

    def handle_ping(self) -> None:
        """A pong is ready to go."""
        if self._within_pace():
            super().handle_ping()

    def handle_pong(self, event: Frame) -> None:
        """A pong from the client, perhaps unasked."""
        if self._within_pace():
            super().handle_pong(event)

    def handle_cont(self, event: Frame) -> None:
        """A further part of a message."""
        if self._within_pace():
            super().handle_cont(event)

    def _within_pace(self) -> bool:
        """Count a frame; too many end the connection."""
        now = time.monotonic()
        gained = (now - self._counted) * CONTROL_FRAMES / 10
        self._frames_left = min(CONTROL_FRAMES, self._frames_left + gained) - 1
        self._counted = now
        if self._frames_left < 0 and not self.close_sent:
            self._give_up(CloseCode.POLICY_VIOLATION, "there were too many control frames")
        return self._frames_left >= 0

    def _give_up(self, code: CloseCode, reason: str) -> None:
        """Send the close frame, and drop what still arrives: closing at once would lose the close frame."""
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.conn.fail(code, reason)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        # Without it uvicorn hangs up as soon as the application has ended.
        self.close_timer = self.loop.call_later(SECONDS[Stage.GOODBYE], self.transport.close)
        self._late_bytes = MAX_LATE_BYTES + 1
        self.transport.resume_reading()
        if self._place is not None:
            self._place.move(Stage.GOODBYE)
