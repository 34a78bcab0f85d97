"""Passes a WebSocket on to a worker, and what comes back."""

import asyncio
import contextlib
import json
import logging
from urllib.parse import urlencode

import httpx
from fastapi import WebSocket, WebSocketDisconnect
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.frames import CloseCode

from personalive.errors import PersonaLiveError
from personalive.live.core.frames import Message
from personalive.live.front.forward import headers_for
from personalive.live.front.ledger import Placed
from personalive.live.front.pool import Pool, Worker
from personalive.live.front.sessions import Sessions, session_id, settings
from personalive.live.http import callers
from personalive.live.http.security import given_token
from personalive.live.hub.clients import Client, new_cookie
from personalive.live.hub.entries import FullError
from personalive.live.transport.websocket import MAX_MESSAGE_BYTES, SEND_SECONDS

logger = logging.getLogger(__name__)

PASSED_ON = (b"cookie", b"x-forwarded-for", b"x-forwarded-proto")
QUEUE = 4
"""Pictures that may wait here for a client; then its worker waits, and drops others."""
GONE = {
    "type": "message",
    "code": "worker_ended",
    "text": "the process that made this session has ended: connect again with its sessionId to go on in another one",
}


class SocketProxy:
    """One client's WebSocket, already accepted."""

    def __init__(self, pool: Pool, sessions: Sessions, socket: WebSocket) -> None:
        self._pool, self._sessions, self._socket = pool, sessions, socket
        self._connected = contextlib.AsyncExitStack()
        """Closes every connection to a worker."""

    async def run(self, identifier: str | None, picture_format: str) -> None:
        """Serve until either side ends it.

        Args:
            identifier: of the session to continue; None: open one.
            picture_format: of the pictures that go to the client.
        """
        async with self._connected:
            upstream = await self._upstream(identifier, picture_format)
            if upstream is not None:
                await self._relay(upstream)

    async def _upstream(self, identifier: str | None, picture_format: str) -> ClientConnection | None:
        """A connection to the session's worker; None: there is none, which the client has been told."""
        try:
            client = callers.sender_of(self._socket, new_cookie)
            lost = self._sessions.lost(identifier, client) if identifier else None
            if identifier is None or lost is not None:
                return await self._open(client, urlencode({"format": picture_format}), lost)
            query = urlencode({"sessionId": identifier, "format": picture_format})
            return await self._connect(self._sessions.worker_of(identifier, client), query)
        except (PersonaLiveError, OSError, WebSocketException, httpx.TransportError) as error:
            reason = str(error) if isinstance(error, PersonaLiveError) else "its worker has ended: try again"
            await self._hang_up(CloseCode.TRY_AGAIN_LATER, reason, {"type": "stream_stopped", "error_message": reason})
        except WebSocketDisconnect:
            pass  # the client has left
        return None

    async def _open(self, client: Client, query: str, lost: Placed | None) -> ClientConnection:
        """A connection to a session that has just been opened, or else to the last worker that refused one."""
        refused: tuple[ClientConnection, str | bytes] | None = None
        for worker in self._pool.ordered(client):
            try:
                async with self._sessions.on_its_way(worker):
                    await self._sessions.bring_portrait(worker, self._socket, client, lost)
                    upstream = await self._connect(worker, query)
                    first = await upstream.recv()
                    identifier = session_id(first.encode() if isinstance(first, str) else first)
                    if identifier is not None:
                        self._sessions.opened(worker, identifier, client, lost)
            except (OSError, WebSocketException, httpx.TransportError):  # it has just died
                continue
            if refused is not None:
                await refused[0].close()
            if identifier is not None:
                await self._send(first)
                if lost is not None:
                    await self._as_before(worker, upstream, identifier, lost)
                return upstream
            refused = upstream, first
        if refused is None:
            raise FullError("the worker that was asked has ended: try again in a moment")
        await self._send(refused[1])
        return refused[0]

    async def _as_before(self, worker: Worker, upstream: ClientConnection, identifier: str, lost: Placed) -> None:
        """Give a session settings and portrait of the one whose place it takes."""
        await upstream.send(json.dumps(settings(lost.parameters)))
        with contextlib.suppress(httpx.TransportError):
            await self._sessions.restore_portrait(worker, self._socket, identifier, lost)

    async def _connect(self, worker: Worker, query: str) -> ClientConnection:
        headers = [(name.decode(), value.decode("latin1")) for name, value in headers_for(self._socket)]
        kept = [each for each in headers if each[0].encode() in PASSED_ON]
        token = given_token(self._socket.headers)
        upstream = await worker.process.connect(
            f"/api/v1/ws?{query}",
            additional_headers=[*kept, ("authorization", f"Bearer {token}")] if token else kept,
            user_agent_header=None,
            compression=None,
            proxy=None,
            ping_interval=None,  # the client's own are answered here
            max_size=MAX_MESSAGE_BYTES,
            max_queue=QUEUE,
            close_timeout=1.0,
        )
        self._connected.push_async_callback(upstream.close)
        return upstream

    # ---- relaying ----

    async def _relay(self, upstream: ClientConnection) -> None:
        up, down = asyncio.create_task(self._up(upstream)), asyncio.create_task(self._down(upstream))
        try:
            await asyncio.wait([up, down], return_when="FIRST_COMPLETED")
        finally:
            up.cancel()
            down.cancel()
            results = await asyncio.gather(up, down, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception) and not isinstance(result, WebSocketDisconnect | TimeoutError | OSError):
                logger.error("a WebSocket broke", exc_info=result)
        if upstream.close_code == CloseCode.ABNORMAL_CLOSURE:
            await self._hang_up(CloseCode.SERVICE_RESTART, GONE["text"], GONE)
        elif upstream.close_code is not None:
            await self._hang_up(upstream.close_code, upstream.close_reason or "")

    async def _hang_up(self, code: int, reason: str, message: Message | None = None) -> None:
        with contextlib.suppress(WebSocketDisconnect, RuntimeError, TimeoutError, OSError):  # it may be gone
            if message is not None:
                await self._send(json.dumps(message))
            await self._socket.close(code, reason[:120])

    async def _up(self, upstream: ClientConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            while (message := await self._socket.receive())["type"] != "websocket.disconnect":
                data = message.get("bytes")
                await upstream.send(message["text"] if data is None else data)

    async def _down(self, upstream: ClientConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                await self._send(await upstream.recv())

    async def _send(self, message: str | bytes) -> None:
        async with asyncio.timeout(SEND_SECONDS):
            if isinstance(message, str):
                await self._socket.send_text(message)
            else:
                await self._socket.send_bytes(message)
