"""The driving video as prepared chunks: decoding and the search for the face run in a thread beside the model."""

import itertools
import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from PIL import Image

from personalive.config import WINDOW
from personalive.engine.preprocess import DrivingFrames, Preprocessor
from personalive.errors import InputError, NoFaceError
from personalive.media.faces import FaceTracker, crop_box, cut
from personalive.media.images import is_image, read_image
from personalive.media.video_reader import VideoInfo, probe, read_frames
from personalive.types import Box, Crop, FaceBoxes, RGBArray

QUEUED_CHUNKS = 4
"""Prepared chunks that wait for the model at most."""


@dataclass(frozen=True)
class Portrait:
    """The picture that is to be animated, cropped."""

    image: RGBArray
    """uint8 [h, w, 3]"""
    box: Box | None
    """The face in it; None: to be cut out by keypoints."""


@dataclass(frozen=True)
class DrivingPlan:
    """Which part of a driving video is used, in time and in the picture."""

    info: VideoInfo
    rate: Fraction
    """Frames a second of the result."""
    frames: int
    """Frames that are used, as far as the file tells beforehand."""
    crop: Box
    """The part of each frame that is used."""
    box: Box | None
    """In `crop`: where the face is first seen; None: faces are cut out by keypoints."""


@dataclass(frozen=True)
class Chunk:
    """Driving frames, ready for the stream."""

    driving: DrivingFrames
    pictures: tuple[RGBArray, ...]
    """The same frames in the output's size, uint8 [height, width, 3] each, if they were asked for."""
    faceless: int
    """Frames in it for which the last known place of the face was used."""


def read_portrait(path: Path, shape: tuple[int, int], crop: Crop, face_boxes: FaceBoxes) -> Portrait:
    """Read the reference: a picture, or the first frame with a face of a video.

    Args:
        path: of the picture or video.
        shape: width and height of the output.
        crop, face_boxes: as in `AnimateOptions`.

    Raises:
        InputError: it can not be read.
        NoFaceError: it shows no face.
    """
    images = iter([read_image(path)]) if is_image(path) else read_frames(_probe_reference(path))
    if face_boxes == "keypoints" and crop != "auto":
        return Portrait(_middle(next(images), shape, crop), None)
    with FaceTracker() as tracker:
        for image in images:
            found = _find(tracker, image, shape, crop)
            if found is not None:
                part, box = found
                return Portrait(cut(image, part), box if face_boxes == "mesh" else None)
    raise NoFaceError(f"no face was found in the reference {path}; use a picture of one face that looks at the camera")


def plan_driving(
    path: Path, shape: tuple[int, int], rate: Fraction | None, max_frames: int, crop: Crop, face_boxes: FaceBoxes
) -> DrivingPlan:
    """Look through a driving video until its first face.

    Args:
        path: of the video.
        shape: width and height of the output.
        rate: frames a second of the result; None: the video's.
        max_frames: frames to use at most; 0: all.
        crop, face_boxes: as in `AnimateOptions`.

    Raises:
        InputError: it can not be read.
        NoFaceError: none of the frames that would be used shows a face.
    """
    info = probe(path)
    rate = rate or info.rate
    frames = min(info.frames_at(rate), max_frames or info.frames_at(rate))
    if face_boxes == "keypoints" and crop != "auto":
        return DrivingPlan(info, rate, frames, crop_box((info.width, info.height), shape, crop, None), None)
    with FaceTracker() as tracker:
        for image in itertools.islice(read_frames(info, rate), frames):
            found = _find(tracker, image, shape, crop)
            if found is not None:
                part, box = found
                return DrivingPlan(info, rate, frames, part, box if face_boxes == "mesh" else None)
    raise NoFaceError(f"no face was found in the {frames} frames of the driving video {path} that would be used")


class DrivingReader:
    """Prepares the frames of a plan in a thread, a few chunks ahead; iterate over it inside its `with`.

    Raises (while iterating):
        InputError: the video turns out to be damaged.
    """

    def __init__(self, plan: DrivingPlan, preprocessor: Preprocessor, *, keep_pictures: bool = False) -> None:
        self._plan = plan
        self._preprocessor = preprocessor
        self._keep_pictures = keep_pictures
        self._queue: queue.Queue[Chunk | BaseException | None] = queue.Queue(QUEUED_CHUNKS)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="driving video", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def __iter__(self) -> Iterator[Chunk]:
        while True:
            item = self._queue.get()
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item

    def _work(self) -> None:
        try:
            for chunk in self._chunks():
                if not self._put(chunk):
                    return
            self._put(None)
        except BaseException as error:  # to be raised where the chunks are used
            self._put(error)

    def _put(self, item: Chunk | BaseException | None) -> bool:
        """Hand over, unless nobody wants it any more."""
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def _chunks(self) -> Iterator[Chunk]:
        plan = self._plan
        frames = itertools.islice(read_frames(plan.info, plan.rate), plan.frames)
        windows = iter(lambda: [cut(image, plan.crop) for image in itertools.islice(frames, WINDOW)], [])
        if plan.box is None:
            for images in windows:
                yield self._chunk(images, None, 0)
            return
        with FaceTracker() as tracker:
            for images in windows:
                missing = tracker.missing
                boxes = [tracker.follow(image) or tracker.box or plan.box for image in images]
                yield self._chunk(images, boxes, tracker.missing - missing)

    def _chunk(self, images: Sequence[RGBArray], boxes: Sequence[Box] | None, faceless: int) -> Chunk:
        pictures: tuple[RGBArray, ...] = ()
        if self._keep_pictures:
            pictures = tuple(resize(image, self._preprocessor.width, self._preprocessor.height) for image in images)
        return Chunk(self._preprocessor.driving(images, boxes), pictures, faceless)


def resize(image: RGBArray, width: int, height: int) -> RGBArray:
    """A picture in another size, uint8 [height, width, 3]."""
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


def _probe_reference(path: Path) -> VideoInfo:
    try:
        return probe(path)
    except InputError as error:
        raise InputError(f"the reference is neither a picture (JPEG, PNG, WebP) nor a video: {error}") from error


def _middle(image: RGBArray, shape: tuple[int, int], crop: Crop) -> RGBArray:
    return cut(image, crop_box((image.shape[1], image.shape[0]), shape, crop, None))


def _find(tracker: FaceTracker, image: RGBArray, shape: tuple[int, int], crop: Crop) -> tuple[Box, Box] | None:
    """The part of a picture to use and the largest face in it, in the coordinates of that part."""
    size = image.shape[1], image.shape[0]
    if crop != "auto":
        part = crop_box(size, shape, crop, None)
        faces = tracker.detect(cut(image, part))
        return (part, faces[0].box) if faces else None
    faces = tracker.detect(image)
    if not faces:
        return None
    box = faces[0].box
    part = left, top, right, bottom = crop_box(size, shape, crop, box)
    inside = max(box[0], left), max(box[1], top), min(box[2], right), min(box[3], bottom)
    return part, (inside[0] - left, inside[1] - top, inside[2] - left, inside[3] - top)
