"""The portrait: its face is found, turned upright, cropped, and judged by what the result will look like."""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Self

import numpy as np
from PIL import Image

from personalive.errors import FaceTooSmallError, NoFaceError
from personalive.media.crop import CROP_MARGIN, crop_box, cut, within
from personalive.media.faces import Face, FaceTracker, choose, is_blank, is_same_place, load_mediapipe
from personalive.media.images import MOST_PICTURES, fitted
from personalive.media.transform import Transform, moved, scaled, turned_back
from personalive.types import Box, Crop, RGBArray

UPRIGHT_SCORE = 0.85
"""The detector's confidence from which a face whose eyes are level is upright. Of upright faces, drawn and
photographed, it was 0.92 and more; of faces upside down, in which the mesh finds a face too, 0.73 at most."""
TURNED_SCORE = 0.8
"""The detector's confidence below which a face that is found only after a turn is none."""
TURNS = {2: "half a turn", 1: "a quarter turn", 3: "a quarter turn"}
"""Quarter turns to the left that are tried, in words."""
TURNED_TILES = 2
"""Sizes of tiles in which a picture is searched in each turn, before smaller faces are searched for as it stands."""
MUCH_BETTER = 0.1
"""How much higher another turn's confidence must be for it to be chosen."""
MAX_ROLL = 35.0
"""Degrees by which a head may be tilted without being turned."""
MAX_YAW = 40.0
"""Degrees beyond which a face is in profile: what cannot be seen of it has to be made up."""
SMALL_FACE = 64
"""Pixels of a face's side below which the result is soft..."""
LEAST_FACE = 32
"""...and below which it has too little of the person."""
SMALL_PART = 0.3
"""A face that takes less of the picture's shorter side is looked at again from near."""
BLURRED = 3.0
"""Sharpness (see `sharpness`) below which a face is blurred."""
ROLL_WEIGHT = 300.0
"""Degrees of tilt that count as much as the detector's whole confidence."""
DETECTOR_MARGIN = 2.0
"""Side of the region that the detector sees, per side of the face."""


@dataclass(frozen=True)
class Portrait:
    """The picture that is to be animated, cropped."""

    image: RGBArray
    """uint8 [h, w, 3]"""
    box: Box | None
    """The face in it; None: it was not searched for."""
    remarks: tuple[str, ...] = ()
    """What its owner should know: what was chosen or turned, and what will not look good."""
    whole: RGBArray | None = None
    """The picture that it was cut from, as it was given..."""
    place: Transform = field(default_factory=lambda: np.eye(3))
    """...and where in it: from places in `image` to places in `whole`."""


class PortraitFinder:
    """Finds the face in portraits. One thread at a time; a context manager."""

    def __init__(self, which: str = "largest") -> None:
        """`which` of several faces: as in `faces.choose`."""
        self._which = which
        self._tracker = FaceTracker()
        self._detector: Any = load_mediapipe().face_detection.FaceDetection(model_selection=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tracker.close()
        self._detector.close()

    def find(self, image: RGBArray, shape: tuple[int, int], crop: Crop) -> Portrait | None:
        """The portrait in a picture, or None if it shows no face.

        Args:
            image: uint8 [h, w, 3]. What is searched and cropped is no larger than `images.MAX_SIDE`, so only an
                automatic crop profits from a larger one.
            shape: width and height of the output.
            crop: see `crop.crop_box`.

        Raises:
            FaceTooSmallError: the face has too few pixels.
        """
        first = _whole(image) if crop == "auto" else _part(image, shape, crop, None)
        searched = fitted(cut(image, first))
        place = moved(*first[:2]) @ scaled(_size(searched), (first[2] - first[0], first[3] - first[1]))
        quarters, turned, faces = self._turned(searched)
        if not faces:
            return None
        remarks = (
            [f"the portrait's face is not upright: the picture was turned by {TURNS[quarters]}"] if quarters else []
        )
        face = choose(faces, self._which)
        remarks += _choice(faces, face, self._which)
        place = place @ turned_back(_size(searched), 90.0 * quarters)
        if crop == "auto":
            turned, face, back = self._closer(np.rot90(image, quarters), turned, face, shape)
            place = turned_back(_size(image), 90.0 * quarters) @ back
        levelled = self._levelled(turned, face) if abs(face.roll) > MAX_ROLL else None
        if levelled is not None:
            remarks.append(
                f"the portrait's face is tilted by {abs(face.roll):.0f} degrees: the picture was turned upright"
            )
            place = place @ turned_back(_size(turned), face.roll)
            turned, face = levelled
        if face.side < LEAST_FACE:
            raise FaceTooSmallError(
                f"face too small: {face.side} pixels of the {LEAST_FACE} that are needed; crop it from a larger "
                "picture, or take one from nearer"
            )
        is_turned = bool(quarters) or levelled is not None  # then a part that is not cropped needs the output's shape
        part = _part(turned, shape, crop, face.box) if crop == "auto" or is_turned else _whole(turned)
        remarks += _warnings(turned, face, shape)
        place = place @ moved(*part[:2])
        return Portrait(cut(turned, part), within(face.box, part), tuple(remarks), image, place)

    def _closer(
        self, whole: RGBArray, searched: RGBArray, face: Face, shape: tuple[int, int]
    ) -> tuple[RGBArray, Face, Transform]:
        """The surroundings of a small face with all pixels that there are of it, the face in them, and the way back.

        Args:
            whole: the picture, as large as it is.
            searched: the same as it was searched: perhaps smaller.
            face: in it.
            shape: width and height of the output.
        """
        scale = whole.shape[1] / searched.shape[1]
        if scale == 1 and not _is_small(face, searched):
            return searched, face, np.eye(3)
        x, y = (place * scale for place in _centre(face))
        reach = face.side * scale * (CROP_MARGIN * max(1.0, shape[0] / shape[1]) + 0.5)
        part = int(max(0, x - reach)), int(max(0, y - reach)), int(x + reach), int(y + reach)
        seen = cut(whole, part)
        near = fitted(seen)
        zoom = near.shape[1] / seen.shape[1]
        box = tuple(round((edge * scale - part[index % 2]) * zoom) for index, edge in enumerate(face.box))
        expected = replace(face, box=(box[0], box[1], box[2], box[3]))
        found = [each for each in self._tracker.detect(near, tiles=0) if is_same_place(each.box, expected.box)]
        back = moved(*part[:2]) @ scaled(_size(near), _size(seen))
        return near, max(found, key=lambda each: each.area, default=expected), back

    def _levelled(self, image: RGBArray, face: Face) -> tuple[RGBArray, Face] | None:
        """The picture turned so that a tilted face is upright, and the face in it; None: it is not found there."""
        turned = _rotated(image, face.roll)
        found = self._tracker.detect(turned)
        if not found:
            return None
        angle = math.radians(face.roll)
        x, y = (now - size / 2 for now, size in zip(_centre(face), (image.shape[1], image.shape[0]), strict=True))
        across = x * math.cos(angle) + y * math.sin(angle) + image.shape[1] / 2
        down = y * math.cos(angle) - x * math.sin(angle) + image.shape[0] / 2
        return turned, min(found, key=lambda each: math.dist(_centre(each), (across, down)))

    def _is_upright(self, image: RGBArray, faces: Sequence[Face]) -> bool:
        face = choose(faces, self._which)
        return abs(face.roll) <= MAX_ROLL and self._confidence(image, face) >= UPRIGHT_SCORE

    def _score(self, image: RGBArray, faces: Sequence[Face]) -> float:
        """How certain it is that the face in a picture is upright; less so for tilted faces."""
        if not faces:
            return -1.0
        face = choose(faces, self._which)
        return self._confidence(image, face) - abs(face.roll) / ROLL_WEIGHT

    def _turned_score(self, image: RGBArray, faces: Sequence[Face]) -> float:
        """The same for a picture that was turned: chance finds, as in animals, do not count."""
        if not faces or self._confidence(image, choose(faces, self._which)) < TURNED_SCORE:
            return -1.0
        return self._score(image, faces) - MUCH_BETTER

    def first(self, images: Iterable[RGBArray], shape: tuple[int, int], crop: Crop) -> tuple[RGBArray, Portrait] | None:
        """The first of some pictures that shows a face, and the portrait in it.

        Args:
            images: of an animation or a video, or just one. The first `images.MOST_PICTURES` are looked at: at a
                glance, and thoroughly whenever their number has doubled.
            shape: as for `find`.
            crop: as for `find`.

        Raises:
            FaceTooSmallError: only faces with too few pixels were found.
        """
        reason: FaceTooSmallError | None = None
        for index, image in enumerate(itertools.islice(images, MOST_PICTURES)):
            if index and (is_blank(image) or (index & (index - 1) and not self._tracker.detect(image, tiles=0))):
                continue
            try:
                found = self.find(image, shape, crop)
            except FaceTooSmallError as error:
                reason = error
                continue
            if found is not None:
                return image, replace(found, remarks=(*_earlier(index), *found.remarks))
        if reason is not None:
            raise reason
        return None

    def turn(self, image: RGBArray) -> int | None:
        """Quarter turns to the left after which the face in a picture is upright; None: there is no face."""
        quarters, _, faces = self._turned(image)
        return quarters if faces else None

    def _turned(self, image: RGBArray) -> tuple[int, RGBArray, list[Face]]:
        """The quarter turns to the left that suit the face in a picture best, the picture after them, and its faces."""
        faces = self._tracker.detect(image, tiles=TURNED_TILES)
        if faces and self._is_upright(image, faces):
            return 0, image, faces
        candidates = [(self._score(image, faces), 0, image, faces)]
        for quarters in TURNS:
            turned = np.ascontiguousarray(np.rot90(image, quarters))
            found = self._tracker.detect(turned, tiles=TURNED_TILES)
            candidates.append((self._turned_score(turned, found), quarters, turned, found))
        score, quarters, best, faces = max(candidates, key=lambda candidate: candidate[0])
        if score < TURNED_SCORE - MUCH_BETTER or not faces or _is_small(choose(faces, self._which), best):
            found = [each for each in self._tracker.search(image) if self._confidence(image, each) >= TURNED_SCORE]
            if self._score(image, found) > score:
                return 0, image, found
        return quarters, best, faces

    def _confidence(self, image: RGBArray, face: Face) -> float:
        """The detector's confidence in a face, from 0 to 1."""
        height, width = image.shape[:2]
        x, y = _centre(face)
        reach = DETECTOR_MARGIN * face.side / 2
        left, top, right, bottom = int(max(0, x - reach)), int(max(0, y - reach)), int(x + reach), int(y + reach)
        part = np.ascontiguousarray(image[top : min(bottom, height), left : min(right, width)])
        found = self._detector.process(part).detections or []
        return max((float(detection.score[0]) for detection in found), default=0.0)


def find_portrait(images: Iterable[RGBArray], shape: tuple[int, int], crop: Crop, which: str, name: str) -> Portrait:
    """The first of some pictures that shows a face; see `PortraitFinder.first`.

    Args:
        name: of the pictures, for the message.

    Raises:
        NoFaceError, FaceTooSmallError: none does.
    """
    try:
        with PortraitFinder(which) as finder:
            found = finder.first(images, shape, crop)
    except FaceTooSmallError as error:
        raise FaceTooSmallError(f"{name}: {error}") from error
    if found is None:
        raise NoFaceError(f"no face was found in {name}; use a picture of one face that looks at the camera")
    return found[1]


def first_shown(images: Iterable[RGBArray]) -> tuple[RGBArray, tuple[str, ...]]:
    """The first of some pictures that is not blank, or the first if all are, and what its owner should know about it.

    Args:
        images: at least one. The first `images.MOST_PICTURES` are looked at.
    """
    looked = itertools.islice(images, MOST_PICTURES)
    first = next(looked)
    numbered = enumerate(itertools.chain([first], looked))
    index, image = next(((index, image) for index, image in numbered if not is_blank(image)), (0, first))
    return image, _earlier(index)


def _earlier(index: int) -> tuple[str, ...]:
    return (f"the portrait is picture {index + 1} of its file: nothing usable was found before it",) if index else ()


def sharpness(image: RGBArray, box: Box) -> float:
    """Mean absolute Laplacian of a face, scaled to 128 pixels: how much fine detail it has, in levels."""
    face = Image.fromarray(cut(image, box)).convert("L").resize((128, 128), Image.Resampling.BILINEAR)
    grey = np.asarray(face, dtype=np.float32)
    inner = grey[1:-1, 1:-1] * 4 - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]
    return float(np.abs(inner).mean())


def _part(image: RGBArray, shape: tuple[int, int], crop: Crop, face: Box | None) -> Box:
    return crop_box((image.shape[1], image.shape[0]), shape, crop, face)


def _is_small(face: Face, image: RGBArray) -> bool:
    return face.side < SMALL_PART * min(image.shape[:2])


def _centre(face: Face) -> tuple[float, float]:
    return (face.box[0] + face.box[2]) / 2, (face.box[1] + face.box[3]) / 2


def _whole(image: RGBArray) -> Box:
    return 0, 0, image.shape[1], image.shape[0]


def _choice(faces: Sequence[Face], face: Face, which: str) -> list[str]:
    if which.isdecimal() and int(which) > len(faces):
        there = "one face" if len(faces) == 1 else f"{len(faces)} faces"
        return [f"face is {which}, but the portrait shows {there}: the last one from the left is animated"]
    if len(faces) < 2:
        return []
    place = sorted(each.box[0] + each.box[2] for each in faces).index(face.box[0] + face.box[2]) + 1
    return [
        f"the portrait shows {len(faces)} faces: number {place} from the left ({which}) is animated; "
        "for another, crop the picture or set face to left, right or a number"
    ]


def _warnings(image: RGBArray, face: Face, shape: tuple[int, int]) -> list[str]:
    remarks = []
    if abs(face.yaw) > MAX_YAW:
        remarks.append(
            f"the portrait's face looks {abs(face.yaw):.0f} degrees to the side: its other half will be made up; "
            "a picture from the front looks better"
        )
    if face.side < SMALL_FACE:
        remarks.append(f"the portrait's face is small ({face.side} pixels of {min(shape)}): the result will be soft")
    elif sharpness(image, face.box) < BLURRED:
        remarks.append("the portrait's face is blurred, so the result will be too")
    return remarks


def _size(image: RGBArray) -> tuple[int, int]:
    return image.shape[1], image.shape[0]


def _rotated(image: RGBArray, degrees: float) -> RGBArray:
    """The picture turned counter-clockwise; the corners are filled by mirroring at the border."""
    height, width = image.shape[:2]
    pad = max(height, width) // 2
    wide = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode="symmetric" if pad <= min(height, width) else "edge")
    turned = Image.fromarray(wide).rotate(degrees, Image.Resampling.BICUBIC)
    return np.asarray(turned)[pad : pad + height, pad : pad + width].copy()
