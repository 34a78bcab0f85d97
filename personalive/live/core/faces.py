"""The face in a portrait, and the driver's face, frame by frame, with what happens while it cannot be seen."""

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from personalive.engine.cues import Cue, Presence
from personalive.media.face_track import SceneCuts
from personalive.media.faces import MIN_FACE, is_blank, load_mediapipe, mesh_box
from personalive.media.portrait import Portrait, PortraitFinder
from personalive.types import Box, Crop, FractionBox, RGBArray

LOST_AFTER = 4
"""Frames in a row without a face before the client gets a message about it."""


@dataclass(frozen=True)
class Wanted:
    """Which part of a picture is animated."""

    face: str = "largest"
    """Which of several faces: as in `media.faces.choose`."""
    crop: Crop = "auto"


class Tracker(Protocol):
    """Follows one face through a video."""

    def follow(self, image: RGBArray) -> Box | None:
        """Box of the face in an image, uint8 [h,w,3], or None."""

    def close(self) -> None:
        """Free what it holds."""


class Faces(Protocol):
    """Finds faces for a server."""

    def portrait(
        self, images: Iterable[RGBArray], shape: tuple[int, int], wanted: Wanted
    ) -> tuple[RGBArray, Portrait] | None:
        """The first of some pictures, uint8 [h,w,3], with a face, and the part that is animated at a width and height.

        None: no picture shows one.
        """

    def look(self, image: RGBArray) -> Box | None:
        """Box of the largest face in a single picture, uint8 [h,w,3], or None; any thread, one picture at a time."""

    def tracker(self) -> Tracker:
        """A tracker for the face of one driver."""

    def close(self) -> None:
        """Free what it holds, but for its trackers; any thread."""


class MeshFaces:
    """Faces by mediapipe's face mesh."""

    def __init__(self) -> None:
        self._mesh: Any = None
        self._lock = threading.Lock()

    def portrait(
        self, images: Iterable[RGBArray], shape: tuple[int, int], wanted: Wanted
    ) -> tuple[RGBArray, Portrait] | None:
        """As for files, see `PortraitFinder.first`."""
        with PortraitFinder(wanted.face) as finder:
            return finder.first(images, shape, wanted.crop)

    def look(self, image: RGBArray) -> Box | None:
        """Box of the largest face that drives well: one near the camera, as for `MeshTracker`."""
        with self._lock:
            if self._mesh is None:
                self._mesh = load_mediapipe().face_mesh.FaceMesh(static_image_mode=True, max_num_faces=1)
            return _found(self._mesh, image)

    def tracker(self) -> Tracker:
        """A tracker for the face of one driver."""
        return MeshTracker()

    def close(self) -> None:
        """Free mediapipe's graph."""
        with self._lock:
            if self._mesh is not None:
                self._mesh.close()
                self._mesh = None


class MeshTracker:
    """One face at a webcam: the mesh is tracked from frame to frame, which takes a fifth of the time of a search."""

    def __init__(self) -> None:
        self._mesh: Any = None

    def follow(self, image: RGBArray) -> Box | None:
        """Box of the face in the next frame, uint8 [h,w,3] of any size, or None."""
        return _found(self._begun(), image)

    def close(self) -> None:
        """Free mediapipe's graph."""
        if self._mesh is not None:
            self._mesh.close()

    def _begun(self) -> Any:
        # Not before it is needed: a session is opened in the event loop, which must not wait for mediapipe.
        if self._mesh is None:
            self._mesh = load_mediapipe().face_mesh.FaceMesh(static_image_mode=False, max_num_faces=1)
        return self._mesh


def _found(mesh: Any, image: RGBArray) -> Box | None:
    """Box of the face that a mesh finds in an image, uint8 [h,w,3], or None."""
    if is_blank(image):  # a tracked mesh stays in the dark where it was
        return None
    height, width = image.shape[:2]
    found = mesh.process(image).multi_face_landmarks
    if not found:
        return None
    box = mesh_box([(point.x, point.y) for point in found[0].landmark], width, height)
    return box if min(box[2] - box[0], box[3] - box[1]) >= MIN_FACE else None


def fractions(box: Box, image: RGBArray) -> FractionBox:
    """A box of an image, uint8 [h,w,3], as fractions of its size."""
    height, width = image.shape[:2]
    return box[0] / width, box[1] / height, box[2] / width, box[3] / height


class FaceFinder:
    """The face in each driving frame of a session, and how the frame's motion is used."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._presence, self._scenes = Presence(), SceneCuts()
        self._last: FractionBox | None = None
        self._missed = 0

    @property
    def visible(self) -> bool:
        """Whether the driver's face was seen recently."""
        return self._missed < LOST_AFTER

    @property
    def box(self) -> FractionBox | None:
        """Where the face is; None: not seen in the last frame."""
        return self._last if self._missed == 0 else None

    def start_over(self) -> None:
        """Take the next face as the first: the animation has forgotten its driver."""
        self._presence, self._scenes = Presence(), SceneCuts()

    def find(self, image: RGBArray, at: float, *, cut: bool = False) -> tuple[Box, Cue]:
        """The face in the next frame, or where it was last, and the frame's cue.

        Args:
            image: uint8 [h,w,3] of any size.
            at: when it was captured, in seconds.
            cut: whether it shows another scene than the one before; other cameras are noticed without it.
        """
        height, width = image.shape[:2]
        cut = self._scenes.add(image) or cut
        box = self._tracker.follow(image)
        cue = self._presence.cue(box is not None, at, cut=cut)
        if box is None:
            self._missed += 1
            return self._scaled(width, height), cue
        self._missed = 0
        self._last = fractions(box, image)
        return box, cue

    def close(self) -> None:
        """Free the tracker."""
        self._tracker.close()

    def _scaled(self, width: int, height: int) -> Box:
        """The last box, or everything: a frame needs one, though its motion is not used."""
        # Kept as fractions: the camera may have changed its size since.
        left, top, right, bottom = self._last or (0.0, 0.0, 1.0, 1.0)
        box = (int(left * width), int(top * height), int(right * width), int(bottom * height))
        return box if box[2] > box[0] and box[3] > box[1] else (0, 0, width, height)
