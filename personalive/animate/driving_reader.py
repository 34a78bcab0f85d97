"""The driving video as prepared chunks: decoding and the search for the face run in a thread beside the model."""

import itertools
import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from personalive.animate.plan import DrivingPlan
from personalive.animate.replay import Cues
from personalive.config import CHUNK
from personalive.engine.cues import Cue
from personalive.engine.preprocess import DrivingFrames, Preprocessor
from personalive.media.crop import cut
from personalive.media.faces import FaceTracker, is_same_place
from personalive.media.images import resize
from personalive.media.video_reader import read_frames
from personalive.types import Box, RGBArray

QUEUED_CHUNKS = 4
"""The most prepared chunks that wait for the model."""


@dataclass(frozen=True)
class Chunk:
    """Driving frames, ready for the stream."""

    driving: DrivingFrames
    pictures: tuple[RGBArray, ...]
    """The same frames at the output's size, uint8 [height, width, 3] each, if requested."""
    usable: tuple[bool, ...]
    """Whether each frame shows the face that drives."""
    faceless: int
    """Frames without the face in it, whose motion was held."""


class DrivingReader:
    """Prepares the frames of a plan in a thread, a few chunks ahead; iterate over it inside its `with`.

    Raises (while iterating):
        InputError: the video turns out to be damaged.
    """

    def __init__(
        self,
        plan: DrivingPlan,
        preprocessor: Preprocessor,
        presences: Cues,
        *,
        first: int = 0,
        keep_pictures: bool = False,
    ) -> None:
        """Prepare to read from the part's frame `first` on."""
        self._plan = plan
        self._presences = presences
        self._preprocessor = preprocessor
        self._keep_pictures = keep_pictures
        self._queue: queue.Queue[Chunk | BaseException | None] = queue.Queue(QUEUED_CHUNKS)
        self._stop = threading.Event()
        self._first = self._count = first
        self._last_box: Box | None = None
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
        """Pass it on, unless it is no longer wanted."""
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def _chunks(self) -> Iterator[Chunk]:
        plan = self._plan
        left = plan.frames - self._first
        frames = itertools.islice(read_frames(plan.info, plan.rate, plan.skip + self._first), left)
        tracker = FaceTracker() if plan.mesh and plan.track is not None else None
        try:
            chunks = iter(lambda: [*itertools.islice(self._frames(frames, tracker), CHUNK)], [])
            for chunk in chunks:
                yield self._chunk(chunk)
        finally:
            if tracker is not None:
                tracker.close()

    def _frames(self, frames: Iterator[RGBArray], tracker: FaceTracker | None) -> Iterator["_Frame"]:
        """The used parts of the frames, with the face in each and how its motion is used."""
        plan = self._plan
        for image in frames:
            index, self._count = self._count, self._count + 1
            part, box = cut(image, plan.crop(index)), plan.box(index)
            usable = plan.track is None or box is not None
            cue = self._presences.cue(index, usable=usable)
            if tracker is not None:
                if box is not None:
                    box = _refined(tracker, part, box)
                box = self._last_box = box or self._last_box
            yield _Frame(part, box, cue, usable)

    def _chunk(self, frames: Sequence["_Frame"]) -> Chunk:
        images = [frame.image for frame in frames]
        pictures: tuple[RGBArray, ...] = ()
        if self._keep_pictures:
            pictures = tuple(resize(image, self._preprocessor.width, self._preprocessor.height) for image in images)
        boxes = [frame.box or _whole(frame.image) for frame in frames] if self._plan.mesh else None
        driving = self._preprocessor.driving(images, boxes, cues=[frame.cue for frame in frames])
        usable = tuple(frame.usable for frame in frames)
        return Chunk(driving, pictures, usable, usable.count(False))


def shown_pictures(plan: DrivingPlan, preprocessor: Preprocessor, frames: int) -> Iterator[RGBArray]:
    """The used part of the part's first frames at the output's size, uint8 [height, width, 3] each."""
    images = read_frames(plan.info, plan.rate, plan.skip)
    for index, image in enumerate(itertools.islice(images, min(frames, plan.frames))):
        yield resize(cut(image, plan.crop(index)), preprocessor.width, preprocessor.height)


def single_frame(plan: DrivingPlan, index: int, preprocessor: Preprocessor) -> DrivingFrames:
    """One frame of the part, ready for the stream."""
    image = next(itertools.islice(read_frames(plan.info, plan.rate, plan.skip), index, None))
    part, box = cut(image, plan.crop(index)), plan.box(index)
    if not plan.mesh:
        return preprocessor.driving([part], None)
    with FaceTracker() as tracker:
        return preprocessor.driving([part], [_refined(tracker, part, box) if box else _whole(part)])


def _refined(tracker: FaceTracker, image: RGBArray, box: Box) -> Box:
    """The face's box in this very frame: the pass, which searches every other one, says whose face it is."""
    tracker.start_scene(box)
    found = tracker.follow(image)
    return found if found is not None and is_same_place(found, box) else box


@dataclass(frozen=True)
class _Frame:
    image: RGBArray
    box: Box | None
    cue: Cue
    usable: bool


def _whole(image: RGBArray) -> Box:
    return 0, 0, image.shape[1], image.shape[0]
