"""The driver's microphone, passed on with the delay of the picture."""

import asyncio
import time
from collections import deque
from collections.abc import Callable

import av
from aiortc import MediaStreamTrack
from aiortc.mediastreams import MediaStreamError

from personalive.live.core.sound import Sound

TOLERANCE = 0.08
"""Seconds by which sound may be late before some of it is dropped."""
MAX_WAITING = 500
"""The most packets of 20 ms that wait: 10 seconds."""


class DelayedAudio(MediaStreamTrack):
    """A track that returns a session's sound some time after it came."""

    kind = "audio"

    def __init__(self, sound: Sound, delay: Callable[[], float]) -> None:
        """`delay` returns the seconds to wait, which may change."""
        super().__init__()
        self._sound = sound
        self._delay = delay
        self._held: deque[tuple[float, av.AudioFrame]] = deque(maxlen=MAX_WAITING)
        self._arrived = asyncio.Event()
        sound.listen(self._hold)

    async def recv(self) -> av.AudioFrame:
        """The next frame when its time has come."""
        while True:
            self._arrived.clear()
            if self.readyState != "live":
                raise MediaStreamError
            if not self._held:
                await self._arrived.wait()
                continue
            arrived, frame = self._held[0]
            wait = arrived + self._delay() - time.monotonic()
            if wait > 0:
                await asyncio.sleep(wait)
                continue
            self._held.popleft()
            if wait > -TOLERANCE or not self._held:
                return frame

    def stop(self) -> None:
        """End the track."""
        super().stop()
        self._sound.leave(self._hold)
        self._arrived.set()

    def _hold(self, frame: av.AudioFrame) -> None:
        self._held.append((time.monotonic(), frame))
        self._arrived.set()
