"""From a portrait and a driver to a video: files in, one file out, with progress on the way."""

import contextlib
import logging
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import torch
from PIL import Image

import personalive
from personalive.animate.driver import Driver, frames_of
from personalive.animate.motion_file import MotionKeeper
from personalive.animate.paste_back import PasteBack, at_rest
from personalive.animate.places import check_paths, preview_path, signer_of
from personalive.animate.plan import DrivingPlan, plan_driving, possible_here, read_portrait
from personalive.animate.preview import preview, save_preview
from personalive.animate.remarks import going_on, remarks, without_face
from personalive.animate.resume import Resume, job_of
from personalive.animate.run_ahead import RunAhead
from personalive.animate.side_by_side import SideBySide
from personalive.engine.control import MotionControl
from personalive.engine.stream import DEFAULT_RATE, Stream
from personalive.errors import DeviceMemoryError
from personalive.media.content_digest import content_digest
from personalive.media.credentials import Claim
from personalive.media.encoding import VideoFormat, is_silent
from personalive.media.mark import VisibleMark
from personalive.media.portrait import Portrait
from personalive.media.segments import Result
from personalive.media.video_writer import Seal
from personalive.media.write_ahead import write_ahead
from personalive.pipeline import PersonaLive
from personalive.settings import AnimateOptions
from personalive.types import RGBArray

logger = logging.getLogger(__name__)

T = TypeVar("T")
Stage = Literal["reading", "previewing", "finding the face", "animating", "extracting", "done"]


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
    """Animate a portrait by a driver.

    The work is done during iteration, a chunk of four frames at a time. Closing the generator stops it, frees its
    memory and removes its unfinished file. The output appears under its name only when it is complete.

    Args:
        model: the networks.
        ref_image: a picture, or a video of which the first frame with a face is taken.
        driving_video: a video, whose movement, rate and sound the result has; a `.motion` file; or a picture.
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
    seal = _seal(model, ref_image, driving_video, output, options)
    yield Progress("reading", 0, 0)
    with contextlib.ExitStack() as stack:
        resume = None
        if options.resume:
            resume = stack.enter_context(Resume(output, job_of(model, ref_image, driving_video, options)))
            if resume.is_done:
                resume.remove()
                yield Progress("done", resume.saved.frames, resume.saved.frames, message=f"{output} was complete")
                return
        portrait = read_portrait(ref_image, shape, options)
        for message in portrait.remarks:
            yield Progress("reading", 0, 0, message=message)
        if advice := model.unsuited(portrait.image, portrait.box):
            logger.warning("%s", advice)
        whole = _whole(model, portrait, shape, options) if options.paste_back else None
        if options.preview is not None and not (resume and resume.saved.frames):
            yield from _previewing(model, portrait, driving_video, output, shape, options, whole)
        tracks = resume.faces if resume and cache is None else cache
        plan = yield from staged("finding the face", plan_driving(driving_video, shape, options, tracks))
        if plan.motion is not None:
            plan.motion.check_encoder(model, driving_video)
        width, height = whole.size if whole else (shape[0] * (3 if options.side_by_side else 1), shape[1])
        video = VideoFormat(width, height, plan.rate, _comment(model, options), options.codec, options.quality)
        total = frames_of(plan, options)
        sound = plan.sound if options.audio and not (options.ping_pong or is_silent(output)) else None
        mark = VisibleMark(width, height) if options.visible_mark else None
        kept = stack.enter_context(MotionKeeper(options.save_motion)) if options.save_motion else None
        writer: Result
        if resume:
            writer = resume.open_writer(video, sound, overwrite=options.overwrite, seal=seal)
        else:
            writer = write_ahead(output, video, sound=sound, overwrite=options.overwrite, seal=seal)
        stack.enter_context(writer)
        for message in (remark, *remarks(plan, options, output), going_on(writer.frames, total)):
            yield Progress("reading", writer.frames, total, message=message)
        faceless = 0
        for frames, faceless in _generate(model, portrait, plan, shape, options, kept, resume):
            for pictures in whole.paste(frames) if whole else [frames]:
                writer.write(mark.draw(pictures) if mark else pictures)
            yield Progress("animating", writer.frames, max(total, writer.frames), faceless)
        if kept and resume:  # in this order, a run that is stopped here still knows that the motion file is its own
            resume.note_motion(kept.path)
            kept.keep()
        writer.finish()
        if kept and not resume:
            kept.keep()
        if resume:
            resume.remove()
        yield Progress("done", writer.frames, writer.frames, faceless, without_face(plan))


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
        sheet = yield from staged("previewing", preview(stream, driving_video, options, whole))
    if sheet is None:
        yield Progress("previewing", 0, 0, message="there is no preview: the frames chosen for it show no face")
        return
    if options.visible_mark:
        sheet = Image.fromarray(VisibleMark(*sheet.size).draw(np.asarray(sheet)[None])[0])
    save_preview(sheet, preview_path(output), _comment(model, options))
    yield Progress("previewing", 0, 0, message=f"preview: {preview_path(output)}")


def _whole(model: PersonaLive, portrait: Portrait, shape: tuple[int, int], options: AnimateOptions) -> PasteBack:
    with _memory_advice(model, shape):
        return PasteBack(portrait, at_rest(_stream(model, portrait, shape, DEFAULT_RATE, options), portrait))


def staged(stage: Stage, work: Generator[tuple[int, int], None, T]) -> Generator[Progress, None, T]:
    """The progress of a stage, and what comes of it."""
    while True:
        try:
            done, total = next(work)
        except StopIteration as end:
            result: T = end.value
            return result
        yield Progress(stage, done, max(done, total))


def _generate(
    model: PersonaLive,
    portrait: Portrait,
    plan: DrivingPlan,
    shape: tuple[int, int],
    options: AnimateOptions,
    kept: MotionKeeper | None,
    resume: Resume | None,
) -> Iterator[tuple[RGBArray, int]]:
    """Finished frames, uint8 [n, height, width, 3] with n ≥ 0, and the driving frames without a face so far."""
    with _memory_advice(model, shape), contextlib.ExitStack() as stack:
        stream = _stream(model, portrait, shape, float(plan.rate), options)
        driver, ahead = Driver(plan, model, stream, options), RunAhead(stream)
        beside = stack.enter_context(SideBySide(portrait.image, shape)) if options.side_by_side else None
        if resume and resume.saved.stream is not None:
            resume.load(stream)
            driver.go_on(resume.saved, beside)
        else:
            driver.begin()

        def shown(frames: RGBArray) -> tuple[RGBArray, int]:
            return beside.join(frames) if beside else frames, driver.faceless

        for frames in driver.play(ahead, beside):
            yield shown(frames)
            if resume and resume.is_due:
                yield from map(shown, ahead.settle())
                resume.save(driver.shown, driver.faceless, stream.state_dict(), driver.take_observed())
        yield from map(shown, ahead.settle())
        if kept:
            kept.write(driver.motion_file())
        yield from map(shown, stream.drain())


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


def _seal(
    model: PersonaLive, ref_image: Path, driving_video: Path, output: Path, options: AnimateOptions
) -> Seal | None:
    """What signs the finished file. Inputs are hashed now, as they are when they are used."""
    signer = signer_of(output, options)
    if signer is None:
        return None
    inputs = {"portrait": ref_image, "driver": driving_video} if options.sign_inputs else {}
    hashes = tuple((role, content_digest(path)) for role, path in inputs.items())
    return partial(signer.sign, claim=Claim(model.config.name, options.seed, personalive.__version__, hashes))


def _comment(model: PersonaLive, options: AnimateOptions) -> str:
    return f"Synthetic video: a portrait animated by PersonaLive (model {model.config.name}, seed {options.seed})"
