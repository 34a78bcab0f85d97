"""The driver's sound on its way to everyone who sees the picture."""

from collections.abc import Callable
from typing import Any

Listener = Callable[[Any], None]
"""Takes a frame of sound."""


class Sound:
    """Hands the frames of one session's microphone on. Everything happens in the event loop."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []
        self._offset: int | None = None
        self._end = 0

    def listen(self, listener: Listener) -> None:
        """Call `listener` with every frame from now on."""
        self._listeners.append(listener)

    def leave(self, listener: Listener) -> None:
        """End that."""
        if listener in self._listeners:
            self._listeners.remove(listener)

    def start(self) -> None:
        """Frames come from another sender now, whose time starts somewhere."""
        self._offset = None

    def push(self, frame: Any) -> None:
        """A frame (an `av.AudioFrame`) has come; its time is made to follow that of the one before."""
        given = frame.pts or 0
        if self._offset is None:
            self._offset = self._end - given
        frame.pts = given + self._offset
        self._end = frame.pts + frame.samples
        for listener in self._listeners:
            listener(frame)
