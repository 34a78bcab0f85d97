"""From a portrait and a driving video to a video: files in, one file out, with progress on the way."""

import contextlib
from collections import deque
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from personalive.animate.driving_reader import DrivingReader, neutral_frame, resize
from personalive.animate.plan import DrivingPlan, check_paths, plan_driving, possible_here, read_portrait
from personalive.engine.control import MotionControl
from personalive.engine.stream import Stream
from personalive.errors import DeviceMemoryError
from personalive.media.face_track import Absence
from personalive.media.portrait import Portrait
from personalive.media.video_writer import VideoFormat, VideoWriter
from personalive.pipeline import PersonaLive
from personalive.settings import AnimateOptions
from personalive.types import RGBArray


@dataclass(frozen=True)
class Progress:
    """The progress of an animation."""

    stage: Literal["reading", "finding the face", "animating", "done"]
    frames_done: int
    frames_total: int
    faceless: int = 0
    """Driving frames so far without a usable face, whose motion was held."""
    message: str = ""
    """Something that the user should know, said once; otherwise empty."""


def animate(
    model: PersonaLive,
    ref_image: str | Path,
    driving_video: str | Path,
    output: str | Path,
    options: AnimateOptions | None = None,
    *,
    cache: Path | None = None,
) -> Generator[Progress, None, None]:
    """Animate a portrait by a driving video.

    The work is done during iteration, a chunk of four frames at a time. Closing the generator stops it, frees its
    memory and removes its unfinished file. The output appears under its name only when it is complete.

    Args:
        model: the networks.
        ref_image: a picture, or a video of which the first frame with a face is taken.
        driving_video: whose movement, rate and sound the result has.
        output: the `.mp4` file to make.
        options: default: `AnimateOptions()`.
        cache: folder in which positions of faces are kept for the next run with the same video; None: nowhere.

    Raises:
        InputError, NoFaceError: an input cannot be used; raised before any work, if it can be known then.
        OutputError: the output cannot be written.
        DeviceMemoryError: the device has too little memory for this size.
    """
    options, remark = possible_here(options or AnimateOptions())
    paths = Path(ref_image), Path(driving_video), Path(output)
    check_paths(*paths, options)
    return _animate(model, *paths, options, remark, cache)


def _animate(
    model: PersonaLive,
    ref_image: Path,
    driving_video: Path,
    output: Path,
    options: AnimateOptions,
    remark: str,
    cache: Path | None,
) -> Generator[Progress, None, None]:
    shape = options.width or model.config.size, options.height or model.config.size
    yield Progress("reading", 0, 0)
    portrait = read_portrait(ref_image, shape, options)
    for message in portrait.remarks:
        yield Progress("reading", 0, 0, message=message)
    plan = yield from _finding_faces(plan_driving(driving_video, shape, options, cache))
    video = VideoFormat(shape[0] * (3 if options.side_by_side else 1), shape[1], plan.rate, _comment(model, options))
    with VideoWriter(output, video, sound=plan.info if options.audio else None, overwrite=options.overwrite) as writer:
        for message in (remark, _shortened(plan), _chosen_face(plan, options), _neutral(plan, options)):
            yield Progress("reading", 0, plan.frames, message=message)
        faceless = 0
        for frames, faceless in _generate(model, portrait, plan, shape, options):
            if len(frames):
                writer.write(frames)
            yield Progress("animating", writer.frames, max(plan.frames, writer.frames), faceless)
        writer.finish()
        yield Progress("done", writer.frames, writer.frames, faceless, _without_face(plan, writer.frames))


def _finding_faces(
    search: Generator[tuple[int, int], None, DrivingPlan],
) -> Generator[Progress, None, DrivingPlan]:
    while True:
        try:
            done, total = next(search)
        except StopIteration as end:
            plan: DrivingPlan = end.value
            return plan
        yield Progress("finding the face", done, max(done, total))


def _generate(
    model: PersonaLive, portrait: Portrait, plan: DrivingPlan, shape: tuple[int, int], options: AnimateOptions
) -> Iterator[tuple[RGBArray, int]]:
    """Finished frames, uint8 [n, height, width, 3] with n ≥ 0, and the driving frames without a face so far."""
    faceless = 0
    with _memory_advice(model, shape):
        stream = _stream(model, shape, plan.rate, options)
        stream.set_reference(stream.preprocessor.reference(portrait.image, portrait.box))
        if plan.neutral is not None:
            stream.set_neutral(neutral_frame(plan, stream.preprocessor))
        beside = _SideBySide(portrait, shape) if options.side_by_side else None
        with DrivingReader(plan, stream.preprocessor, keep_pictures=beside is not None) as reader:
            for chunk in reader:
                faceless += chunk.faceless
                frames = stream.push(chunk.driving)
                if beside:
                    beside.drivers.extend(chunk.pictures)
                    frames = beside.join(frames)
                yield frames, faceless
        for frames in stream.drain():
            yield beside.join(frames) if beside else frames, faceless


class _SideBySide:
    """Joins reference, driver and result; driving pictures wait here for their results."""

    def __init__(self, portrait: Portrait, shape: tuple[int, int]) -> None:
        self._reference = resize(portrait.image, *shape)
        self.drivers: deque[RGBArray] = deque()

    def join(self, frames: RGBArray) -> RGBArray:
        """[n, height, width, 3] → [n, height, 3 · width, 3]"""
        if not len(frames):
            return frames
        rows = [np.concatenate((self._reference, self.drivers.popleft(), frame), axis=1) for frame in frames]
        return np.stack(rows)


def _stream(model: PersonaLive, shape: tuple[int, int], rate: Fraction, options: AnimateOptions) -> Stream:
    stream = model.stream(
        width=shape[0],
        height=shape[1],
        steps=options.steps,
        seed=options.seed,
        keyframe_threshold=options.keyframe_threshold,
        rate=float(rate),
    )
    stream.control = MotionControl.of(options)
    return stream


@contextlib.contextmanager
def _memory_advice(model: PersonaLive, shape: tuple[int, int]) -> Iterator[None]:
    """Turn a full device into advice, and release its memory at the end."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise DeviceMemoryError(
            f"{model.device} has too little memory for {shape[0]}x{shape[1]} pixels; choose a smaller --width and "
            "--height, use --low_memory, or close other programs that use it"
        ) from error
    finally:
        if model.device.type == "cuda":
            torch.cuda.empty_cache()


def _comment(model: PersonaLive, options: AnimateOptions) -> str:
    return f"Synthetic video: a portrait animated by PersonaLive (model {model.config.name}, seed {options.seed})"


def _shortened(plan: DrivingPlan) -> str:
    there = plan.info.frames_at(plan.rate)
    return f"{plan.frames} of {there} frames used" if plan.frames < there else ""


def _chosen_face(plan: DrivingPlan, options: AnimateOptions) -> str:
    if plan.track is None or plan.track.most_faces < 2:
        return ""
    box = next(box for box in plan.track.boxes if box is not None)
    place = round(100 * (box[0] + box[2]) / 2 / plan.info.width)
    return (
        f"the driver shows {plan.track.most_faces} faces: the one at {place} % of the width ({options.face}) drives; "
        "for another, set --face to left, right or a number"
    )


def _neutral(plan: DrivingPlan, options: AnimateOptions) -> str:
    if plan.neutral is None or options.neutral_frame is not None:
        return ""
    return f"relative motion is measured from frame {plan.neutral}; for another, set --neutral_frame"


def _without_face(plan: DrivingPlan, frames: int) -> str:
    if plan.track is None or not plan.track.absences:
        return ""
    reasons: dict[Absence, str] = {
        "left": "the face had left the picture",
        "none": "no face was seen",
        "other": "only another person was seen",
    }
    parts = [f"{count} where {text}" for reason, text in reasons.items() if (count := plan.track.count(reason))]
    return f"the last motion was held in {len(plan.track.absences)} of {frames} driving frames: {', '.join(parts)}"
