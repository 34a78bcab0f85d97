"""A result that is written by a thread of its own, so that its encoder does not hold up what makes the frames."""

import queue
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from personalive.media.encoding import VideoFormat
from personalive.media.frames_writer import FramesWriter
from personalive.media.sound import Sound
from personalive.media.video_writer import Seal, VideoWriter, open_result
from personalive.types import RGBArray

QUEUED = 4
"""The most arrays of frames that wait for the encoder; then `write` waits too."""


class WriteAhead:
    """Writes one result in the order in which frames come; a context manager.

    Unless `finish` was called, leaving it removes everything that was written.
    """

    def __init__(self, writer: VideoWriter | FramesWriter) -> None:
        """Take over a writer: nobody else may use it from now on."""
        self.frames = 0
        """Frames that were handed over."""
        self._writer = writer
        self._queue: queue.Queue[RGBArray | None] = queue.Queue(QUEUED)
        self._failure: BaseException | None = None
        self._cancelled = threading.Event()
        self._thread = threading.Thread(target=self._work, name="result", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cancelled.set()
        self._end()
        self._writer.__exit__(kind, error, trace)

    def write(self, frames: RGBArray) -> None:
        """Append frames, uint8 [n, height, width, 3], which belong to the writer from now on.

        Raises:
            OutputError: frames before could not be written, for instance because the disk is full.
        """
        self._check()
        self._queue.put(frames)
        self.frames += len(frames)

    def finish(self) -> None:
        """Write what is waiting, complete the result and give it its name.

        Raises:
            OutputError: it cannot be written, or another program has made one of that name in the meantime.
        """
        self._end()
        self._check()
        self._writer.finish()

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _end(self) -> None:
        """Wait for the thread. Does nothing the second time."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    def _work(self) -> None:
        # After a failure or the end it empties the queue, so that nobody waits for room in it.
        while (frames := self._queue.get()) is not None:
            if self._failure is None and not self._cancelled.is_set():
                try:
                    self._writer.write(frames)
                except BaseException as failure:  # to be raised where frames are handed over
                    self._failure = failure


def write_ahead(
    path: Path, video: VideoFormat, *, sound: Sound | None = None, overwrite: bool = False, seal: Seal | None = None
) -> WriteAhead:
    """`open_result`, written by a thread of its own; arguments and errors as there."""
    return WriteAhead(open_result(path, video, sound=sound, overwrite=overwrite, seal=seal))
