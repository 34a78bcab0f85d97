"""The same session over a WebSocket, for networks where WebRTC cannot pass.

Binary messages both ways: eight bytes, the client's time stamp as a little-endian double, then a JPEG or WebP picture.
A picture comes back with the stamp of the camera frame that drove it (NaN for the first ones, which no frame drove).
Text messages are those of the data channel.
"""

import asyncio
import contextlib
import json
import logging
import math
import struct
import time
from functools import partial
from typing import Literal

from fastapi import WebSocket, WebSocketDisconnect
from starlette.websockets import WebSocketState
from websockets.frames import CloseCode

from personalive.live.core.frames import CameraFrame, Message, Picture
from personalive.live.core.pictures import MAX_FRAME_PIXELS, decode, encode
from personalive.live.core.subscription import Subscription
from personalive.live.hub.entries import Entry
from personalive.live.hub.hub import Hub
from personalive.live.transport.messages import STATISTICS_SECONDS, handle, session_figures

logger = logging.getLogger(__name__)

STAMP = struct.Struct("<d")
MAX_MESSAGE_BYTES = 4 * 1024 * 1024
"""The longest message that is read; the server is configured with it as well."""
FRAMES_PER_SECOND = 130
"""Messages a second; a client that sends faster is not read faster."""
TEXTS_PER_SECOND = 50
FLOOD_SECONDS = 2.0
"""A client that floods for this long is disconnected."""
WAIT_SECONDS = 0.1
"""How long reading stops for each tenth of a second's worth that came too early."""
SEND_SECONDS = 10.0
"""Seconds after which a client that reads nothing is disconnected."""
GOODBYE_SECONDS = 1.0
"""Time for the last messages to leave."""

PictureFormat = Literal["jpeg", "webp"]


class Ended(Exception):  # noqa: N818  not an error: what ends the tasks of a connection
    """A connection is over."""

    def __init__(self, code: int = CloseCode.GOING_AWAY, reason: str = "") -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


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
        self._closing = asyncio.Event()
        self._closed = asyncio.Event()

    @property
    def connected(self) -> bool:
        """Whether pictures can flow."""
        return True

    async def run(self) -> None:
        """Serve until either side ends it."""
        subscription = self._session.subscribe(self._wake_from_thread)
        end = Ended()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._receive())
                tasks.create_task(self._send_pictures(subscription))
                tasks.create_task(self._send_messages())
                tasks.create_task(self._wait_for_close())
        except* Ended as ends:
            end = next(each for each in ends.exceptions if isinstance(each, Ended))
        except* (WebSocketDisconnect, TimeoutError):
            pass  # a client that has vanished, or does not read
        except* Exception:
            logger.exception("a WebSocket broke")
        finally:
            self._session.unsubscribe(subscription)
            self._hub.connections.detach(self._entry, self)
            await self._hang_up(end)
            self._closed.set()

    def send(self, message: Message) -> None:
        """Tell the client something; any thread."""
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._queue, message)

    async def close(self) -> None:
        """End the connection, after the waiting messages."""
        self._closing.set()
        await self._closed.wait()

    def _queue(self, message: Message) -> None:
        with contextlib.suppress(asyncio.QueueFull):  # a client that does not read misses messages
            self._messages.put_nowait(message)

    async def _wait_for_close(self) -> None:
        await self._closing.wait()
        raise Ended

    async def _hang_up(self, end: Ended) -> None:
        if self._socket.application_state is not WebSocketState.CONNECTED:
            return
        # It may be gone, or its buffers full.
        with contextlib.suppress(WebSocketDisconnect, RuntimeError, TimeoutError):
            async with asyncio.timeout(GOODBYE_SECONDS):
                while not self._messages.empty():
                    await self._socket.send_text(json.dumps(self._messages.get_nowait()))
                await self._socket.close(end.code, end.reason)

    def _wake_from_thread(self) -> None:
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._ready.set)

    async def _receive(self) -> None:
        frames, texts = Pace(FRAMES_PER_SECOND), Pace(TEXTS_PER_SECOND)
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                raise Ended
            data, text = message.get("bytes"), message.get("text")
            if data is not None:
                self._take_frame(data)
                within = await frames.wait()
            else:
                handle(self._session, text, self._queue)
                within = await texts.wait()
            if not within:
                reason = "more messages came than a camera can send"
                self._queue({"type": "error", "error_message": reason})
                raise Ended(CloseCode.POLICY_VIOLATION, reason)

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
                async with asyncio.timeout(SEND_SECONDS):
                    await self._socket.send_bytes(data)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if due is None else due - now):
                    await self._ready.wait()

    def _encoded(self, picture: Picture) -> bytes:
        stamp = math.nan if picture.client_stamp is None else picture.client_stamp
        return STAMP.pack(stamp) + encode(picture.image, self._kind)

    async def _send_messages(self) -> None:
        while True:
            try:
                async with asyncio.timeout(STATISTICS_SECONDS):
                    message = await self._messages.get()
            except TimeoutError:
                message = {"type": "stats", **session_figures(self._session)}
            async with asyncio.timeout(SEND_SECONDS):
                await self._socket.send_text(json.dumps(message))


class Pace:
    """Limits a rate by making the caller wait; bursts of a second's worth pass at once.

    Waiting also holds the sender up, since its messages are not read meanwhile. One that keeps flooding for
    `FLOOD_SECONDS` must be disconnected: reading what it has sent would keep the session open long after it has left.
    """

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._left = per_second
        self._updated = time.monotonic()
        self._relaxed = self._updated

    async def wait(self) -> bool:
        """Wait until one more message may pass; False once there has been too much for too long."""
        now = time.monotonic()
        self._left = min(self._per_second, self._left + (now - self._updated) * self._per_second) - 1
        self._updated = now
        if self._left >= 0:
            self._relaxed = now
        elif self._left < -self._per_second * WAIT_SECONDS:
            await asyncio.sleep(WAIT_SECONDS)
            # However long the sleep took: otherwise a busy server would credit its own delay to the sender.
            self._left, self._updated = 0.0, time.monotonic()
        return now - self._relaxed < FLOOD_SECONDS
