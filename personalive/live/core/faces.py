"""Where the driver's face is, frame by frame, and what happens while it cannot be seen."""

from collections.abc import Sequence
from typing import Any, Protocol

from personalive.types import Box, RGBArray

LOST_AFTER = 4
"""Frames in a row without a face before the client gets a message about it."""


class Tracker(Protocol):
    """Follows one face through a video."""

    def follow(self, image: RGBArray) -> Box | None:
        """Box of the face in an image, uint8 [h,w,3], or None."""

    def close(self) -> None:
        """Free what it holds."""


class Faces(Protocol):
    """Finds faces for a server."""

    def in_portrait(self, image: RGBArray) -> Box | None:
        """Box of the largest face in a still picture, uint8 [h,w,3], or None."""

    def tracker(self) -> Tracker:
        """A tracker for the face of one driver."""


class MeshFaces:
    """Faces by mediapipe's face mesh."""

    def in_portrait(self, image: RGBArray) -> Box | None:
        """Box of the largest face in a still picture, uint8 [h,w,3], or None."""
        from personalive.media.faces import FaceTracker

        with FaceTracker() as tracker:
            return tracker.follow(image)

    def tracker(self) -> Tracker:
        """A tracker for the face of one driver."""
        return MeshTracker()


class MeshTracker:
    """One face at a webcam: the mesh is tracked from frame to frame, which takes a fifth of the time of a search."""

    def __init__(self) -> None:
        self._mesh: Any = None

    def follow(self, image: RGBArray) -> Box | None:
        """Box of the face in the next frame, uint8 [h,w,3] of any size, or None."""
        from personalive.media.faces import MIN_FACE, mesh_box

        height, width = image.shape[:2]
        found = self._begun().process(image).multi_face_landmarks
        if not found:
            return None
        box = mesh_box([(point.x, point.y) for point in found[0].landmark], width, height)
        return box if min(box[2] - box[0], box[3] - box[1]) >= MIN_FACE else None

    def close(self) -> None:
        """Free mediapipe's graph."""
        if self._mesh is not None:
            self._mesh.close()

    def _begun(self) -> Any:
        # Not before it is needed: a session is opened in the event loop, which must not wait for mediapipe.
        if self._mesh is None:
            from personalive.media.faces import load_mediapipe

            self._mesh = load_mediapipe().face_mesh.FaceMesh(static_image_mode=False, max_num_faces=1)
        return self._mesh


class FaceFinder:
    """Boxes for a session's driving frames: a frame without a face takes the last good box."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._last: tuple[float, float, float, float] | None = None
        self._missed = 0
        self.lost = 0
        """Frames without a face so far."""

    @property
    def visible(self) -> bool:
        """Whether the driver's face was seen recently."""
        return self._missed < LOST_AFTER

    def boxes(self, images: Sequence[RGBArray]) -> list[Box] | None:
        """A box for each image, or None as long as no face has been seen."""
        boxes: list[Box | None] = []
        for image in images:
            height, width = image.shape[:2]
            box = self._tracker.follow(image)
            if box is None:
                self._missed += 1
                self.lost += 1
                boxes.append(self._scaled(width, height))
            else:
                self._missed = 0
                self._last = (box[0] / width, box[1] / height, box[2] / width, box[3] / height)
                boxes.append(box)
        return _filled(boxes)

    def close(self) -> None:
        """Free the tracker."""
        self._tracker.close()

    def _scaled(self, width: int, height: int) -> Box | None:
        # Kept as fractions: the camera may have changed its size since.
        if self._last is None:
            return None
        left, top, right, bottom = self._last
        box = (int(left * width), int(top * height), int(right * width), int(bottom * height))
        return box if box[2] > box[0] and box[3] > box[1] else None


def _filled(boxes: Sequence[Box | None]) -> list[Box] | None:
    """Frames before a face is first seen get the box of that first sight."""
    first = next((box for box in boxes if box is not None), None)
    if first is None:
        return None
    return [first if box is None else box for box in boxes]
