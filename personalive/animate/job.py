"""From a portrait and a driving video to a video: files in, one file out, with progress on the way."""

import contextlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal, TypeVar

import torch

from personalive.animate.driving_reader import DrivingReader, neutral_frame
from personalive.animate.paste_back import PasteBack, at_rest
from personalive.animate.plan import (
    DrivingPlan,
    check_paths,
    plan_driving,
    possible_here,
    preview_path,
    read_portrait,
)
from personalive.animate.preview import preview, save_preview
from personalive.animate.replay import Presences, Recorded, length, order
from personalive.animate.run_ahead import RunAhead
from personalive.animate.side_by_side import SideBySide
from personalive.engine.control import MotionControl
from personalive.engine.motion import DriverMotion
from personalive.engine.stream import DEFAULT_RATE, Stream
from personalive.errors import DeviceMemoryError
from personalive.media.encoding import VideoFormat, is_silent
from personalive.media.face_track import Absence
from personalive.media.portrait import TURNS, Portrait
from personalive.media.sound import Sound
from personalive.media.write_ahead import write_ahead
from personalive.pipeline import PersonaLive
from personalive.settings import AnimateOptions
from personalive.types import RGBArray

T = TypeVar("T")
Stage = Literal["reading", "previewing", "finding the face", "animating", "done"]


@dataclass(frozen=True)
class Progress:
    """The progress of an animation."""

    stage: Stage
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
        output: the file to make: `.mp4`, `.webm`, `.gif` or `.webp`, or `FOLDER/%05d.png` for pictures.
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
    whole = _whole(model, portrait, shape, options) if options.paste_back else None
    if options.preview is not None:
        yield from _previewing(model, portrait, driving_video, output, shape, options, whole)
    plan = yield from _stage("finding the face", plan_driving(driving_video, shape, options, cache))
    width, height = whole.size if whole else (shape[0] * (3 if options.side_by_side else 1), shape[1])
    video = VideoFormat(width, height, plan.rate, _comment(model, options), options.codec, options.quality)
    total = length(plan.frames, options.passes, ping_pong=options.ping_pong)
    sound = None
    if options.audio and plan.info.sound is not None and not (options.ping_pong or is_silent(output)):
        part = plan.skip / plan.rate, plan.frames / plan.rate
        sound = Sound(plan.info, *part, passes=options.passes)
    with write_ahead(output, video, sound=sound, overwrite=options.overwrite) as writer:
        remarks = (
            *(remark, _turned(plan), _shortened(plan, options)),
            *(_silent(plan, options, output), _chosen_face(plan, options)),
        )
        for message in (*remarks, _neutral(plan, options)):
            yield Progress("reading", 0, total, message=message)
        faceless = 0
        for frames, faceless in _generate(model, portrait, plan, shape, options):
            for pictures in whole.paste(frames) if whole else [frames]:
                writer.write(pictures)
            yield Progress("animating", writer.frames, max(total, writer.frames), faceless)
        writer.finish()
        yield Progress("done", writer.frames, writer.frames, faceless, _without_face(plan))


def _previewing(
    model: PersonaLive,
    portrait: Portrait,
    driving_video: Path,
    output: Path,
    shape: tuple[int, int],
    options: AnimateOptions,
    whole: PasteBack | None,
) -> Generator[Progress, None, None]:
    with _memory_advice(model, shape):
        stream = _stream(model, portrait, shape, DEFAULT_RATE, options)
        sheet = yield from _stage("previewing", preview(stream, driving_video, options, whole))
    if sheet is None:
        yield Progress("previewing", 0, 0, message="there is no preview: the frames chosen for it show no face")
        return
    save_preview(sheet, preview_path(output), _comment(model, options))
    yield Progress("previewing", 0, 0, message=f"preview: {preview_path(output)}")


def _whole(model: PersonaLive, portrait: Portrait, shape: tuple[int, int], options: AnimateOptions) -> PasteBack:
    with _memory_advice(model, shape):
        return PasteBack(portrait, at_rest(_stream(model, portrait, shape, DEFAULT_RATE, options), portrait))


def _stage(stage: Stage, work: Generator[tuple[int, int], None, T]) -> Generator[Progress, None, T]:
    """The progress of a stage, and what comes of it."""
    while True:
        try:
            done, total = next(work)
        except StopIteration as end:
            result: T = end.value
            return result
        yield Progress(stage, done, max(done, total))


def _generate(
    model: PersonaLive, portrait: Portrait, plan: DrivingPlan, shape: tuple[int, int], options: AnimateOptions
) -> Iterator[tuple[RGBArray, int]]:
    """Finished frames, uint8 [n, height, width, 3] with n ≥ 0, and the driving frames without a face so far."""
    faceless = 0
    presences = Presences(plan.rate, () if plan.track is None else plan.track.cuts, plan.neutral_scene)
    with _memory_advice(model, shape), contextlib.ExitStack() as stack:
        stream = _stream(model, portrait, shape, float(plan.rate), options)
        if plan.neutral is not None:
            stream.set_neutral(neutral_frame(plan, stream.preprocessor))
        beside = stack.enter_context(SideBySide(portrait.image, shape)) if options.side_by_side else None
        ahead = RunAhead(stream)
        observed: list[DriverMotion] = []
        usable: list[bool] = []
        with DrivingReader(plan, stream.preprocessor, presences, keep_pictures=beside is not None) as reader:
            for chunk in reader:
                faceless += chunk.faceless
                motion, frames = ahead.drive(chunk.driving)
                if options.passes > 1:
                    observed.append(motion.to("cpu"))
                    usable += chunk.usable
                if beside:
                    beside.add(chunk.pictures)
                yield beside.join(frames) if beside else frames, faceless
        if observed:
            recorded = Recorded.of(observed, usable)
            indices = list(order(len(recorded), options.passes, ping_pong=options.ping_pong))
            if beside:
                beside.show_in_order(indices)
            for again in recorded.chunks(indices[len(recorded) :], presences):
                frames = ahead.push(again.to(model.device))
                yield beside.join(frames) if beside else frames, faceless
        for frames in ahead.drain():
            yield beside.join(frames) if beside else frames, faceless


def _stream(
    model: PersonaLive, portrait: Portrait, shape: tuple[int, int], rate: float, options: AnimateOptions
) -> Stream:
    stream = model.stream(
        width=shape[0],
        height=shape[1],
        steps=options.steps,
        seed=options.seed,
        keyframe_threshold=options.keyframe_threshold,
        rate=rate,
    )
    stream.control = MotionControl.of(options)
    stream.set_reference(stream.preprocessor.reference(portrait.image, portrait.box))
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


def _turned(plan: DrivingPlan) -> str:
    quarters = plan.info.quarters
    return f"the driver's face is not upright: the video was turned by {TURNS[quarters]}" if quarters else ""


def _shortened(plan: DrivingPlan, options: AnimateOptions) -> str:
    there = plan.info.frames_at(plan.rate) - plan.skip
    if options.duration is not None:
        wanted = Fraction(options.duration) * plan.rate
        if there < round(wanted):
            return f"the driving video ends {float((wanted - there) / plan.rate):.2f} s before the part does"
        there = round(wanted)
    return f"{plan.frames} of {there} frames used" if plan.frames < there else ""


def _silent(plan: DrivingPlan, options: AnimateOptions, output: Path) -> str:
    if not options.audio or plan.info.sound is None:
        return ""
    if is_silent(output):
        return "the result has no sound, as such files have none"
    if options.ping_pong:
        return "the result has no sound, as it would be played backwards every second time"
    return ""


def _chosen_face(plan: DrivingPlan, options: AnimateOptions) -> str:
    if plan.track is None or plan.track.most_faces < 2:
        return ""
    box = next(box for box in plan.track.boxes if box is not None)
    place = round(100 * (box[0] + box[2]) / 2 / plan.info.width)
    return (
        f"the driver shows {plan.track.most_faces} faces: the one at {place} % of the width ({options.face}) drives; "
        "for another, set face to left, right or a number"
    )


def _neutral(plan: DrivingPlan, options: AnimateOptions) -> str:
    if plan.neutral is None or options.neutral_frame is not None:
        return ""
    return f"relative motion is measured from frame {plan.neutral}; for another, set neutral_frame"


def _without_face(plan: DrivingPlan) -> str:
    if plan.track is None or not plan.track.absences:
        return ""
    reasons: dict[Absence, str] = {
        "left": "the face had left the picture",
        "none": "no face was seen",
        "other": "only another person was seen",
    }
    parts = [f"{count} where {text}" for reason, text in reasons.items() if (count := plan.track.count(reason))]
    held = f"{len(plan.track.absences)} of {len(plan.track.boxes)} driving frames"
    return f"the last motion was held in {held}: {', '.join(parts)}"
