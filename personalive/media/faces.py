"""Where the face is: boxes from mediapipe's face mesh, the same face from frame to frame, and crops around it."""

from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np

from personalive.errors import MissingExtraError, NoFaceError, first_line
from personalive.extras import require
from personalive.types import Box, Crop, RGBArray

MESH_MARGIN = 1.1
"""Side of the face box per longer side of the mesh (docs/reference/streaming.md section 3.1)."""
MIN_FACE = 8
"""Shortest side, in pixels, of a face box that is of use."""
MAX_FACES = 5
"""Faces that are looked for in one picture."""
SEARCH_MARGIN = 2.0
"""Side of the region in which the mesh looks again for a small face, per side of the face."""
CROP_MARGIN = 2.5
"""Height of an automatic crop, in face boxes: head and shoulders."""
CROP_CENTRE = 0.45
"""Where an automatic crop has the middle of the face, as a fraction of its height from the top..."""
HEADROOM = 0.6
"""...but with so many face boxes above the face: the hair is not in the box..."""
MOST_HEADROOM = 0.7
"""...and with no more than this of the room that there is: the chin moves too."""
PATIENCE = 25
"""Frames without the followed face after which the largest one is taken instead."""


@dataclass(frozen=True)
class Face:
    """A face in a picture."""

    box: Box
    """Left, top, right, bottom in pixels, ends exclusive: what the motion encoder is shown."""

    @property
    def area(self) -> int:
        """Square pixels of the box."""
        left, top, right, bottom = self.box
        return (right - left) * (bottom - top)


def load_mediapipe() -> Any:
    """mediapipe's solutions, imported when they are first needed.

    Raises:
        MissingExtraError: it is not installed, or lacks a library of the system.
    """
    require("faces")
    try:
        from mediapipe.python import solutions
    except ImportError as error:
        raise MissingExtraError(
            f"mediapipe cannot be imported: {first_line(error)}. Its OpenCV needs libGL and GLib; "
            "on Debian and Ubuntu: apt-get install libgl1 libglib2.0-0"
        ) from error
    return solutions


class FaceTracker:
    """Finds faces in pictures, and follows one through a video. One thread at a time; a context manager."""

    def __init__(self) -> None:
        solutions = load_mediapipe()
        # Static mode: a result depends on its own picture alone, so that any frame can be repeated.
        self._mesh: Any = solutions.face_mesh.FaceMesh(static_image_mode=True, max_num_faces=MAX_FACES)
        self._detector: Any = solutions.face_detection.FaceDetection(model_selection=1)
        self.reset()

    def reset(self) -> None:
        """Forget the face that is followed, and the counts."""
        self.box: Box | None = None
        """Of the last frame in which the face was found."""
        self.frames = 0
        """Frames that were followed."""
        self.missing = 0
        """Of these, frames in which the face was not found."""
        self._missing_now = 0
        self._alone = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free mediapipe's graphs."""
        self._mesh.close()
        self._detector.close()

    def detect(self, image: RGBArray) -> list[Face]:
        """Every face in a picture, the largest first.

        Args:
            image: uint8 [height, width, 3], RGB.
        """
        faces = self._near_faces(image)
        for box in self._small_faces(image):
            if all(_distance(face.box, box) > _side(face.box) / 2 for face in faces):
                faces.append(Face(box))
        return sorted(faces, key=lambda face: -face.area)

    def follow(self, image: RGBArray) -> Box | None:
        """The box of the followed face in the next frame of a video.

        The first time this is the largest face; from then on the one that is where it was before.

        Returns:
            None: it is not in this frame, which is counted in `missing`; `box` still has where it was last.
        """
        self.frames += 1
        face = self._same(self._near_faces(image)) if self.box else None
        face = face or self._same(self.detect(image))
        if face is None:
            self.missing += 1
            self._missing_now += 1
            return None
        self.box, self._missing_now = face.box, 0
        return face.box

    def _same(self, faces: list[Face]) -> Face | None:
        self._alone = self._alone and len(faces) <= 1
        if not faces or self.box is None or self._alone or self._missing_now >= PATIENCE:
            return faces[0] if faces else None
        box = self.box
        nearest = min(faces, key=lambda face: _distance(face.box, box))
        return nearest if _distance(nearest.box, box) < _side(box) / 2 else None

    def _near_faces(self, image: RGBArray) -> list[Face]:
        """Faces that the mesh finds by itself: near the camera, within some two metres."""
        return sorted((Face(box) for box in self._mesh_boxes(image)), key=lambda face: -face.area)

    def _mesh_boxes(self, image: RGBArray) -> list[Box]:
        height, width = image.shape[:2]
        found = self._mesh.process(image).multi_face_landmarks or []
        boxes = (mesh_box([(p.x, p.y) for p in face.landmark], width, height) for face in found)
        return [box for box in boxes if min(box[2] - box[0], box[3] - box[1]) >= MIN_FACE]

    def _small_faces(self, image: RGBArray) -> list[Box]:
        """Faces that the mesh, made for faces near the camera, finds only when it is shown their surroundings alone."""
        height, width = image.shape[:2]
        boxes = []
        for detection in self._detector.process(image).detections or []:
            region = detection.location_data.relative_bounding_box
            side = SEARCH_MARGIN * max(region.width * width, region.height * height)
            left, top, right, bottom = _square(
                (region.xmin + region.width / 2) * width,
                (region.ymin + region.height / 2) * height,
                side,
                width,
                height,
            )
            if min(right - left, bottom - top) < MIN_FACE:
                continue
            part = np.ascontiguousarray(image[top:bottom, left:right])
            boxes += [(left + a, top + b, left + c, top + d) for a, b, c, d in self._mesh_boxes(part)[:1]]
        return boxes


def _side(box: Box) -> int:
    return max(box[2] - box[0], box[3] - box[1])


def _distance(a: Box, b: Box) -> float:
    """Between the middles of two boxes, along the axis on which they are further apart."""
    return max(abs(a[0] + a[2] - b[0] - b[2]), abs(a[1] + a[3] - b[1] - b[3])) / 2


def mesh_box(points: list[tuple[float, float]], width: int, height: int) -> Box:
    """The face box of docs/reference/streaming.md section 3.1 from mesh points in [0, 1]."""
    xs = [int(x * width) for x, _ in points]
    ys = [int(y * height) for _, y in points]
    side = MESH_MARGIN * max(max(xs) - min(xs), max(ys) - min(ys))
    return _square((min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2, side, width, height)


def _square(x: float, y: float, side: float, width: int, height: int) -> Box:
    """A square about a point, cut off at the picture's last row and column."""
    return (
        int(max(0, x - side / 2)),
        int(max(0, y - side / 2)),
        int(min(width - 1, x + side / 2)),
        int(min(height - 1, y + side / 2)),
    )


def crop_box(size: tuple[int, int], shape: tuple[int, int], crop: Crop, face: Box | None) -> Box:
    """The part of a picture that is used for an output of another shape.

    Args:
        size: width and height of the picture.
        shape: width and height of the output.
        crop: "auto": around the face; "center": the largest part in the middle; "none": everything, which stretches.
        face: needed for "auto".

    Returns:
        For "auto" and "center" a box of the output's aspect ratio, to the pixel.

    Raises:
        NoFaceError: "auto" without a face.
    """
    width, height = size
    if crop == "none":
        return 0, 0, width, height
    ratio = shape[0] / shape[1]
    x, y, part_height = width / 2, height / 2, min(float(height), width / ratio)
    if crop == "auto":
        if face is None:
            raise NoFaceError("an automatic crop needs a face, and none was found; use --crop center")
        left, top, right, bottom = face
        wanted = CROP_MARGIN * max(right - left, (bottom - top), (right - left) / ratio)
        part_height = min(part_height, wanted)
        side = bottom - top
        wished = max(HEADROOM * side, CROP_CENTRE * part_height - side / 2)
        headroom = min(wished, MOST_HEADROOM * (part_height - side))
        x, y = (left + right) / 2, top - headroom + part_height / 2
    part = max(1, round(part_height * ratio)), max(1, round(part_height))
    left = round(min(max(0, x - part[0] / 2), width - part[0]))
    top = round(min(max(0, y - part[1] / 2), height - part[1]))
    return left, top, left + part[0], top + part[1]


def cut(image: RGBArray, box: Box) -> RGBArray:
    """The part of a picture inside a box, as its own memory."""
    left, top, right, bottom = box
    return np.ascontiguousarray(image[top:bottom, left:right])
