"""Where faces are: boxes from mediapipe's face mesh, and the same face from frame to frame."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

import numpy as np

from personalive.errors import MissingExtraError, first_line
from personalive.extras import pip_install, require
from personalive.types import Box, RGBArray

NO_FACES = (
    "mediapipe is not installed, so faces are located by the model's keypoints, and there is no automatic crop; "
    f"this installs it: {pip_install('faces')}."
)
MESH_MARGIN = 1.1
"""Side of the face box per longer side of the mesh (docs/reference/streaming.md section 3.1)."""
MIN_FACE = 8
"""Shortest side, in pixels, of a usable face box."""
MAX_FACES = 5
"""The most faces that are searched for in one picture."""
SEARCH_MARGIN = 2.0
"""Side of the region in which the mesh looks again for a small face, per side of the face."""
NEAR_MARGIN = 3.0
"""Side of the region in which the followed face is looked for, per side of the face."""
MIN_TILE = 180
"""Side in pixels of the smallest tiles in which a picture without a found face is searched."""
TILE_LEVELS = 3
"""How many sizes of tiles there are, each half as large as the one before, starting from the picture's shorter side."""
TILE_OVERLAP, SMALL_OVERLAP = 1 / 2, 1 / 3
"""Part of a tile that the next one has too: enough for a face that fills a tile; for small faces in it."""
PATIENCE = 25
"""Frames without the followed face after which the largest one is taken instead."""
TILES_EVERY = 5
"""Of consecutive frames without any face, one in this many is searched in tiles."""
DARK = 6.0
"""Spread of levels below which a picture shows nothing."""
LEFT_EYE, RIGHT_EYE = 33, 263
"""The mesh's points at the outer corners of the eyes, as they are seen in the picture."""
FOREHEAD, CHIN = 10, 152
LIPS = (13, 14)
LIDS = ((159, 145), (386, 374))


@dataclass(frozen=True)
class Face:
    """A face in a picture."""

    box: Box
    """Left, top, right, bottom in pixels, ends exclusive: what the motion encoder sees."""
    roll: float = 0.0
    """Degrees by which the line between the eyes is turned clockwise."""
    yaw: float = 0.0
    """Degrees by which the face is turned to the side; 0: towards the camera."""
    pitch: float = 0.0
    """Degrees by which the face looks up or down."""
    mouth: float = 0.0
    """Distance of the inner lips, per distance of the eyes' outer corners."""
    eyes: float = 0.0
    """Height of the eyes' openings, in the same unit."""

    @property
    def area(self) -> int:
        """Square pixels of the box."""
        left, top, right, bottom = self.box
        return (right - left) * (bottom - top)

    @property
    def side(self) -> int:
        """Pixels of the longer side of the box."""
        return _side(self.box)


def choose(faces: Sequence[Face], which: str) -> Face:
    """One of several faces.

    Args:
        faces: at least one.
        which: "largest", "left", "right", or a number, counted from the left; the last one if there are fewer.
    """
    from_left = sorted(faces, key=lambda face: face.box[0] + face.box[2])
    if which == "largest":
        return max(faces, key=lambda face: face.area)
    if which in ("left", "right"):
        return from_left[0 if which == "left" else -1]
    return from_left[min(int(which), len(faces)) - 1]


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


def is_same_place(box: Box, before: Box) -> bool:
    """Whether a box may be that of the face that was at `before`."""
    return _distance(box, before) < _side(before) / 2


def is_blank(image: RGBArray) -> bool:
    """Whether a picture, uint8 [h, w, 3], shows nothing: black, white, or nearly so."""
    return float(image.std()) < DARK


class FaceTracker:
    """Finds faces in pictures, and follows one through a video. One thread at a time; a context manager."""

    def __init__(self, which: str = "largest") -> None:
        """Follow the face that `choose` picks in the first picture with one."""
        solutions = load_mediapipe()
        # Static mode: a result depends on its own picture alone, so that any frame can be repeated.
        self._mesh: Any = solutions.face_mesh.FaceMesh(static_image_mode=True, max_num_faces=MAX_FACES)
        self._detector: Any = solutions.face_detection.FaceDetection(model_selection=1)
        self._which = which
        self.reset()

    def reset(self) -> None:
        """Forget the face that is followed, and the counts."""
        self.box: Box | None = None
        """The box in the last frame in which the face was found..."""
        self.face: Face | None = None
        """...and what the mesh says of it there."""
        self.others = 0
        """Frames in which other faces were found instead."""
        self.most = 0
        """Faces in the picture with the most."""
        self._missing_now = 0
        self._alone = True

    def start_scene(self, box: Box | None = None) -> None:
        """Follow the face at `box`, or the chosen one of the next frame, wherever it is; the counts continue."""
        self.box, self._missing_now, self._alone = box, 0, True

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

    def detect(self, image: RGBArray, *, tiles: int = TILE_LEVELS) -> list[Face]:
        """Every face in a picture, the largest first.

        Args:
            image: uint8 [height, width, 3], RGB.
            tiles: in how many sizes of parts a picture in which none is found is searched for small ones.
        """
        faces = self._near_faces(image)
        for found in self._small_faces(image):
            _add(faces, found)
        if not faces:
            for found in self._in_tiles(image, tiles):
                _add(faces, found)
        self.most = max(self.most, len(faces))
        return sorted(faces, key=lambda face: -face.area)

    def search(self, image: RGBArray) -> list[Face]:
        """Small faces that `detect` misses, the largest first: in a second or so, part by part with the detector.

        Args:
            image: uint8 [height, width, 3], RGB.
        """
        faces: list[Face] = []
        height, width = image.shape[:2]
        side = min(height, width)
        while not faces and side >= MIN_TILE:
            for left, top in _corners(width, height, side, SMALL_OVERLAP):
                part = np.ascontiguousarray(image[top : top + side, left : left + side])
                for face in self._small_faces(part):
                    _add(faces, _moved(face, left, top))
            side //= 2
        return sorted(faces, key=lambda face: -face.area)

    def follow(self, image: RGBArray) -> Box | None:
        """The box of the followed face in the next frame of a video.

        The first time this is the chosen face; from then on the one that is where it was before.

        Returns:
            None: it is not in this frame; `box` still has where it was last.
        """
        face = self._same(self._near_faces(image)) if self.box else None
        if face is None and self.box:
            face = self._same(self._around(image, self.box))
        if face is None:
            found = self.detect(image, tiles=0 if self._missing_now % TILES_EVERY else TILE_LEVELS)
            face = self._same(found)
            if face is None:
                self.others += bool(found)
                self._missing_now += 1
                return None
        self.box, self.face, self._missing_now = face.box, face, 0
        return face.box

    def _same(self, faces: list[Face]) -> Face | None:
        self._alone = self._alone and len(faces) <= 1
        if not faces:
            return None
        if self.box is None:
            return choose(faces, self._which)
        if self._alone or self._missing_now >= PATIENCE:
            return faces[0]
        box = self.box
        nearest = min(faces, key=lambda face: _distance(face.box, box))
        return nearest if is_same_place(nearest.box, box) else None

    def _near_faces(self, image: RGBArray) -> list[Face]:
        """Faces that the mesh finds on its own: within some two metres of the camera. The largest first."""
        height, width = image.shape[:2]
        found = self._mesh.process(image).multi_face_landmarks or []
        faces = (mesh_face([(p.x, p.y, p.z) for p in face.landmark], width, height) for face in found)
        return sorted((face for face in faces if _usable(face)), key=lambda face: -face.area)

    def _small_faces(self, image: RGBArray) -> Iterator[Face]:
        """Faces that the mesh, made for faces near the camera, finds only when it is shown their surroundings alone."""
        height, width = image.shape[:2]
        for detection in self._detector.process(image).detections or []:
            region = detection.location_data.relative_bounding_box
            x, y = (region.xmin + region.width / 2) * width, (region.ymin + region.height / 2) * height
            side = SEARCH_MARGIN * max(region.width * width, region.height * height)
            yield from self._in_part(image, _square(x, y, side, width, height))[:1]

    def _around(self, image: RGBArray, box: Box) -> list[Face]:
        """Faces near to where one was."""
        height, width = image.shape[:2]
        x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        return self._in_part(image, _square(x, y, NEAR_MARGIN * _side(box), width, height))

    def _in_tiles(self, image: RGBArray, levels: int) -> Iterator[Face]:
        """Faces in overlapping squares, the large ones first; smaller squares only where those show none."""
        height, width = image.shape[:2]
        for level in range(levels):
            side = min(height, width) >> level
            if side < MIN_TILE and level:
                return
            found = False
            for left, top in _corners(width, height, side):
                for face in self._in_part(image, (left, top, left + side, top + side)):
                    found = True
                    yield face
            if found:
                return

    def _in_part(self, image: RGBArray, part: Box) -> list[Face]:
        """Faces that the mesh finds in a part of a picture, the largest first."""
        left, top, right, bottom = part
        if min(right - left, bottom - top) < MIN_FACE:
            return []
        shown = np.ascontiguousarray(image[top:bottom, left:right])
        return [_moved(face, left, top) for face in self._near_faces(shown)]


def _moved(face: Face, x: int, y: int) -> Face:
    left, top, right, bottom = face.box
    return replace(face, box=(left + x, top + y, right + x, bottom + y))


def _corners(width: int, height: int, side: int, overlap: float = TILE_OVERLAP) -> Iterator[tuple[int, int]]:
    """Upper left corners of squares that cover a picture and overlap by this part of their side or more."""
    rows, columns = (max(1, math.ceil((length / side - overlap) / (1 - overlap))) for length in (height, width))
    for row in range(rows):
        for column in range(columns):
            x = round(column * (width - side) / max(columns - 1, 1))
            y = round(row * (height - side) / max(rows - 1, 1))
            yield x, y


def _add(faces: list[Face], found: Face) -> None:
    """Append a face, unless it is already there."""
    if all(_distance(face.box, found.box) > face.side / 2 for face in faces):
        faces.append(found)


def _usable(face: Face) -> bool:
    left, top, right, bottom = face.box
    return min(right - left, bottom - top) >= MIN_FACE


def _side(box: Box) -> int:
    return max(box[2] - box[0], box[3] - box[1])


def _distance(a: Box, b: Box) -> float:
    """Distance between the centres of two boxes, along the axis on which they are further apart."""
    return max(abs(a[0] + a[2] - b[0] - b[2]), abs(a[1] + a[3] - b[1] - b[3])) / 2


def mesh_face(points: Sequence[tuple[float, float, float]], width: int, height: int) -> Face:
    """The face of the mesh's 468 points: x and y from 0 to 1, z in the unit of x."""
    mesh = np.asarray(points, dtype=np.float64) * (width, height, width)
    across, down, deep = mesh[RIGHT_EYE] - mesh[LEFT_EYE]
    size = float(np.linalg.norm(mesh[RIGHT_EYE] - mesh[LEFT_EYE])) or 1.0
    _, long, tilt = mesh[CHIN] - mesh[FOREHEAD]

    def gap(pair: tuple[int, int]) -> float:
        return float(np.linalg.norm(mesh[pair[1]] - mesh[pair[0]])) / size

    return Face(
        mesh_box([(x, y) for x, y, _ in points], width, height),
        roll=math.degrees(math.atan2(down, across)),
        yaw=math.degrees(math.atan2(deep, math.hypot(across, down))),
        pitch=math.degrees(math.atan2(tilt, long)),
        mouth=gap(LIPS),
        eyes=sum(map(gap, LIDS)) / len(LIDS),
    )


def mesh_box(points: list[tuple[float, float]], width: int, height: int) -> Box:
    """The face box of docs/reference/streaming.md section 3.1 from mesh points in [0, 1]."""
    xs = [int(x * width) for x, _ in points]
    ys = [int(y * height) for _, y in points]
    side = MESH_MARGIN * max(max(xs) - min(xs), max(ys) - min(ys))
    return _square((min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2, side, width, height)


def _square(x: float, y: float, side: float, width: int, height: int) -> Box:
    """A square around a point, clipped at the picture's last row and column."""
    return (
        int(max(0, x - side / 2)),
        int(max(0, y - side / 2)),
        int(min(width - 1, x + side / 2)),
        int(min(height - 1, y + side / 2)),
    )
