"""Where the driver's face is throughout a video, and the part of each frame that follows it.

A first pass finds the face in every frame that will be used, before anything is animated. If one crop holds the face
throughout, it is kept, and movement across the picture is the head's. If not, the crop follows on a smooth path; at a
cut it starts again.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from personalive.media.crop import crop_box, holds
from personalive.media.faces import DARK, Face, FaceTracker, is_blank
from personalive.media.neutral import most_neutral
from personalive.types import Box, RGBArray

Absence = Literal["left", "none", "other"]
"""Why there is no usable face: it left the picture, none is seen, or only another person's."""

CUT_CHANGE = 28.0
"""Mean change of a small copy of the picture, in levels, above which there may be a cut..."""
CUT_FACTOR = 4.0
"""...if it is this many times the usual change from frame to frame."""
THUMBNAIL = (32, 18)
STILL = 0.12
"""How far, in face sides, the face may move over two frames for the frame in between to be interpolated."""
BORDER = 0.04
"""How near to the picture's border, as a fraction of its side, a face is leaving it."""
SMOOTH_SECONDS = 0.6
"""Width of the window over which a path is smoothed."""


@dataclass(frozen=True)
class FaceTrack:
    """What the pass found. Lists have an item for each frame."""

    boxes: tuple[Box | None, ...]
    """Of the followed face, in pixels of the frame; None: not seen."""
    absences: dict[int, Absence]
    """Why, for the frames without a box."""
    cuts: tuple[int, ...]
    """Frames with which a new scene starts, except for the first frame."""
    most_faces: int
    """Faces in the frame with the most."""
    neutral: int = 0
    """The frame of the first scene with a face that shows it most at rest."""

    def moved(self, x: int, y: int) -> "FaceTrack":
        """The same in a picture in which this one starts `x` and `y` pixels from the left and top."""
        boxes = (None if box is None else (box[0] + x, box[1] + y, box[2] + x, box[3] + y) for box in self.boxes)
        return replace(self, boxes=tuple(boxes))

    @property
    def seen(self) -> int:
        """Frames in which the face was found."""
        return len(self.boxes) - len(self.absences)

    def count(self, reason: Absence) -> int:
        """Frames without the face, for this reason."""
        return sum(each == reason for each in self.absences.values())


def track_face(frames: Iterable[RGBArray], tracker: FaceTracker) -> Iterator[FaceTrack | int]:
    """Follow the face through a video.

    Args:
        frames: uint8 [h, w, 3], all of one size.
        tracker: reset; it says which of several faces is followed.

    Yields:
        After each frame the number of frames so far, and finally the track.
    """
    scenes = SceneCuts()
    boxes: list[Box | None] = []
    faces: dict[int, Face] = {}
    others: set[int] = set()
    waiting: RGBArray | None = None  # the last frame, if the search in it can be saved
    size = (0, 0)

    def search(image: RGBArray, index: int) -> Box | None:
        before = tracker.others
        box = None if is_blank(image) else tracker.follow(image)
        if tracker.others > before:
            others.add(index)
        if box is not None and tracker.face is not None:
            faces[index] = tracker.face
        return box

    index = -1
    for index, image in enumerate(frames):
        size = image.shape[1], image.shape[0]
        if scenes.add(image):
            if waiting is not None:
                boxes[-1] = search(waiting, index - 1)
            waiting = None
            tracker.start_scene()
        elif waiting is None and boxes and boxes[-1] is not None:
            waiting = image
            boxes.append(None)
            yield index + 1
            continue
        found = search(image, index)
        if waiting is not None:
            boxes[-1] = _between(boxes[-2], found) or search(waiting, index - 1)
            waiting = None
        boxes.append(found)
        yield index + 1
    if waiting is not None:
        boxes[-1] = search(waiting, index)
    absences, neutral = _absences(boxes, others, size), _neutral(faces, scenes.cuts)
    yield FaceTrack(tuple(boxes), absences, tuple(scenes.cuts), tracker.most, neutral)


def _neutral(faces: dict[int, Face], cuts: Sequence[int]) -> int:
    end = next((cut for cut in cuts if cut > min(faces, default=0)), math.inf)
    return most_neutral({index: face for index, face in faces.items() if index < end})


class SceneCuts:
    """Finds the frames with which a new scene starts."""

    def __init__(self) -> None:
        self.cuts: list[int] = []
        self._before: npt.NDArray[np.float32] | None = None
        self._usual = 0.0
        self._index = -1

    def add(self, image: RGBArray) -> bool:
        """Whether the next frame starts a scene. Blank frames belong to none: the last one may continue after them."""
        self._index += 1
        small = Image.fromarray(image).resize(THUMBNAIL, Image.Resampling.BOX)
        thumbnail = np.asarray(small, dtype=np.float32)
        if thumbnail.std() < DARK:
            return False
        before, self._before = self._before, thumbnail
        if before is None:
            return False
        change = float(np.abs(thumbnail - before).mean())
        cut = change > CUT_CHANGE and change > CUT_FACTOR * self._usual
        if cut:
            self.cuts.append(self._index)
        else:
            self._usual += (change - self._usual) / 8
        return cut


def _between(before: Box | None, after: Box | None) -> Box | None:
    """The box half-way, where the face hardly moved."""
    if before is None or after is None:
        return None
    change = max(abs(a - b) for a, b in zip(before, after, strict=True))
    if change > STILL * (before[2] - before[0]):
        return None
    left, top, right, bottom = ((a + b) // 2 for a, b in zip(before, after, strict=True))
    return left, top, right, bottom


def _absences(boxes: Sequence[Box | None], others: set[int], size: tuple[int, int]) -> dict[int, Absence]:
    absences: dict[int, Absence] = {}
    last: Box | None = None
    coming: Box | None = None  # where the face would be next if it kept moving
    for index, box in enumerate(boxes):
        if box is not None:
            coming = box if last is None else _continued(last, box)
            last = box
        elif index in others:
            absences[index] = "other"
        else:
            absences[index] = "left" if coming is not None and _at_border(coming, size) else "none"
    return absences


def _continued(before: Box, box: Box) -> Box:
    left, top, right, bottom = (2 * b - a for a, b in zip(before, box, strict=True))
    return left, top, right, bottom


def _at_border(box: Box, size: tuple[int, int]) -> bool:
    width, height = size
    return (
        box[0] <= BORDER * width
        or box[1] <= BORDER * height
        or box[2] >= (1 - BORDER) * width
        or box[3] >= (1 - BORDER) * height
    )


def crop_path(track: FaceTrack, size: tuple[int, int], shape: tuple[int, int], rate: Fraction) -> list[Box]:
    """The part of each frame that is used for an automatic crop; see the module.

    Args:
        track: with a face in at least one frame.
        size: width and height of the frames.
        shape: width and height of the output.
        rate: frames a second.
    """
    count = len(track.boxes)
    bounds = [0, *track.cuts, count]
    path: list[Box] = []
    known = next(box for box in track.boxes if box is not None)
    for start, end in itertools.pairwise(bounds):
        scene = track.boxes[start:end]
        found = [box for box in scene if box is not None]
        if not found:  # nothing to follow: stay as before the cut
            path += [path[-1] if path else crop_box(size, shape, "auto", known)] * len(scene)
            continue
        known = found[-1]
        path += _one_crop(found, size, shape, len(scene)) or _following(scene, size, shape, rate)
    return path


def _one_crop(found: Sequence[Box], size: tuple[int, int], shape: tuple[int, int], count: int) -> list[Box] | None:
    """A crop of the size that the first face needs, if it can hold every face: in its place, or moved a little."""
    part = crop_box(size, shape, "auto", found[0])
    if all(holds(part, box) for box in found):
        return [part] * count
    lefts, tops, rights, bottoms = zip(*found, strict=True)
    union = min(lefts), min(tops), max(rights), max(bottoms)
    moved = _moved_to_hold(part, union)
    inside = moved[0] >= 0 and moved[1] >= 0 and moved[2] <= size[0] and moved[3] <= size[1]
    return [moved] * count if inside and holds(moved, union) else None


def _moved_to_hold(part: Box, union: Box) -> Box:
    x = min(union[0] - part[0], 0) or max(union[2] - part[2], 0)
    y = min(union[1] - part[1], 0) or max(union[3] - part[3], 0)
    return part[0] + x, part[1] + y, part[2] + x, part[3] + y


def _following(scene: Sequence[Box | None], size: tuple[int, int], shape: tuple[int, int], rate: Fraction) -> list[Box]:
    """Crops around a face that moves too far for one: smoothed, but never so much that it leaves them."""
    places = [index for index, box in enumerate(scene) if box is not None]
    values = np.array([_centre_and_side(box) for box in scene if box is not None])
    every = np.arange(len(scene))
    path = np.stack([np.interp(every, places, column) for column in values.T], axis=1)
    window = max(1, round(float(rate) * SMOOTH_SECONDS))
    while True:
        crops = [_crop_about(row, size, shape) for row in _smoothed(path, window)]
        if window == 1 or all(box is None or holds(part, box) for part, box in zip(crops, scene, strict=True)):
            return crops
        window //= 2


def _centre_and_side(box: Box) -> tuple[float, float, float]:
    left, top, right, bottom = box
    return (left + right) / 2, (top + bottom) / 2, max(right - left, bottom - top)


def _smoothed(path: npt.NDArray[np.float64], window: int) -> npt.NDArray[np.float64]:
    """Each column averaged twice over a window of frames; the ends are extrapolated linearly."""
    for _ in range(2):
        if window > 1:
            pad = window // 2
            padded = np.pad(path, ((pad, window - 1 - pad), (0, 0)), mode="reflect" if len(path) > window else "edge")
            padded[:pad] = 2 * path[0] - padded[:pad] if len(path) > window else padded[:pad]
            if window - 1 - pad and len(path) > window:
                padded[-(window - 1 - pad) :] = 2 * path[-1] - padded[-(window - 1 - pad) :]
            sums = np.cumsum(np.vstack((np.zeros((1, path.shape[1])), padded)), axis=0)
            path = (sums[window:] - sums[:-window]) / window
    return path


def _crop_about(row: npt.NDArray[np.float64], size: tuple[int, int], shape: tuple[int, int]) -> Box:
    x, y, side = row.tolist()
    face = round(x - side / 2), round(y - side / 2), round(x + side / 2), round(y + side / 2)
    return crop_box(size, shape, "auto", face)
