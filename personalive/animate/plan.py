"""What an animation is made from, found before any model is needed: the portrait, and the part of the driver."""

import itertools
from collections import Counter
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from personalive.animate.track_cache import read_track, track_path, write_track
from personalive.errors import FaceTooSmallError, InputError, NoFaceError, OutputError
from personalive.extras import missing
from personalive.media.crop import crop_box, cut, within
from personalive.media.encoding import FRAMES_NAME, check_choices
from personalive.media.face_track import FaceTrack, crop_path, track_face
from personalive.media.faces import NO_FACES, FaceTracker, is_blank
from personalive.media.images import (
    FORMATS_TEXT,
    LARGE_SIDE,
    MAX_SIDE,
    is_gif,
    is_image,
    read_images,
    require_file,
)
from personalive.media.portrait import Portrait, PortraitFinder, find_portrait, first_shown
from personalive.media.transform import moved
from personalive.media.video_reader import VideoInfo, probe, read_frames
from personalive.media.video_writer import check_folder, check_output
from personalive.settings import AnimateOptions
from personalive.types import Box

SIDE = 512
"""Pixels of an output whose size the model will choose: until then only its shape matters."""
LOOKS, LOOK_SECONDS = 3, 2
"""Frames, from the first seconds that are used, by which it is judged whether the driver is upright."""
CHECKED = 500
"""Driving frames in which the first face must be for the driver to be refused at once."""


@dataclass(frozen=True)
class DrivingPlan:
    """Which part of a driving video is used, in time and in the picture."""

    info: VideoInfo
    rate: Fraction
    """Frames a second of the result."""
    skip: int
    """Frames before the part that is used."""
    frames: int
    """Frames of the part, as far as the file says beforehand; other numbers of frames count from its first one."""
    crops: tuple[Box, ...]
    """The part of each frame that is used; the last one stays."""
    track: FaceTrack | None = None
    """Where the face is in each frame; None: it was not searched for, and motion is taken from every frame."""
    mesh: bool = True
    """Whether faces are cut out where the mesh finds them, not by keypoints."""
    neutral: int | None = None
    """The frame from which relative motion is measured; None: motion is absolute."""

    def crop(self, frame: int) -> Box:
        """The part of a frame that is used."""
        return self.crops[min(frame, len(self.crops) - 1)]

    @property
    def neutral_scene(self) -> range | None:
        """The frames of the scene of the neutral one; None: there is none."""
        if self.neutral is None:
            return None
        bounds = [0, *(self.track.cuts if self.track else ()), self.frames]
        start = max(bound for bound in bounds[:-1] if bound <= self.neutral)
        return range(start, min(bound for bound in bounds[1:] if bound > self.neutral))

    def box(self, frame: int) -> Box | None:
        """Where the face is in that part, as the pass found it; None: it is not there."""
        if self.track is None or frame >= len(self.track.boxes):
            return None
        box = self.track.boxes[frame]
        return None if box is None else within(box, self.crop(frame))


def read_portrait(path: Path, shape: tuple[int, int], options: AnimateOptions) -> Portrait:
    """Read the reference: a picture, or the first frame with a face of a video.

    Args:
        path: of the picture or video.
        shape: width and height of the output.

    Raises:
        InputError: it cannot be read.
        NoFaceError: it shows no face.
    """
    side = LARGE_SIDE if options.crop == "auto" or options.paste_back else MAX_SIDE
    with closing(read_images(path, side) if is_image(path) else read_frames(_probe_reference(path))) as images:
        if options.face_boxes == "keypoints" and options.crop != "auto":
            image, remarks = first_shown(images)
            part = crop_box((image.shape[1], image.shape[0]), shape, options.crop, None)
            return Portrait(cut(image, part), None, remarks, image, moved(*part[:2]))
        found = find_portrait(images, shape, options.crop, options.face, f"the reference {path}")
    return found if options.face_boxes == "mesh" else replace(found, box=None)


def plan_driving(
    path: Path, shape: tuple[int, int], options: AnimateOptions, cache: Path | None
) -> Generator[tuple[int, int], None, DrivingPlan]:
    """Look through the part of a driving video that will be used, and find the face in it.

    Args:
        path: of the video.
        shape: width and height of the output.
        cache: folder in which tracks of faces are kept; None: they are not.

    Yields:
        Frames that have been searched, and their number.

    Raises:
        InputError: it cannot be read.
        NoFaceError: none of the frames that would be used shows a face.
    """
    info = probe_driver(path)
    rate = options.rate or info.rate
    skip, frames = part_of(info, rate, options)
    info = upright(info, rate, skip, frames, options)
    relative = options.motion == "relative"
    size = info.width, info.height
    whole = None if options.crop == "auto" else crop_box(size, shape, options.crop, None)
    if options.face_boxes == "keypoints" and whole is not None:
        neutral = (options.neutral_frame or 0) if relative else None
        return DrivingPlan(info, rate, skip, frames, (whole,), mesh=False, neutral=neutral)
    kept = (
        None
        if cache is None
        else track_path(cache, path, f"{rate} {skip} {frames} {options.face} {whole} {info.quarters}")
    )
    track = None if kept is None else read_track(kept)
    if track is None:
        track = yield from _search(info, rate, skip, frames, whole, options.face)
        if kept is not None:
            write_track(kept, track)
    if not track.seen:
        raise NoFaceError(f"no face was found in the {frames} frames of the driving video {path} that would be used")
    crops = tuple(crop_path(track, size, shape, rate)) if whole is None else (whole,)
    neutral = track.neutral if options.neutral_frame is None else options.neutral_frame
    if relative and neutral in track.absences:
        raise NoFaceError(f"neutral_frame is {neutral}: that frame of the driving video shows no face; choose another")
    mesh = options.face_boxes == "mesh"
    return DrivingPlan(info, rate, skip, frames, crops, track, mesh=mesh, neutral=neutral if relative else None)


def upright(info: VideoInfo, rate: Fraction, skip: int, frames: int, options: AnimateOptions) -> VideoInfo:
    """The video turned so that its driver is upright, as a phone that lay flat may not have stored it.

    Args:
        info: of the file.
        rate: frames a second of the result.
        skip: frames at this rate before the part that is used.
        frames: in it.
    """
    if options.face_boxes == "keypoints" and options.crop != "auto":
        return info
    step = max(1, min(frames, round(LOOK_SECONDS * rate)) // LOOKS)
    seen = itertools.islice(read_frames(info, rate, skip), 0, step * LOOKS, step)
    with PortraitFinder(options.face) as finder:
        turns = [turn for image in seen if (turn := finder.turn(image)) is not None]
    return info.turned(Counter(turns).most_common(1)[0][0]) if turns else info


def part_of(info: VideoInfo, rate: Fraction, options: AnimateOptions) -> tuple[int, int]:
    """The part of a driving video that is used: frames before it, and in it.

    Raises:
        InputError: the video ends before it begins, or it does not have the neutral frame.
    """
    there, skip = info.frames_at(rate), round(Fraction(options.start) * rate)
    if skip >= there:
        raise InputError(
            f"start is {options.start:g} s: the driving video {info.path} has only {float(info.duration):.2f} s"
        )
    frames = there - skip
    if options.duration is not None:
        frames = min(frames, max(1, round(Fraction(options.duration) * rate)))
    frames = min(frames, options.limit or frames)
    if options.neutral_frame is not None and options.neutral_frame >= frames:
        raise InputError(
            f"neutral_frame is {options.neutral_frame}: it must be from 0 to {frames - 1}, as {frames} frames are used"
        )
    return skip, frames


def _search(
    info: VideoInfo, rate: Fraction, skip: int, frames: int, whole: Box | None, which: str
) -> Generator[tuple[int, int], None, FaceTrack]:
    with FaceTracker(which) as tracker:
        images = itertools.islice(read_frames(info, rate, skip), frames)
        shown = images if whole is None else (cut(image, whole) for image in images)
        for found in track_face(shown, tracker):
            if isinstance(found, FaceTrack):
                return found if whole is None else found.moved(whole[0], whole[1])
            yield found, frames
    raise AssertionError("a search ends with a track")


def probe_driver(path: Path) -> VideoInfo:
    """Look through a driving video without decoding it.

    Raises:
        InputError: it is not a readable video; the message says what it is.
    """
    if is_image(path) and not is_gif(path):
        with closing(read_images(path)) as images:
            if len(list(itertools.islice(images, 2))) > 1:
                raise InputError(
                    f"the driving video {path} is an animated picture that cannot drive: convert it to an MP4 or a GIF"
                )
        raise InputError(
            f"the driving video {path} is a picture: motion comes from a video, such as an MP4 of someone talking"
        )
    return probe(path)


def possible_here(options: AnimateOptions) -> tuple[AnimateOptions, str]:
    """The options that can be followed here, and a sentence for the user if they differ."""
    if not missing("faces") or (options.face_boxes == "keypoints" and options.crop != "auto"):
        return options, ""
    crop = "center" if options.crop == "auto" else options.crop
    return options.replace(face_boxes="keypoints", crop=crop), NO_FACES


def check_paths(ref_image: Path, driving_video: Path, output: Path, options: AnimateOptions) -> None:
    """Refuse missing files and an output that may not be created.

    Raises:
        InputError: an input is not a readable file.
        OutputError: the output exists, is an input, or has a name that cannot be used.
    """
    require_file(ref_image, "the reference")
    require_file(driving_video, "the driving video")
    check_output(output, options.overwrite)
    check_choices(output, options.codec, options.quality)
    if options.preview is not None and not options.overwrite and preview_path(output).exists():
        raise OutputError(
            f"the preview {preview_path(output)} already exists; choose another output or allow it with --overwrite"
        )
    for source in (ref_image, driving_video):
        if output.exists() and output.samefile(source):
            raise OutputError(f"the output {output} is one of the inputs; choose another name")


def preview_path(output: Path) -> Path:
    """Where the preview of an output is written: beside it."""
    return output.with_name("preview.png" if output.name == FRAMES_NAME else f"{output.stem}.preview.png")


def check_inputs(ref_image: Path, driving_video: Path, output: Path, options: AnimateOptions) -> None:
    """Refuse, before a model is loaded, everything that is known to fail without one.

    Both inputs are checked, and a face is searched for in the portrait, and in the driver until the first one is found.

    Raises:
        InputError, NoFaceError: an input cannot be used.
        OutputError: the output cannot be written.
    """
    check_paths(ref_image, driving_video, output, options)
    check_folder(output, check_output(output, options.overwrite))
    options, _ = possible_here(options)
    shape = options.width or SIDE, options.height or SIDE
    info = probe_driver(driving_video)
    rate = options.rate or info.rate
    skip, count = part_of(info, rate, options)
    read_portrait(ref_image, shape, options)
    if options.face_boxes == "keypoints" and options.crop != "auto":
        return
    if _shows_face(info, rate, skip, 1) or upright(info, rate, skip, count, options).quarters:
        return
    if _shows_face(info, rate, skip, min(count, CHECKED)) or count > CHECKED:  # of a long driver, the pass will tell
        return
    _refuse_small_face(driving_video, info, rate, skip)
    raise NoFaceError(f"no face was found in the part of the driving video {driving_video} that would be used")


def _shows_face(info: VideoInfo, rate: Fraction, skip: int, count: int) -> bool:
    """Whether a face is found in the first driving frames, as the pass would find it."""
    with FaceTracker() as tracker:
        frames = itertools.islice(read_frames(info, rate, skip), count)
        return any(not is_blank(image) and tracker.follow(image) is not None for image in frames)


def _refuse_small_face(path: Path, info: VideoInfo, rate: Fraction, skip: int) -> None:
    """Say so if the first frame shows one that is too small to be followed.

    Raises:
        FaceTooSmallError
    """
    image = next(read_frames(info, rate, skip))
    with FaceTracker() as tracker:
        found = tracker.search(image)
    if found:
        raise FaceTooSmallError(
            f"the driving video {path}: face too small: {found[0].side} of {min(image.shape[:2])} pixels; use a video "
            "from nearer, or crop it"
        )


def _probe_reference(path: Path) -> VideoInfo:
    try:
        return probe(path)
    except InputError as error:
        raise InputError(f"the reference is neither a picture ({FORMATS_TEXT}) nor a video: {error}") from error
