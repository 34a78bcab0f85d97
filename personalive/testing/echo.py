"""A model that passes its driver's frames through, so that what the server itself adds can be measured and tested.

It has PersonaLive's shape (`personalive.live.core.engine.Engine`): it can take four frames a call, trail the driver by
twelve and take its time. A border in the portrait's mean colour tells whose picture it is.
"""

import contextlib
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from personalive.engine.control import MotionControl
from personalive.engine.cues import Cue
from personalive.errors import InputError
from personalive.live.core.engine import Engine
from personalive.live.core.frames import between
from personalive.live.core.parameters import LoadParameters
from personalive.types import Box, RGBArray

BORDER = 16
"""Pixels of the border."""


@dataclass(eq=False)
class EchoStream:
    """The state of one session: its portrait's colour, and the frames that are on their way."""

    delay_frames: int
    seed: int
    control: MotionControl = field(default_factory=MotionControl)
    keyframe_threshold: float = 17.0
    colour: tuple[int, int, int] | None = None
    waiting: deque[RGBArray] = field(default_factory=deque)
    resets: int = 0
    anchors: int = 0
    centres: int = 0
    frames_in: int = 0

    def set_reference(self, reference: Any) -> None:
        """Start again with this portrait."""
        self.colour = reference
        self.waiting.clear()

    def swap_reference(self, reference: Any) -> None:
        """Continue with another portrait."""
        self.colour = reference

    def reset(self) -> None:
        """Forget the driver."""
        self.resets += 1
        self.waiting.clear()

    def reanchor(self) -> None:
        """Count that it was asked for."""
        self.anchors += 1

    def recentre(self) -> None:
        """Count that it was asked for."""
        self.centres += 1

    def state_dict(self) -> dict[str, Any]:
        """The temporal state."""
        return {"colour": self.colour, "waiting": list(self.waiting)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a temporal state."""
        self.colour = state["colour"]
        self.waiting = deque(state["waiting"])


class EchoEngine:
    """See the module."""

    def __init__(
        self,
        width: int = 512,
        height: int = 512,
        *,
        chunk_frames: int = 1,
        delay_frames: int = 0,
        seconds: float = 0.0,
        sleep: Callable[[float], None] = time.sleep,
        before_call: Callable[[Sequence[EchoStream]], None] = lambda streams: None,
    ) -> None:
        """`seconds`: time of a call, which `sleep` takes; `before_call` may raise, as a device without memory does."""
        self.width, self.height = width, height
        self.chunk_frames, self.delay_frames = chunk_frames, delay_frames
        self.seconds = seconds
        self.sleep = sleep
        self.keyframe_threshold = 17.0
        self.on_gpu = False
        self.native_side = min(width, height)
        self.before_call = before_call
        self.threads: set[int] = set()
        self.streams: weakref.WeakSet[EchoStream] = weakref.WeakSet()
        """The streams that are in use."""

    @property
    def call_seconds(self) -> float:
        """What a call takes."""
        return self.seconds

    def guard(self) -> contextlib.AbstractContextManager[None]:
        """Nothing has to be translated here."""
        return contextlib.nullcontext()

    def open(self, seed: int) -> EchoStream:
        """The state for a new session."""
        stream = EchoStream(self.delay_frames, seed)
        self.before_call([stream])
        self.streams.add(stream)
        return stream

    def reference(self, image: RGBArray, face_box: Box | None) -> tuple[int, int, int]:
        """A portrait's mean colour."""
        red, green, blue = image.reshape(-1, 3).mean(axis=0)
        return int(red), int(green), int(blue)

    def unsuited(self, image: RGBArray, face_box: Box | None) -> str:
        """Every portrait suits."""
        return ""

    def driving(
        self, images: Sequence[RGBArray], face_boxes: Sequence[Box] | None, cues: Sequence[Cue] | None = None
    ) -> RGBArray:
        """The frames at the output's size, those between two of them as the later one."""
        sized = [self._sized(image) for image in images]
        return np.stack([sized[index] for index, _ in between(0.0, [0.0] * len(sized), self.chunk_frames)])

    def advance(self, streams: Sequence[EchoStream], driving: Sequence[RGBArray]) -> list[RGBArray]:
        """One call: the frames that came `delay_frames` before."""
        self.threads.add(threading.get_ident())
        self.before_call(streams)
        if self.seconds:
            self.sleep(self.seconds)
        return [self._advance(stream, frames) for stream, frames in zip(streams, driving, strict=True)]

    def _advance(self, stream: EchoStream, frames: RGBArray) -> RGBArray:
        if stream.colour is None:
            raise InputError("the stream has no portrait yet: call set_reference first")
        if not stream.waiting and self.delay_frames:
            stream.waiting.extend(np.full_like(frames[0], 127) for _ in range(self.delay_frames))
        stream.waiting.extend(frames)
        stream.frames_in += len(frames)
        finished = np.stack([stream.waiting.popleft() for _ in range(self.chunk_frames)])
        for part in (np.s_[:, :BORDER], np.s_[:, -BORDER:], np.s_[:, :, :BORDER], np.s_[:, :, -BORDER:]):
            finished[part] = stream.colour
        return finished

    def _sized(self, image: RGBArray) -> RGBArray:
        if image.shape[:2] == (self.height, self.width):
            return image
        return np.asarray(Image.fromarray(image).resize((self.width, self.height), Image.Resampling.BILINEAR))


def echo_factory(size: int = 512, **options: Any) -> Callable[[LoadParameters, Callable[[str], None]], Engine]:
    """Makes echo engines of the requested size, or else of this one; it can be sent to other processes.

    Args:
        size: pixels of each side, for clients that request none.
        options: as for `EchoEngine`.
    """
    return partial(_make, size, options)


def _make(size: int, options: dict[str, Any], parameters: LoadParameters, at_stage: Callable[[str], None]) -> Engine:
    at_stage("warming up")
    return EchoEngine(parameters.width or size, parameters.height or size, **options)
