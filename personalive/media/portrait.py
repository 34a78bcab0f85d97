"""The portrait: its face is found, turned upright, cropped, and judged by what the result will look like."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Self, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from personalive.errors import NoFaceError
from personalive.media.crop import crop_box, cut, within
from personalive.media.faces import Face, FaceTracker, choose, load_mediapipe
from personalive.types import Box, Crop, RGBArray

UPRIGHT_SCORE = 0.85
"""The detector's confidence from which a face whose eyes are level is upright. Of upright faces, drawn and
photographed, it was 0.92 and more; of faces upside down, in which the mesh finds a face too, 0.73 at most."""
TURNED_SCORE = 0.8
"""The detector's confidence below which a face that is found only after a turn is none."""
TURNS = {2: "half a turn", 1: "a quarter turn", 3: "a quarter turn"}
"""Quarter turns to the left that are tried, in words."""
MUCH_BETTER = 0.1
"""How much higher another turn's confidence must be for it to be chosen."""
MAX_ROLL = 35.0
"""Degrees by which a head may be tilted without being turned."""
MAX_YAW = 40.0
"""Degrees beyond which a face is in profile: what cannot be seen of it has to be made up."""
SMALL_FACE = 64
"""Pixels of a face's side below which the result is soft."""
BLURRED = 3.0
"""Sharpness (see `sharpness`) below which a face is blurred."""
ROLL_WEIGHT = 300.0
"""Degrees of tilt that count as much as the detector's whole confidence."""
DETECTOR_MARGIN = 2.0
"""Side of the region that the detector sees, per side of the face."""


Transform: TypeAlias = npt.NDArray[np.float64]
"""A matrix [3, 3] from pixels (x, y, 1) of one picture to those of another; a pixel's centre is at ½, ½."""


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
    """...and where in it: from pixels of `image` to pixels of `whole`."""

    def cut_from(self, whole: RGBArray) -> Self:
        """The same as a part of another copy of the picture, which has another size."""
        assert self.whole is not None
        scales = (after / before for after, before in zip(whole.shape[1::-1], self.whole.shape[1::-1], strict=True))
        return replace(self, whole=whole, place=np.diag([*scales, 1.0]) @ self.place)


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
            image: uint8 [h, w, 3].
            shape: width and height of the output.
            crop: see `crop.crop_box`.
        """
        first = (0, 0, image.shape[1], image.shape[0]) if crop == "auto" else _part(image, shape, crop, None)
        searched = cut(image, first)
        turned, remarks, faces, turn = self._upright(searched)
        if not faces:
            return None
        face = choose(faces, self._which)
        part = _part(turned, shape, crop, face.box) if crop == "auto" else (0, 0, turned.shape[1], turned.shape[0])
        if turned is not searched and crop != "auto":  # the output's shape again
            part = _part(turned, shape, crop, None)
        remarks += _choice(faces, face, self._which) + _warnings(turned, face, shape)
        place = moved(*first[:2]) @ turn @ moved(*part[:2])
        return Portrait(cut(turned, part), within(face.box, part), tuple(remarks), image, place)

    def _upright(self, image: RGBArray) -> tuple[RGBArray, list[str], list[Face], Transform]:
        """The picture turned so that its face is upright, what was done, the faces in it, and the way back."""
        quarters, best, faces = self._turned(image)
        back = turned_back((image.shape[1], image.shape[0]), 90.0 * quarters)
        remarks = (
            [f"the portrait's face is not upright: the picture was turned by {TURNS[quarters]}"] if quarters else []
        )
        if faces and abs(choose(faces, self._which).roll) > MAX_ROLL:
            roll = choose(faces, self._which).roll
            levelled = _rotated(best, roll)
            found = self._tracker.detect(levelled)
            if found:
                back = back @ turned_back((best.shape[1], best.shape[0]), roll)
                best, faces = levelled, found
                remarks.append(
                    f"the portrait's face is tilted by {abs(roll):.0f} degrees: the picture was turned upright"
                )
        return best, remarks, faces, back

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

    def turn(self, image: RGBArray) -> int | None:
        """Quarter turns to the left after which the face in a picture is upright; None: there is no face."""
        quarters, _, faces = self._turned(image)
        return quarters if faces else None

    def _turned(self, image: RGBArray) -> tuple[int, RGBArray, list[Face]]:
        """The quarter turns to the left that suit the face in a picture best, the picture after them, and its faces."""
        faces = self._tracker.detect(image)
        if faces and self._is_upright(image, faces):
            return 0, image, faces
        candidates = [(self._score(image, faces), 0, image, faces)]
        for quarters in TURNS:
            turned = np.ascontiguousarray(np.rot90(image, quarters))
            found = self._tracker.detect(turned)
            candidates.append((self._turned_score(turned, found), quarters, turned, found))
        _, quarters, best, faces = max(candidates, key=lambda candidate: candidate[0])
        return quarters, best, faces

    def _confidence(self, image: RGBArray, face: Face) -> float:
        """The detector's confidence in a face, from 0 to 1."""
        height, width = image.shape[:2]
        x, y = (face.box[0] + face.box[2]) / 2, (face.box[1] + face.box[3]) / 2
        reach = DETECTOR_MARGIN * face.side / 2
        left, top, right, bottom = int(max(0, x - reach)), int(max(0, y - reach)), int(x + reach), int(y + reach)
        part = np.ascontiguousarray(image[top : min(bottom, height), left : min(right, width)])
        found = self._detector.process(part).detections or []
        return max((float(detection.score[0]) for detection in found), default=0.0)


def find_portrait(images: Iterable[RGBArray], shape: tuple[int, int], crop: Crop, which: str, name: str) -> Portrait:
    """The first of some pictures that shows a face; see `PortraitFinder.find`.

    Args:
        name: of the pictures, for the message.

    Raises:
        NoFaceError: none does.
    """
    with PortraitFinder(which) as finder:
        found: Iterator[Portrait] = (each for image in images if (each := finder.find(image, shape, crop)) is not None)
        portrait = next(found, None)
    if portrait is None:
        raise NoFaceError(f"no face was found in {name}; use a picture of one face that looks at the camera")
    return portrait


def sharpness(image: RGBArray, box: Box) -> float:
    """Mean absolute Laplacian of a face, scaled to 128 pixels: how much fine detail it has, in levels."""
    face = Image.fromarray(cut(image, box)).convert("L").resize((128, 128), Image.Resampling.BILINEAR)
    grey = np.asarray(face, dtype=np.float32)
    inner = grey[1:-1, 1:-1] * 4 - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]
    return float(np.abs(inner).mean())


def _part(image: RGBArray, shape: tuple[int, int], crop: Crop, face: Box | None) -> Box:
    return crop_box((image.shape[1], image.shape[0]), shape, crop, face)


def _choice(faces: Sequence[Face], face: Face, which: str) -> list[str]:
    if len(faces) < 2:
        return []
    place = sorted(each.box[0] + each.box[2] for each in faces).index(face.box[0] + face.box[2]) + 1
    return [
        f"the portrait shows {len(faces)} faces: number {place} from the left ({which}) is animated; "
        "for another, crop the picture or set --face to left, right or a number"
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


def moved(x: float, y: float) -> Transform:
    """From a part of a picture that begins at `x`, `y` to the picture."""
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])


def turned_back(size: tuple[int, int], degrees: float) -> Transform:
    """From a picture that was turned counter-clockwise about its middle to the picture before.

    Args:
        size: width and height before. A turn by an odd number of quarters exchanges them; others keep them.
        degrees: by which it was turned.
    """
    width, height = size
    middle = moved(width / 2, height / 2)
    after = moved(-height / 2, -width / 2) if degrees % 180 == 90 else moved(-width / 2, -height / 2)
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return middle @ np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]]) @ after


def _rotated(image: RGBArray, degrees: float) -> RGBArray:
    """The picture turned counter-clockwise; the corners are filled by mirroring at the border."""
    height, width = image.shape[:2]
    pad = max(height, width) // 2
    wide = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode="symmetric" if pad <= min(height, width) else "edge")
    turned = Image.fromarray(wide).rotate(degrees, Image.Resampling.BICUBIC)
    return np.asarray(turned)[pad : pad + height, pad : pad + width].copy()
