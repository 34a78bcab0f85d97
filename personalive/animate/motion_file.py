"""A driver's motion in a file: it drives like the video it was taken from, without a search for faces and encoders.

A `.motion` file is a safetensors file with a version in its metadata. It may come from anyone: everything in it is
bounded, and it names no path.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path, PurePath
from types import TracebackType
from typing import Any, Self, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from personalive.animate.motion_header import FORMAT, VERSION, metadata_of
from personalive.animate.replay import Recorded
from personalive.engine.motion import DriverMotion, HeadPose
from personalive.errors import InputError, OutputError
from personalive.media.content_digest import content_digest
from personalive.media.face_track import Absence, FaceTrack
from personalive.media.images import require_file
from personalive.media.part_file import PartFile, remove_abandoned
from personalive.media.video_reader import MAX_RATE, MIN_RATE
from personalive.models.fingerprint import LENGTH, matches
from personalive.pipeline import PersonaLive
from personalive.types import Box

MAX_FRAMES = 1_000_000
MAX_TOKENS = 4096
"""The most values of a frame's motion tokens, along each of two axes."""
LARGEST = 10_000.0
"""Far beyond every angle, place and token; half precision can hold it."""
MAX_SIDE = 100_000
ABSENCES: tuple[Absence, ...] = get_args(Absence)
"""In the file they are numbered from 1; 0 is a frame with the face."""
POSE = {"angles": (3,), "translation": (3,), "scale": (1,), "canonical": (21, 3)}
"""The shapes of a head's values."""


@dataclass(frozen=True)
class SoundPlace:
    """Where the sound is that belongs to the motion: in a video that may lie beside the file."""

    name: str
    """Of the video, without a folder."""
    sha256: str
    """Of its content: another video of that name is not used."""
    start: Fraction
    """Seconds from its first frame to the first frame of the motion."""

    def __post_init__(self) -> None:
        if PurePath(self.name).name != self.name or "\\" in self.name or not 0 < len(self.name) <= 255:
            raise ValueError("the sound's place is not a file name")
        if not re.fullmatch(r"[0-9a-f]{64}", self.sha256) or not 0 <= self.start <= 10**7:
            raise ValueError("the sound's place is wrong")

    def find(self, folder: Path) -> Path | None:
        """The video, if it is in that folder."""
        path = folder / self.name
        return path if path.is_file() and content_digest(path) == self.sha256 else None


@dataclass(frozen=True)
class MotionFile:
    """What a `.motion` file holds."""

    recorded: Recorded
    rate: Fraction
    """Frames a second."""
    size: tuple[int, int]
    """Width and height of the driver's pictures."""
    track: FaceTrack | None
    """Where the face was in them; None: it was not searched for."""
    neutral: int
    """The frame from which relative motion is measured; -1: it is none of these."""
    neutral_motion: DriverMotion
    """The motion of that frame, without a cue."""
    model: str
    """Name of the model whose encoder read the motion..."""
    fingerprint: tuple[float, ...]
    """...and `models.fingerprint` of it."""
    still: bool = False
    """Whether the driver was a picture."""
    sound: SoundPlace | None = None

    def part(self, frames: Sequence[int]) -> "MotionFile":
        """These frames of it, which rise; some may be repeated."""
        track = self.track
        neutral = frames.index(self.neutral) if self.neutral in frames else -1
        if track is not None:
            seen = [(place, track.absences[frame]) for place, frame in enumerate(frames) if frame in track.absences]
            starts = (next((place for place, frame in enumerate(frames) if frame >= cut), 0) for cut in track.cuts)
            cuts = tuple(sorted({start for start in starts if start}))
            boxes = tuple(track.boxes[frame] for frame in frames)
            track = FaceTrack(boxes, dict(seen), cuts, track.most_faces, neutral)
        sound = self.sound and replace(self.sound, start=self.sound.start + frames[0] / self.rate)
        return replace(self, recorded=self.recorded.at(frames), track=track, neutral=neutral, sound=sound)

    def check_encoder(self, model: PersonaLive, path: Path) -> None:
        """Refuse to drive a model whose motion encoder is another one; `path` is that of this file, for the message.

        Raises:
            InputError: as above.
        """
        encoder, shape = model.config.motion_encoder, tuple(self.recorded.motion.tokens.shape[1:])
        if not matches(self.fingerprint, model.motion_fingerprint) or shape != (encoder.tokens, encoder.token_width):
            raise InputError(
                f"the motion file {path} was made with the motion encoder of the model {self.model!r}, which is not "
                f"that of this model, {model.config.name!r}: choose that model, or make the file again from its video "
                "with --save_motion"
            )


def write_motion(file: MotionFile, path: Path) -> None:
    """Write a motion file.

    Raises:
        OSError: the disk is full, for instance.
    """
    tensors = _tensors(file.recorded.motion, "") | _tensors(file.neutral_motion, "neutral.")
    metadata = {
        "format": FORMAT,
        "version": str(VERSION),
        "rate": str(file.rate),
        "size": f"{file.size[0]}x{file.size[1]}",
        "neutral": str(file.neutral),
        "model": file.model,
        "fingerprint": json.dumps(file.fingerprint),
        "still": str(int(file.still)),
    }
    if file.track is not None:
        boxes = [box or (0, 0, 0, 0) for box in file.track.boxes]
        absences = [
            1 + ABSENCES.index(file.track.absences[frame]) if frame in file.track.absences else 0
            for frame in range(len(boxes))
        ]
        tensors |= {
            "boxes": torch.tensor(boxes, dtype=torch.int32),
            "absences": torch.tensor(absences, dtype=torch.uint8),
            "cuts": torch.tensor(file.track.cuts, dtype=torch.int64),
        }
    if file.sound is not None:
        metadata["sound"] = json.dumps([file.sound.name, file.sound.sha256, str(file.sound.start)])
    with path.open("wb") as target:  # safetensors itself would make another file, for its owner only
        target.write(save(tensors, metadata))


class MotionKeeper:
    """Keeps a driver's motion in a file that appears under its name only when it is complete; a context manager.

    Raises:
        OutputError: it cannot be written there.
    """

    def __init__(self, path: Path) -> None:
        self._given, self._target = path, Path(os.path.realpath(path))
        remove_abandoned(self._target.parent)
        self._part = PartFile(self._target)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._part.discard()

    @property
    def path(self) -> Path:
        """The file while it has another name."""
        return self._part.path

    def write(self, file: MotionFile) -> None:
        """Write it under another name.

        Raises:
            OutputError: the disk is full, for instance.
        """
        try:
            write_motion(file, self._part.path)
        except OSError as error:
            raise OutputError(f"the motion file {self._given} cannot be written: {error}") from error

    def keep(self) -> None:
        """Give it its name.

        Raises:
            OutputError: that cannot be done.
        """
        try:
            self._part.keep(self._target)
        except OSError as error:
            raise OutputError(f"the motion file {self._given} cannot be written: {error}") from error


def _tensors(motion: DriverMotion, prefix: str) -> dict[str, Tensor]:
    values = {**vars(motion.pose), "tokens": motion.tokens}
    return {f"{prefix}{name}": value.cpu().contiguous() for name, value in values.items()}


def read_motion(path: Path) -> MotionFile:
    """Read a motion file.

    Raises:
        InputError: there is none, or it is damaged, of another version, or holds what no driver does.
    """
    require_file(path, "the motion file")
    try:
        metadata = metadata_of(path)
        if metadata.get("format") == FORMAT and metadata.get("version") != str(VERSION):
            raise InputError(
                f"the motion file {path} has version {metadata.get('version')!r}, and this program reads {VERSION}: "
                "make it again from its video with --save_motion"
            )
        with safe_open(path, framework="pt") as file:
            return _parse(_Tensors(file), metadata)
    except (SafetensorError, OSError, ValueError, LookupError, TypeError, ZeroDivisionError, OverflowError) as error:
        raise InputError(f"{path} is not a motion file of this program, or it is damaged") from error


class _Tensors:
    """The tensors of a file, whose shapes, types and values are looked at before they are used."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.names = set(file.keys())

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape that the file states, of which all bytes are there."""
        return tuple(self._file.get_slice(name).get_shape())

    def floats(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Numbers that are finite, and no larger than `LARGEST`."""
        kinds = ("F32", "F16", "BF16") if name.endswith("tokens") else ("F32",)
        values = self._read(name, shape, kinds)
        if not bool((values.abs() <= LARGEST).all()):  # false for NaN
            raise ValueError(f"{name} has values that cannot be")
        return values

    def integers(self, name: str, shape: tuple[int, ...], kind: str, least: int, most: int) -> list[Any]:
        """Whole numbers from `least` to `most`."""
        values = self._read(name, shape, (kind,))
        if values.numel() and not (values.min() >= least and values.max() <= most):
            raise ValueError(f"{name} has values that cannot be")
        return list(values.tolist())

    def _read(self, name: str, shape: tuple[int, ...], kinds: Sequence[str]) -> Tensor:
        if self.shape(name) != shape or self._file.get_slice(name).get_dtype() not in kinds:
            raise ValueError(f"{name} has another shape or type")
        tensor: Tensor = self._file.get_tensor(name)
        return tensor


def _parse(tensors: _Tensors, metadata: Mapping[str, str]) -> MotionFile:
    count, *token_shape = tensors.shape("tokens")
    if not 1 <= count <= MAX_FRAMES or len(token_shape) != 2 or not all(1 <= n <= MAX_TOKENS for n in token_shape):
        raise ValueError("tokens have another shape")

    def motion(prefix: str, frames: int) -> DriverMotion:
        pose = HeadPose(**{name: tensors.floats(f"{prefix}{name}", (frames, *shape)) for name, shape in POSE.items()})
        return DriverMotion(pose, tensors.floats(f"{prefix}tokens", (frames, *token_shape)))

    neutral, rate = int(metadata["neutral"]), _fraction(metadata["rate"])
    width, height = (int(text) for text in metadata["size"].split("x"))
    still = {"0": False, "1": True}[metadata["still"]]
    fingerprint = tuple(float(number) for number in json.loads(metadata["fingerprint"]))
    if not (-1 <= neutral < count and MIN_RATE <= rate <= MAX_RATE):
        raise ValueError("the rate or the neutral frame is wrong")
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE) or (still and count != 1) or len(fingerprint) != LENGTH:
        raise ValueError("the size, the fingerprint or the number of frames is wrong")
    track = _track(tensors, count, neutral) if "boxes" in tensors.names else None
    usable = tuple(track is None or frame not in track.absences for frame in range(count))
    name, digest, start = json.loads(metadata["sound"]) if "sound" in metadata else ("", "", "")
    return MotionFile(
        Recorded(motion("", count), usable),
        rate,
        (width, height),
        track,
        neutral,
        motion("neutral.", 1),
        metadata["model"][:80],
        fingerprint,
        still,
        SoundPlace(name, digest, _fraction(start)) if name else None,
    )


def _fraction(text: str) -> Fraction:
    """A number of a few digits: others could be so long that reading them fills the memory."""
    if not re.fullmatch(r"[0-9]{1,12}(/[0-9]{1,12})?", text):
        raise ValueError("not a fraction")
    return Fraction(text)


def _track(tensors: _Tensors, count: int, neutral: int) -> FaceTrack:
    codes = tensors.integers("absences", (count,), "U8", 0, len(ABSENCES))
    (number,) = tensors.shape("cuts")
    cuts = tensors.integers("cuts", (number,), "I64", 1, count - 1)
    if cuts != sorted(set(cuts)) or all(codes):
        raise ValueError("cuts do not rise, or there is no face")
    boxes = tensors.integers("boxes", (count, 4), "I32", -MAX_SIDE, MAX_SIDE)
    seen: list[Box | None] = [None if code else tuple(box) for code, box in zip(codes, boxes, strict=True)]
    absences = {frame: ABSENCES[code - 1] for frame, code in enumerate(codes) if code}
    return FaceTrack(tuple(seen), absences, tuple(cuts), 1, neutral)
