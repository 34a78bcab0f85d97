"""The same session over a WebSocket, for networks where WebRTC can not pass.

Binary messages both ways: eight bytes, the client's time stamp as a little-endian double, then a JPEG or WebP picture.
A picture comes back with the stamp of the camera frame that drove it (NaN for the first ones, which nothing drove).
Text messages are those of the data channel.
"""

import asyncio
import contextlib
import json
import math
import struct
import time
from functools import partial
from typing import Literal

from fastapi import WebSocket
from starlette.websockets import WebSocketState

from personalive.live.core.frames import CameraFrame, Message, Picture
from personalive.live.core.pictures import MAX_FRAME_PIXELS, decode, encode
from personalive.live.core.subscription import Subscription
from personalive.live.hub.entries import Entry
from personalive.live.hub.hub import Hub
from personalive.live.transport.messages import handle, session_figures

STAMP = struct.Struct("<d")
MAX_MESSAGE_BYTES = 4 * 1024 * 1024
"""Longest message that is read; the server is told so, too."""
FRAMES_PER_SECOND = 130
"""A client that sends faster is read no faster."""
TEXTS_PER_SECOND = 50
FLOOD_SECONDS = 2.0
SEND_SECONDS = 10.0
"""A client that reads nothing for so long is let go."""
STATISTICS_SECONDS = 0.5
GOING_AWAY = 1001

PictureFormat = Literal["jpeg", "webp"]


class Socket:
    """One WebSocket connection that drives a session."""

    def __init__(self, hub: Hub, entry: Entry, socket: WebSocket, kind: PictureFormat) -> None:
        self._hub = hub
        self._entry = entry
        self._session = entry.session
        self._socket = socket
        self._kind = kind.upper()
        self._loop = asyncio.get_running_loop()
        self._ready = asyncio.Event()
        self._messages: asyncio.Queue[Message] = asyncio.Queue(maxsize=32)
        self._work: asyncio.Task[None] | None = None

    @property
    def connected(self) -> bool:
        """Whether pictures can flow."""
        return True

    async def run(self) -> None:
        """Serve until either side ends it."""
        self._work = asyncio.ensure_future(self._serve())
        with contextlib.suppress(asyncio.CancelledError):
            await self._work

    def send(self, message: Message) -> None:
        """Tell the client something; any thread."""
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._queue, message)

    async def close(self) -> None:
        """End the connection, after the messages that wait."""
        if self._work is not None and not self._work.done():
            with contextlib.suppress(Exception):
                async with asyncio.timeout(1.0):
                    while not self._messages.empty():
                        await self._socket.send_text(json.dumps(self._messages.get_nowait()))
            self._work.cancel()

    def _queue(self, message: Message) -> None:
        with contextlib.suppress(asyncio.QueueFull):  # a client that does not read misses messages
            self._messages.put_nowait(message)

    async def _serve(self) -> None:
        subscription = self._session.subscribe(self._wake_from_thread)
        works = (self._receive(), self._send_pictures(subscription), self._send_messages())
        sides = [asyncio.ensure_future(work) for work in works]
        try:
            done, _ = await asyncio.wait(sides, return_when=asyncio.FIRST_COMPLETED)
            for side in done:
                side.exception()  # seen: a connection that broke is the usual end
        finally:
            for side in sides:
                side.cancel()
            await asyncio.gather(*sides, return_exceptions=True)
            self._session.unsubscribe(subscription)
            self._hub.connections.detach(self._entry, self)
            await self._hang_up()

    async def _hang_up(self) -> None:
        if self._socket.application_state is WebSocketState.CONNECTED:
            with contextlib.suppress(Exception):
                await asyncio.wait_for(self._socket.close(GOING_AWAY), 1.0)

    def _wake_from_thread(self) -> None:
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._ready.set)

    async def _receive(self) -> None:
        frames, texts = Pace(FRAMES_PER_SECOND), Pace(TEXTS_PER_SECOND)
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            data, text = message.get("bytes"), message.get("text")
            if data is not None:
                self._take_frame(data)
                within = await frames.wait()
            else:
                handle(self._session, text, self._queue)
                within = await texts.wait()
            if not within:
                self._queue({"type": "error", "error_message": "more messages came than a camera can send"})
                return

    def _take_frame(self, data: bytes) -> None:
        if len(data) <= STAMP.size:
            self._queue({"type": "error", "error_message": "a frame is eight bytes of time stamp and then a picture"})
            return
        (stamp,) = STAMP.unpack_from(data)
        read = partial(decode, data[STAMP.size :], MAX_FRAME_PIXELS)
        self._session.offer(CameraFrame(time.monotonic(), read, None if math.isnan(stamp) else stamp))

    async def _send_pictures(self, subscription: Subscription) -> None:
        while True:
            self._ready.clear()
            now = time.monotonic()
            picture, due = subscription.pop(now)
            if picture is not None:
                data = await self._loop.run_in_executor(None, self._encoded, picture)
                await asyncio.wait_for(self._socket.send_bytes(data), SEND_SECONDS)
                continue
            wait = None if due is None else max(0.0, due - now)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ready.wait(), wait)

    def _encoded(self, picture: Picture) -> bytes:
        stamp = math.nan if picture.client_stamp is None else picture.client_stamp
        return STAMP.pack(stamp) + encode(picture.image, self._kind)

    async def _send_messages(self) -> None:
        while True:
            try:
                message = await asyncio.wait_for(self._messages.get(), STATISTICS_SECONDS)
            except TimeoutError:
                message = {"type": "stats", **session_figures(self._session)}
            await asyncio.wait_for(self._socket.send_text(json.dumps(message)), SEND_SECONDS)


class Pace:
    """Lets things pass at a rate, by making whoever asks wait: bursts of a second's worth pass at once.

    Waiting also holds the sender up, since its messages are not read meanwhile. One that does not take the hint for
    `FLOOD_SECONDS` is to be let go, or reading what it has sent would keep the session open long after it has left.
    """

    def __init__(self, per_second: float) -> None:
        self._interval = 1 / per_second
        self._allowed = per_second
        self._left = per_second
        self._updated = time.monotonic()
        self._relaxed = self._updated

    async def wait(self) -> bool:
        """Wait until one more thing may pass; False once too much has come for too long."""
        now = time.monotonic()
        self._left = min(self._allowed, self._left + (now - self._updated) / self._interval) - 1
        self._updated = now
        if self._left >= 0:
            self._relaxed = now
            return True
        await asyncio.sleep(-self._left * self._interval)
        return now - self._relaxed < FLOOD_SECONDS
