"""PersonaLive in the form that the live server needs, and how it is loaded."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from personalive.config import CHUNK, LEAD_IN
from personalive.engine.cues import Cue
from personalive.engine.preprocess import DrivingFrames, Reference
from personalive.engine.stream import Stream
from personalive.errors import DeviceMemoryError
from personalive.live.core.engine import Engine
from personalive.live.core.parameters import LoadParameters
from personalive.pipeline import PersonaLive
from personalive.types import Box, RGBArray

CALLS = 4
"""Warm-up on a CPU: the first call prepares 16 frames; with 4, 3, 2 and 1 new frames."""
ACCELERATED_CALLS = 16
"""On a GPU also with one, two and three keyframes, each of which is captured separately."""


class PersonaLiveEngine:
    """A loaded model at one output size; see `Engine`."""

    chunk_frames = CHUNK
    delay_frames = LEAD_IN

    def __init__(self, model: PersonaLive, width: int | None = None, height: int | None = None) -> None:
        self.width = width or model.config.size
        self.height = height or model.config.size
        self._model = model
        self.native_side = model.config.size
        self.call_seconds = 0.0
        """Seconds of a call, as measured by `warm_up`."""
        self._preprocessor = model.preprocessor(self.width, self.height)

    @property
    def keyframe_threshold(self) -> float:
        """The model's default."""
        return self._model.config.keyframe_threshold

    @property
    def on_gpu(self) -> bool:
        """Whether a graphics card does the work; then the first call of each shape takes long."""
        return self._model.device.type == "cuda"

    @contextlib.contextmanager
    def guard(self) -> Iterator[None]:
        """Turn the device's own error into ours, and release what the failed attempt left behind."""
        try:
            yield
        except torch.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            raise DeviceMemoryError("the device's memory is used up: end sessions, or use a smaller size") from error

    def open(self, seed: int) -> Stream:
        """The state for a new session; it returns pictures from its first call on."""
        return self._model.stream(width=self.width, height=self.height, seed=seed, emit_lead_in=True)

    def reference(self, image: RGBArray, face_box: Box | None) -> Reference:
        """Prepare a portrait, uint8 [h,w,3]."""
        return self._preprocessor.reference(image, face_box)

    def unsuited(self, image: RGBArray, face_box: Box | None) -> str:
        """See `PersonaLive.unsuited`."""
        return self._model.unsuited(image, face_box)

    def driving(
        self, images: Sequence[RGBArray], face_boxes: Sequence[Box] | None, cues: Sequence[Cue] | None = None
    ) -> DrivingFrames:
        """Prepare driving frames, uint8 [h,w,3] each."""
        return self._preprocessor.driving(images, face_boxes, cues)

    def advance(self, streams: Sequence[Stream], driving: Sequence[DrivingFrames]) -> list[RGBArray]:
        """One call for several sessions."""
        return self._model.advance(streams, driving, stretch=True)


class ModelFactory:
    """Makes engines from one model, which is loaded once and kept for other sizes."""

    def __init__(self, load: Callable[[], PersonaLive], face_boxes: bool) -> None:
        """`load` reads the weights; `face_boxes` says whether boxes will come with the pictures."""
        self._load = load
        self._face_boxes = face_boxes
        self._model: PersonaLive | None = None

    def __call__(self, parameters: LoadParameters, at_stage: Callable[[str], None]) -> Engine:
        """Make an engine; runs in the loading thread."""
        if self._model is None:
            at_stage("reading the weights")
            self._model = self._load()
        engine = PersonaLiveEngine(self._model, parameters.width, parameters.height)
        warm_up(engine, self._face_boxes, lambda: at_stage("warming up"))
        return engine


def warm_up(engine: PersonaLiveEngine, face_boxes: bool, before_call: Callable[[], None]) -> None:
    """Run what sessions will run, so that none waits for compilers, allocators and graph captures.

    `before_call` may end it by an exception.
    """
    rng = np.random.default_rng(0)
    image = np.full((engine.height, engine.width, 3), 127, dtype=np.uint8)
    box = (0, 0, engine.width, engine.height) if face_boxes else None
    before_call()
    stream = engine.open(seed=0)
    stream.keyframe_threshold = 0.0  # every call that can make a keyframe makes one
    stream.set_reference(engine.reference(image, box))
    for call in range(ACCELERATED_CALLS if engine.on_gpu else CALLS):
        before_call()
        count = engine.chunk_frames - call % engine.chunk_frames
        images = [rng.integers(0, 256, image.shape, dtype=np.uint8) for _ in range(count)]
        began = time.monotonic()
        engine.advance([stream], [engine.driving(images, [box] * count if box else None)])
        engine.call_seconds = time.monotonic() - began
