"""The camera's microphone, sent back with the delay of the picture."""

import asyncio
import time
from collections import deque
from collections.abc import Callable

from aiortc import MediaStreamTrack
from aiortc.mediastreams import MediaStreamError
from av.frame import Frame

TOLERANCE = 0.08
"""Seconds by which sound may be late before some of it is dropped."""
MAX_WAITING = 500
"""The most packets of 20 ms that wait: 10 seconds."""


class DelayedAudio(MediaStreamTrack):
    """A track that returns another's frames some time after they came."""

    kind = "audio"

    def __init__(self, source: MediaStreamTrack, delay: Callable[[], float]) -> None:
        """`delay` returns the seconds to wait, which may change."""
        super().__init__()
        self._source = source
        self._delay = delay
        self._held: deque[tuple[float, Frame]] = deque(maxlen=MAX_WAITING)
        self._arrived = asyncio.Event()
        self._ended = False
        self._reader = asyncio.ensure_future(self._read())

    async def recv(self) -> Frame:
        """The next frame when its time has come."""
        while True:
            self._arrived.clear()
            if self._held:
                arrived, frame = self._held[0]
                wait = arrived + self._delay() - time.monotonic()
                if wait <= 0:
                    self._held.popleft()
                    if wait > -TOLERANCE or not self._held:
                        return frame
                    continue
                await asyncio.sleep(wait)
            elif self._ended or self.readyState != "live":
                raise MediaStreamError
            else:
                await self._arrived.wait()

    def stop(self) -> None:
        """End the track."""
        super().stop()
        self._reader.cancel()
        self._arrived.set()

    async def _read(self) -> None:
        try:
            while True:
                frame = await self._source.recv()
                assert isinstance(frame, Frame)  # only files yield packets
                self._held.append((time.monotonic(), frame))
                self._arrived.set()
        except MediaStreamError:
            self._ended = True
            self._arrived.set()
