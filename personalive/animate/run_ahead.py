"""A stream whose next frames are pushed before the last ones are taken out, so that a GPU never waits for the host."""

from collections.abc import Iterator

from personalive.engine.advance import PendingFrames
from personalive.engine.state import Driving
from personalive.engine.stream import Stream
from personalive.types import RGBArray


class RunAhead:
    """Pushes into a stream and returns what the push before has finished."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._pending: PendingFrames | None = None

    def push(self, driving: Driving) -> RGBArray:
        """`Stream.push`, except for the frames: they are those of the last push, uint8 [m, height, width, 3]."""
        before, self._pending = self._pending, self._stream.submit(driving)
        return self._stream.joined([]) if before is None else before.result()

    def drain(self) -> Iterator[RGBArray]:
        """The frames of the last push, then those of `Stream.drain`."""
        if self._pending is not None:
            yield self._pending.result()
        yield from self._stream.drain()
