"""PersonaLive in the shape that the live server asks for, and how it is loaded."""

from collections.abc import Callable, Sequence

import numpy as np

from personalive.config import RAMP, WINDOW
from personalive.driving import DrivingFrames, Preprocessor, Reference
from personalive.keypoints import Box
from personalive.live.engine import Engine
from personalive.live.frames import RGBArray
from personalive.live.loader import LoadParameters
from personalive.pipeline import PersonaLive
from personalive.stream import Stream

WARM_UP_CALLS = 2
"""The first call prepares 16 frames, the later ones four: both are run once before anybody waits for them."""


class PersonaLiveEngine:
    """A loaded model at one output size; see `Engine`."""

    window = WINDOW
    delay_frames = RAMP

    def __init__(self, model: PersonaLive, width: int | None = None, height: int | None = None) -> None:
        self.width = width or model.config.size
        self.height = height or model.config.size
        self._model = model
        self._preprocessor = Preprocessor(model.config, self.width, self.height)

    @property
    def keyframe_threshold(self) -> float:
        """The model's default."""
        return self._model.config.keyframe_threshold

    def open(self, seed: int) -> Stream:
        """The state for a new session; it gives pictures from its first call on."""
        return self._model.stream(width=self.width, height=self.height, seed=seed, emit_ramp=True)

    def reference(self, image: RGBArray, face_box: Box | None) -> Reference:
        """Prepare a portrait, uint8 [h,w,3]."""
        return self._preprocessor.reference(image, face_box)

    def driving(self, images: Sequence[RGBArray], face_boxes: Sequence[Box] | None) -> DrivingFrames:
        """Prepare driving frames, uint8 [h,w,3] each."""
        return self._preprocessor.driving(images, face_boxes)

    def advance(self, streams: Sequence[Stream], driving: Sequence[DrivingFrames]) -> list[RGBArray]:
        """One call for several sessions."""
        return self._model.advance(streams, driving)


class ModelFactory:
    """Makes engines over one model, which is loaded once and kept for other sizes."""

    def __init__(self, load: Callable[[], PersonaLive], face_boxes: bool) -> None:
        """`load` reads the weights; `face_boxes` tells whether boxes will come with the pictures."""
        self._load = load
        self._face_boxes = face_boxes
        self._model: PersonaLive | None = None

    def __call__(self, parameters: LoadParameters, at_stage: Callable[[str], None]) -> Engine:
        """Make an engine; runs in the loading thread."""
        if self._model is None:
            at_stage("reading the weights")
            self._model = self._load()
        engine = PersonaLiveEngine(self._model, parameters.width, parameters.height)
        at_stage("warming up")
        warm_up(engine, self._face_boxes)
        return engine


def warm_up(engine: Engine, face_boxes: bool) -> None:
    """Run what every session will run, so that the first one does not wait for compilers and allocators."""
    image = np.full((engine.height, engine.width, 3), 127, dtype=np.uint8)
    box = (0, 0, engine.width, engine.height) if face_boxes else None
    stream = engine.open(seed=0)
    stream.set_reference(engine.reference(image, box))
    driving = engine.driving([image] * engine.window, [box] * engine.window if box else None)
    for _ in range(WARM_UP_CALLS):
        engine.advance([stream], [driving])
