"""What an animation is made from, found before any model is needed: the portrait, and the part of the driver."""

import itertools
from collections import Counter
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from personalive.animate.motion_file import MotionFile, read_motion
from personalive.animate.motion_header import is_motion
from personalive.animate.replay import Cues, Easing, Presences
from personalive.animate.track_cache import read_track, track_path, write_track
from personalive.errors import InputError, NoFaceError
from personalive.extras import missing
from personalive.media.crop import crop_box, cut, within
from personalive.media.face_track import FaceTrack, crop_path, track_face
from personalive.media.faces import NO_FACES, FaceTracker
from personalive.media.images import (
    FORMATS_TEXT,
    LARGE_SIDE,
    MAX_SIDE,
    is_animated,
    is_gif,
    is_image,
    read_images,
)
from personalive.media.portrait import Portrait, PortraitFinder, find_portrait, first_shown
from personalive.media.sound import Sound
from personalive.media.transform import moved
from personalive.media.video_reader import DEFAULT_RATE, VideoInfo, probe, probe_picture, read_frames
from personalive.settings import AnimateOptions
from personalive.types import Box

LOOKS, LOOK_SECONDS = 3, 2
"""Frames, from the first seconds that are used, by which it is judged whether the driver is upright."""
STILL_SECONDS = 4
"""How long a picture drives if nothing is said."""


@dataclass(frozen=True)
class DrivingPlan:
    """Which part of a driver is used, in time and in the picture."""

    info: VideoInfo
    """Of the driver; that of a motion file describes the video it was made from."""
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
    """The frame from which relative motion is measured, -1 for one outside the part; None: motion is absolute."""
    sound: Sound | None = None
    """The part's sound; None: there is none."""
    motion: MotionFile | None = None
    """The part's motion, if it comes from a motion file; then there are no pictures."""

    def cues(self, options: AnimateOptions) -> Cues:
        """Says how the motion of each frame is used, as the part is played."""
        if self.info.still and options.eases:
            return Easing(self.frames)
        return Presences(self.rate, () if self.track is None else self.track.cuts, self.neutral_scene)

    def is_usable(self, frame: int) -> bool:
        """Whether a frame shows the face that drives, as far as is known."""
        return self.track is None or frame >= len(self.track.boxes) or frame not in self.track.absences

    def crop(self, frame: int) -> Box:
        """The part of a frame that is used."""
        return self.crops[min(frame, len(self.crops) - 1)]

    @property
    def neutral_scene(self) -> range | None:
        """The frames of the scene of the neutral one; None: there is none."""
        if self.neutral is None or self.neutral < 0:
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
        if not options.needs_faces:
            image, remarks = first_shown(images)
            part = crop_box((image.shape[1], image.shape[0]), shape, options.crop, None)
            return Portrait(cut(image, part), None, remarks, image, moved(*part[:2]))
        found = find_portrait(images, shape, options.crop, options.face, f"the reference {path}")
    return found if options.face_boxes == "mesh" else replace(found, box=None)


def plan_driving(
    path: Path, shape: tuple[int, int], options: AnimateOptions, cache: Path | None
) -> Generator[tuple[int, int], None, DrivingPlan]:
    """Look through the part of a driver that will be used, and find the face in it.

    Args:
        path: of the video, picture or motion file.
        shape: width and height of the output.
        cache: folder in which tracks of faces are kept; None: they are not.

    Yields:
        Frames that have been searched, and their number.

    Raises:
        InputError: it cannot be read.
        NoFaceError: none of the frames that would be used shows a face.
    """
    if is_motion(path):
        return plan_motion(path, options)
    info = probe_driver(path, options)
    rate = options.rate or info.rate
    skip, frames = part_of(info, rate, options)
    sound = None if info.sound is None else Sound(info, skip / rate, frames / rate, options.passes)
    info = upright(info, rate, skip, frames, options)
    relative = options.motion == "relative"
    size = info.width, info.height
    whole = None if options.crop == "auto" else crop_box(size, shape, options.crop, None)
    if options.face_boxes == "keypoints" and whole is not None:
        neutral = (options.neutral_frame or 0) if relative else None
        return DrivingPlan(info, rate, skip, frames, (whole,), mesh=False, neutral=neutral, sound=sound)
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
        part = "" if info.still else f"the {frames} frames that would be used of "
        raise NoFaceError(f"no face was found in {part}the driver {path}")
    crops = tuple(crop_path(track, size, shape, rate)) if whole is None else (whole,)
    neutral = track.neutral if options.neutral_frame is None else options.neutral_frame
    if relative and neutral in track.absences:
        raise NoFaceError(f"neutral_frame is {neutral}: that frame of the driving video shows no face; choose another")
    mesh = options.face_boxes == "mesh"
    measured = neutral if relative else None
    return DrivingPlan(info, rate, skip, frames, crops, track, mesh=mesh, neutral=measured, sound=sound)


def plan_motion(path: Path, options: AnimateOptions) -> DrivingPlan:
    """The part of a motion file that will be used.

    Raises:
        InputError: it cannot be read, or the options ask for what it does not have.
        NoFaceError: there is no face in the part, or in the neutral frame.
    """
    file = read_motion(path)
    info = motion_info(path, file, options)
    rate = options.rate or info.rate
    skip, frames = part_of(info, rate, options)
    last = len(file.recorded) - 1
    part = file.part([min(int(Fraction(2 * (skip + n) + 1, 2) / rate * file.rate), last) for n in range(frames)])
    if not any(part.recorded.usable):
        raise NoFaceError(f"no face was seen in the {frames} frames that would be used of the motion file {path}")
    neutral = part.neutral
    if options.neutral_frame is not None:
        neutral = options.neutral_frame
        if not part.recorded.usable[neutral]:
            raise NoFaceError(f"neutral_frame is {neutral}: the driver shows no face there; choose another")
        part = replace(part, neutral=neutral, neutral_motion=part.recorded.at([neutral]).motion)
    found = None if part.sound is None else part.sound.find(path.parent)
    sound = None
    if part.sound is not None and found is not None and (source := probe(found)).sound is not None:
        sound = Sound(source, part.sound.start, frames / rate, options.passes)
    measured = neutral if options.motion == "relative" else None
    return DrivingPlan(info, rate, skip, frames, (), part.track, neutral=measured, sound=sound, motion=part)


def motion_info(path: Path, file: MotionFile, options: AnimateOptions) -> VideoInfo:
    """A motion file as if it were the video or the picture that it was made from."""
    duration = _still_seconds(options) if file.still else len(file.recorded) / file.rate
    zero = Fraction(0)
    return VideoInfo(path, *file.size, file.rate, duration, zero, zero, None, still=file.still)


def _still_seconds(options: AnimateOptions) -> Fraction:
    return Fraction(STILL_SECONDS if options.duration is None else options.duration)


def upright(info: VideoInfo, rate: Fraction, skip: int, frames: int, options: AnimateOptions) -> VideoInfo:
    """The video turned so that its driver is upright, as a phone that lay flat may not have stored it.

    Args:
        info: of the file.
        rate: frames a second of the result.
        skip: frames at this rate before the part that is used.
        frames: in it.
    """
    if not options.needs_faces:
        return info
    step = max(1, min(frames, round(LOOK_SECONDS * rate)) // LOOKS)
    seen = itertools.islice(read_frames(info, rate, skip), 0, step * LOOKS, step)
    with PortraitFinder(options.face) as finder:
        turns = [turn for image in seen if (turn := finder.turn(image)) is not None]
    return info.turned(Counter(turns).most_common(1)[0][0]) if turns else info


def part_of(info: VideoInfo, rate: Fraction, options: AnimateOptions) -> tuple[int, int]:
    """The part of a driving video that is used: frames before it, and in it.

    Raises:
        InputError: the video ends before it begins, it does not have the neutral frame, or something is asked of a
            picture that only a video has, or the other way round.
    """
    if info.still and (options.start or options.motion == "relative"):
        name = "start" if options.start else "motion"
        raise InputError(f"{name} is {getattr(options, name)}: it must be left out, as the driver {info.path} is still")
    if options.still is not None and not info.still:
        raise InputError(f"still is {options.still}: it must be left out, as the driver {info.path} is no picture")
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


def probe_driver(path: Path, options: AnimateOptions) -> VideoInfo:
    """Look through a driver that is a video, without decoding it, or a picture.

    Raises:
        InputError: it is neither, or cannot be read; the message says what it is.
    """
    if is_image(path):
        animated = is_animated(path)
        if animated and not is_gif(path):
            raise InputError(
                f"the driving video {path} is an animated picture that cannot drive: convert it to an MP4 or a GIF"
            )
        if not animated:
            return probe_picture(path, DEFAULT_RATE, _still_seconds(options))
    return probe(path)


def possible_here(options: AnimateOptions) -> tuple[AnimateOptions, str]:
    """The options that can be followed here, and a sentence for the user if they differ."""
    if not (options.needs_faces and missing("faces")):
        return options, ""
    crop = "center" if options.crop == "auto" else options.crop
    return options.replace(face_boxes="keypoints", crop=crop), NO_FACES


def _probe_reference(path: Path) -> VideoInfo:
    try:
        return probe(path)
    except InputError as error:
        raise InputError(f"the reference is neither a picture ({FORMATS_TEXT}) nor a video: {error}") from error
