"""The settings of an animation.

A new one is one declaration here, and appears on the surfaces that it names; `python -m scripts.write_settings` then
writes what is kept in files. What it does belongs in `animate` or `engine`.
"""

import re
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator

from personalive.config import (
    MAX_KEYFRAME_THRESHOLD,
    MAX_MOTION_STRENGTH,
    MAX_SEED,
    MAX_SIZE,
    MIN_SIZE,
    SIZE_STEP,
    SLOTS,
    STEP_CHOICES,
)
from personalive.errors import InputError
from personalive.settings.declare import Settings, Surface, setting
from personalive.types import POSE_PARTS, Crop, FaceBoxes, MotionKind, OutputFormat, PosePart, StillKind, VideoCodec

TIME = re.compile(r"(?:[0-9]{1,5}:)?(?:[0-9]{1,5}:)?[0-9]{1,9}(?:\.[0-9]{0,9})?")
EVERYWHERE = Surface.CLI | Surface.HTTP | Surface.LIVE
FILES = Surface.CLI | Surface.HTTP
"""Settings that only an animation from files has."""
MAX_FRAMES = 1_000_000
USUAL_FRAMES = 100
MAX_LOOPS = 100
MAX_PREVIEW = 16
MIN_FPS, MAX_FPS = 1, 120
MIN_DURATION, LATEST = 0.01, 86_400
"""Seconds."""

REFERENCE = "The portrait: a picture, or a video whose first face is taken"
DRIVER = "The driver: a video, whose rate and sound the result has; a picture, or a .motion file"

movement = partial(setting, group="motion", on=EVERYWHERE)
picture = partial(setting, group="picture", on=FILES)
part = partial(setting, group="part of the driver", on=FILES)
moment = partial(
    part,
    low=0,
    high=LATEST,
    text=True,
    metavar="TIME",
    details="A time is written as seconds, mm:ss.s or hh:mm:ss.s",
    pattern_text=f"seconds, mm:ss.s or hh:mm:ss.s, up to {LATEST} s",
)
credentials = partial(setting, group="files", on=Surface.CLI)
pixels = partial(
    picture, low=MIN_SIZE, high=MAX_SIZE, multiple_of=SIZE_STEP, default_text="the model's, 512 for personalive"
)


def parts_of_pose(given: Any) -> Any:
    """Parts of the pose from texts with commas, as they are typed, or from a list of them."""
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        return given  # to be refused
    named = {part.strip() for text in texts for part in text.split(",")} - {""}
    return (*(part for part in POSE_PARTS if part in named), *sorted(named - set(POSE_PARTS)))


def seconds(given: Any) -> Any:
    """Seconds from a time as it is typed: `75`, `1:15`, `0:01:15.5`."""
    if not isinstance(given, str) or not TIME.fullmatch(given.strip()):
        return given  # a number, or to be refused
    return sum(float(part) * 60**power for power, part in enumerate(reversed(given.strip().split(":"))))


def path(given: Any) -> Any:
    """A path that may be given as text."""
    return Path(given) if isinstance(given, str) and given else given


class SizeSettings(Settings):
    """Size of the result; None: the model's."""

    width: int | None = pixels(None, "Width in pixels", flags=("-W",))
    height: int | None = pixels(None, "Height in pixels", flags=("-H",))


class MotionSettings(Settings):
    """How the driver's motion becomes the portrait's: the same for files and live."""

    motion_strength: float = movement(
        1.0,
        "How far pose and expression go from the reference's (0) to the driver's (1) and beyond",
        low=0,
        high=MAX_MOTION_STRENGTH,
        step=0.05,
        label="Motion strength",
    )
    pose_strength: float | None = movement(
        None,
        "The same for the head's pose alone",
        low=0,
        high=MAX_MOTION_STRENGTH,
        label="Pose strength",
        default_text="that of motion_strength",
    )
    expression_strength: float | None = movement(
        None,
        "The same for the expression alone",
        low=0,
        high=MAX_MOTION_STRENGTH,
        label="Expression strength",
        default_text="that of motion_strength",
    )
    motion: MotionKind = movement(
        "absolute",
        "absolute: the driver's turn and expression; relative: the reference's, changed as the driver's differ from a "
        "neutral frame",
        label="Motion",
    )
    keep: Annotated[tuple[PosePart, ...], BeforeValidator(parts_of_pose)] = movement(
        (),
        f"Parts of the pose that stay the reference's: {', '.join(POSE_PARTS)}",
        details="Scale follows the driver's only in relative motion",
        label="Keep the portrait's",
        metavar="PART,PART",
        pattern_text=f"some of {', '.join(POSE_PARTS)}, with commas between them",
    )
    smooth: float = movement(
        0.0,
        "Smooth the head's pose, the more the less it moves; no frame is delayed",
        low=0,
        high=1,
        step=0.05,
        label="Smoothing",
    )
    keyframe_threshold: float | None = movement(
        None,
        "How different motion must be to keep a frame as a keyframe",
        low=0,
        high=MAX_KEYFRAME_THRESHOLD,
        label="Keyframe threshold",
        default_text="the model's, 17 for personalive",
    )
    seed: int = movement(42, "Seed of the noise", low=0, high=MAX_SEED, label="Seed")


class SigningSettings(Settings):
    """Who signs a result, so that others can check where it comes from; see `media.credentials`."""

    sign: Annotated[Path | None, BeforeValidator(path)] = credentials(
        None,
        "Sign the result with this certificate (PEM, with those between it and its authority)",
        default_text="PERSONALIVE_SIGN, or not signed",
    )
    sign_key: Annotated[Path | None, BeforeValidator(path)] = credentials(
        None, "Its private key (PEM, not encrypted)", default_text="PERSONALIVE_SIGN_KEY"
    )
    sign_inputs: bool = credentials(False, "Also sign which portrait and driver were used: their SHA-256 hashes")

    def model_post_init(self, context: Any) -> None:
        """Refuse a certificate without its key."""
        if (self.sign is None) != (self.sign_key is None):
            given, missing = ("sign", "sign_key") if self.sign_key is None else ("sign_key", "sign")
            value = str(getattr(self, given))[:80]
            raise InputError(f"{given} is {value!r}: it must be given together with {missing}")
        if self.sign_inputs and self.sign is None:
            raise InputError("sign_inputs is True: it must be left out without sign, as nothing is signed")


class AnimateOptions(MotionSettings, SizeSettings, SigningSettings):
    """What may be chosen for an animation from files; checked when made.

    Raises:
        InputError: a value that is not allowed; the message says which are.
    """

    steps: int = setting(
        4,
        "Denoising steps a frame",
        group="motion",
        on=FILES,
        low=STEP_CHOICES[0],
        high=STEP_CHOICES[-1],
        multiple_of=SLOTS,
    )
    neutral_frame: int | None = setting(
        None,
        "Frame of the driver, counted from 0, from which relative motion is measured",
        group="motion",
        on=FILES,
        low=0,
        high=MAX_FRAMES - 1,
        default_text="the one with eyes open, mouth closed and the straightest look",
    )
    still: StillKind | None = setting(
        None,
        "A picture as driver: hold its pose and expression, or ease into them over the duration",
        group="motion",
        on=FILES,
        default_text="hold; with a duration, ease",
    )
    face_boxes: FaceBoxes = setting(
        "mesh",
        "How faces are cut out: by a face mesh, or by the model's keypoints",
        group="motion",
        on=FILES,
    )
    face: str = setting(
        "largest",
        "Which of several faces: largest, left, right, or its number from the left",
        group="picture",
        on=FILES,
        pattern="largest|left|right|[1-9][0-9]?",
        pattern_text="largest, left, right or a number from 1 to 99",
        metavar="WHICH",
    )
    crop: Crop = picture("auto", "auto: around the face; center: the middle; none: everything, stretched")
    fps: float | Fraction | None = picture(
        None, "Frames a second; the duration stays", low=MIN_FPS, high=MAX_FPS, default_text="the driving video's"
    )
    paste_back: bool = picture(
        False,
        "Put the animated crop back into the whole portrait, which keeps its size; outside the crop nothing changes",
    )
    side_by_side: bool = picture(False, "Show reference, driver and result in one picture")
    visible_mark: bool = picture(False, "Draw a small mark into every frame that says it is AI-generated")
    start: Annotated[float, BeforeValidator(seconds)] = moment(0.0, "Where in the driving video the used part begins")
    duration: Annotated[float | None, BeforeValidator(seconds)] = moment(
        None, "How long the used part is", low=MIN_DURATION, default_text="the rest"
    )
    max_frames: int | None = part(
        None,
        "Driving frames to use at most; 0: all",
        low=0,
        high=MAX_FRAMES,
        flags=("-L",),
        default_text=f"{USUAL_FRAMES}; with a duration, all of it",
    )
    loop: int | None = part(
        None, "How often the part is played", low=1, high=MAX_LOOPS, default_text="once; with ping_pong, twice"
    )
    ping_pong: bool = part(False, "Play it backwards every second time, without sound")
    audio: bool = part(True, "Keep the driving video's sound", off="Leave the driving video's sound out")
    codec: VideoCodec | None = setting(
        None,
        "Codec of the picture: an MP4 takes h264, h265 and av1, a WebM vp9 and av1",
        group="files",
        on=FILES,
        default_text="the first",
    )
    quality: int | None = setting(
        None,
        "Constant rate factor of the picture: lower is better, and larger",
        group="files",
        on=FILES,
        low=0,
        high=51,
        default_text="18 for h264, 20 for h265, 24 for vp9 and av1",
    )
    save_motion: Annotated[Path | None, BeforeValidator(path)] = setting(
        None,
        "Also keep the driver's motion in this .motion file, which can drive in its place",
        group="files",
        on=Surface.CLI,
    )
    resume: bool = setting(
        False,
        "Keep the state of the job beside the output, so that the same command goes on from there if it is stopped",
        group="files",
        on=Surface.CLI,
    )
    preview: int | None = setting(
        None,
        "First write a still picture of this many frames, spread over the driver, beside the result",
        details="They are made in seconds from those frames of the driver alone, so details may differ in the result",
        group="files",
        on=Surface.CLI,
        low=1,
        high=MAX_PREVIEW,
        default_text="none",
    )
    overwrite: bool = setting(False, "Replace an existing output", group="files", on=Surface.CLI)

    def model_post_init(self, context: Any) -> None:
        """Refuse settings that would do nothing."""
        super().model_post_init(context)
        if self.neutral_frame is not None and self.motion != "relative":
            raise InputError(f"neutral_frame is {self.neutral_frame}: it must be left out unless motion is relative")
        if self.paste_back and self.side_by_side:
            raise InputError(
                "side_by_side is True: it must be left out with paste_back, as their pictures differ in size"
            )
        if self.ping_pong and self.loop == 1:
            raise InputError("ping_pong is True: it must be left out with loop 1, or loop be 2 or more")

    @property
    def limit(self) -> int:
        """The most driving frames that are used; 0: all."""
        if self.max_frames is not None:
            return self.max_frames
        return USUAL_FRAMES if self.duration is None else 0

    @property
    def passes(self) -> int:
        """How often the part is played."""
        return self.loop or (2 if self.ping_pong else 1)

    @property
    def needs_faces(self) -> bool:
        """Whether faces have to be found: for the crop, or to be cut out where the mesh finds them."""
        return self.crop == "auto" or self.face_boxes == "mesh"

    @property
    def eases(self) -> bool:
        """Whether the portrait turns into a picture that drives over the part, instead of being like it throughout."""
        return self.duration is not None if self.still is None else self.still == "ease"

    @property
    def rate(self) -> Fraction | None:
        """`fps` as a fraction that a video file can hold."""
        return None if self.fps is None else Fraction(self.fps).limit_denominator(1001)


class RequestOptions(AnimateOptions):
    """The same for an animation whose result has no name that says its kind, as over HTTP."""

    output_format: OutputFormat = setting(
        "mp4",
        "Kind of file: mp4 and webm have sound, gif and webp are animated pictures",
        group="files",
        on=Surface.HTTP,
    )
