"""A stream that is always one call ahead of its frames, so that a GPU never waits for the host."""

from collections.abc import Iterator

from personalive.engine.advance import PendingFrames
from personalive.engine.motion import DriverMotion
from personalive.engine.preprocess import DrivingFrames
from personalive.engine.stream import Stream
from personalive.types import RGBArray


class RunAhead:
    """Observes and pushes driving frames; what they finish comes out two calls later.

    While the GPU works on a call, the host sees to its neighbours: it takes out the frames of the call before, and
    finds the faces in the frames of the next.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._motion: DriverMotion | None = None
        self._pending: PendingFrames | None = None

    def drive(self, driving: DrivingFrames) -> tuple[DriverMotion, RGBArray]:
        """The motion in frames, which is pushed next; and what has been finished, uint8 [m, height, width, 3]."""
        look = self._stream.look(driving)
        frames = self._advance()
        self._motion = self._stream.observe(look)
        return self._motion, frames

    def push(self, motion: DriverMotion) -> RGBArray:
        """Frames that are finished; the motion will be pushed next."""
        frames, self._motion = self._advance(), motion
        return frames

    def settle(self) -> Iterator[RGBArray]:
        """The frames of everything that is under way: the stream is then where it would be without running ahead."""
        yield self._advance()
        if self._pending is not None:
            yield self._pending.result()
        self._motion = self._pending = None

    def _advance(self) -> RGBArray:
        """Push the motion that waits, then take out the frames of the push before."""
        before = self._pending
        self._pending = None if self._motion is None else self._stream.submit(self._motion)
        return self._stream.joined([]) if before is None else before.result()
