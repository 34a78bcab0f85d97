"""Camera frames → what the model takes: decoded, cropped, flipped, with the driver's face found."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from personalive.engine.cues import Cue
from personalive.errors import InputError
from personalive.live.core.engine import Engine
from personalive.live.core.faces import FaceFinder
from personalive.live.core.frames import CameraFrame, Message
from personalive.live.core.recentring import Recentring
from personalive.media.crop import crop_box, cut
from personalive.types import Box, FractionBox, RGBArray

NO_FACE: Message = {
    "type": "message",
    "code": "no_face",
    "text": "No face is seen: look at the camera, with light on your face.",
}
FACE: Message = {"type": "message", "code": "face", "text": "Your face is seen again."}


@dataclass(frozen=True)
class Chunk:
    """What one session contributes to a call."""

    driving: Any
    stamps: list[tuple[float, float | None]]
    """Capture time and the client's own stamp of each picture."""
    recentre: bool
    """Whether the pose is measured from its first frame on."""


class Preparation:
    """Prepares the frames of one session, one chunk at a time, in any thread."""

    def __init__(self, engine: Engine, faces: FaceFinder | None, send: Callable[[Message], None]) -> None:
        """`send` is called with messages to the client about its camera."""
        self._engine = engine
        self._faces = faces
        self._send = send
        self._face_was_visible = True
        self._recentring = Recentring()
        self._settled = False
        self._run = 0
        self._mirror: bool | None = None

    @property
    def face(self) -> FractionBox | None:
        """Where the driver's face is, in the part of the picture that is used; None: not seen."""
        return self._faces.box if self._faces is not None else None

    @property
    def looks_for_faces(self) -> bool:
        """Whether `face` means anything."""
        return self._faces is not None

    def measure_anew(self) -> None:
        """Movement is measured from the next frame on."""
        self._recentring.start_over()

    def driving(
        self, frames: Sequence[CameraFrame], *, mirror: bool, run: int, recentre: bool
    ) -> tuple[Any, bool] | None:
        """What `Engine.driving` makes of the frames, and whether the pose is measured from the first; None: damaged.

        Args:
            frames: of the camera.
            mirror: whether they are flipped left to right.
            run: another number than before says that the animation has forgotten its driver.
            recentre: whether the pose is measured anew wherever the driver settles.
        """
        images = []
        for frame in frames:
            try:
                images.append(self._seen(frame.read(), mirror))
            except InputError as error:  # the whole chunk is dropped: the next one comes soon
                self._send({"type": "message", "code": "bad_frame", "text": str(error)})
                return None
        if self._faces is None:
            return self._engine.driving(images, None), False
        if run != self._run:
            self._faces.start_over()
            self._recentring.start_over()
        turned = self._mirror not in (None, mirror)  # everything is on the other side now
        # As after a cut: the portrait eases to its new place within a fraction of a second.
        centres, self._settled = recentre and self._settled, False
        found = [
            self._found(self._faces, image, frame, cut=(turned or centres) and index == 0)
            for index, (image, frame) in enumerate(zip(images, frames, strict=True))
        ]
        self._run, self._mirror = run, mirror
        if self._faces.visible != self._face_was_visible:
            self._face_was_visible = self._faces.visible
            self._send(FACE if self._face_was_visible else NO_FACE)
        return self._engine.driving(images, [box for box, _ in found], [cue for _, cue in found]), centres

    def _found(self, faces: FaceFinder, image: RGBArray, frame: CameraFrame, *, cut: bool) -> tuple[Box, Cue]:
        found = faces.find(image, frame.captured, cut=cut)
        if faces.box is not None:
            self._settled = self._recentring.settled(faces.box, frame.captured) or self._settled
        return found

    def close(self) -> None:
        """Free the face tracker."""
        if self._faces is not None:
            self._faces.close()

    def _seen(self, image: RGBArray, mirror: bool) -> RGBArray:
        shape = self._engine.width, self._engine.height
        part = cut(image, crop_box((image.shape[1], image.shape[0]), shape, "center", None))
        return np.ascontiguousarray(part[:, ::-1]) if mirror else part
