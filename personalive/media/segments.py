"""Results that survive the program: what was written of them stays in a folder, and another run goes on from there.

A video is encoded in segments of a fixed number of frames, which are joined at the end. Of segments under way the
frames themselves are kept too, so that it does not matter where a run is stopped: encoders get the same frames again.
A result of one segment is, byte for byte, that of `VideoWriter`.
"""

import contextlib
import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import IO, Protocol, Self

import numpy as np

from personalive.errors import OutputError
from personalive.media.encoding import FRAMES_NAME, VideoFormat, check_choices, kind_of
from personalive.media.frames_writer import FramesWriter
from personalive.media.part_file import NUMBERED, PartFile, remove_abandoned
from personalive.media.sound import Sound
from personalive.media.video_writer import Seal, VideoWriter, check_output, encoder_error, run_ffmpeg, with_sound
from personalive.types import RGBArray

SEGMENT, SHORTEST_SEGMENT = 250, 25
"""Frames of a segment, and the fewest that it has where frames are very large."""
SEGMENT_BYTES = 256 << 20
"""How much of a segment's frames are kept, as long as that is not too few."""
JOINED = (".mp4", ".webm")
"""Kinds of files that can be joined without being encoded again; others are one segment."""


class Result(Protocol):
    """A result that is being written; a context manager."""

    frames: int
    """Frames that were written."""

    def __enter__(self) -> Self:
        """Nothing."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop what is running."""

    def write(self, frames: RGBArray) -> None:
        """Append frames: uint8 [n, height, width, 3]."""

    def finish(self) -> None:
        """Complete the result and give it its name."""


class Lasting(Result, Protocol):
    """A result that lasts: leaving it removes nothing."""

    def settle(self) -> None:
        """See to it that everything so far is on the disk."""

    def trim(self) -> None:
        """Remove what is not needed for going on from here, or later."""


def open_lasting(
    path: Path,
    folder: Path,
    frames: int,
    video: VideoFormat,
    *,
    sound: Sound | None,
    overwrite: bool,
    seal: Seal | None = None,
) -> Lasting:
    """A result that lasts in `folder`; other arguments and errors as for `video_writer.open_result`.

    Args:
        frames: from which it goes on; 0: a new one.
    """
    if path.name == FRAMES_NAME:
        check_choices(path, video.codec, video.quality)
        return LastingFrames(path, folder, frames, video, overwrite=overwrite)
    return SegmentedVideo(path, folder, frames, video, sound=sound, overwrite=overwrite, seal=seal)


class SegmentedVideo:
    """A file of a kind in `encoding.KINDS`; see the module."""

    def __init__(
        self,
        path: Path,
        folder: Path,
        frames: int,
        video: VideoFormat,
        *,
        sound: Sound | None,
        overwrite: bool,
        seal: Seal | None = None,
    ) -> None:
        self._target = check_output(path, overwrite)
        check_choices(path, video.codec, video.quality)
        self._path, self._folder, self._video, self._sound, self._overwrite = path, folder, video, sound, overwrite
        self._seal = seal
        self._shape = (video.height, video.width, 3)
        self._length = segment_length(path, video)
        self.frames = 0
        self._encoders: dict[int, VideoWriter] = {}
        """Of segments under way, the last of which gets frames."""
        self._kept: IO[bytes] | None = None
        remove_abandoned(folder)
        self._go_on(frames)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for encoder in self._encoders.values():
            encoder.abort()
        if self._kept is not None:
            self._kept.close()

    def write(self, frames: RGBArray) -> None:
        """See `Lasting`.

        Raises:
            OutputError: an encoder stopped, for instance because the disk is full.
        """
        while len(frames):
            number, done = divmod(self.frames, self._length)
            part, frames = frames[: self._length - done], frames[self._length - done :]
            try:
                if self._kept is None:
                    self._kept = self._frames_file(number).open("ab")
                self._kept.write(part.tobytes())
            except OSError as error:
                raise OutputError(f"{self._path} cannot be written: {error}") from error
            self._encode(number, part)

    def settle(self) -> None:
        """See `Lasting`.

        Raises:
            OutputError: the disk is full, for instance.
        """
        for number in [number for number, encoder in self._encoders.items() if self._is_encoded(number, encoder)]:
            self._encoders.pop(number).finish()
        try:
            if self._kept is not None:
                self._kept.flush()
                os.fsync(self._kept.fileno())
        except OSError as error:
            raise OutputError(f"{self._path} cannot be written: {error}") from error

    def trim(self) -> None:
        """See `Lasting`."""
        for number in range(self.frames // self._length):
            if self._segment(number).exists():
                self._frames_file(number).unlink(missing_ok=True)

    def finish(self) -> None:
        """See `Lasting`.

        Raises:
            OutputError: it cannot be written, or another program has made a file of that name in the meantime.
        """
        for number in list(self._encoders):
            self._encoders.pop(number).finish()
        part = PartFile(self._target)
        try:
            self._join(part)
            if self._sound is not None:
                part = with_sound(part, self._target, self._sound, self.frames / self._video.rate)
            if self._seal is not None:
                part = self._seal(part, self._target)
            check_output(self._path, self._overwrite)
            (self._folder / NOTE).write_text(identity(part.path))
            part.keep(self._target)
        except OSError as error:
            raise OutputError(f"{self._path} cannot be written: {error}") from error
        finally:
            part.discard()

    def _segment(self, number: int) -> Path:
        return self._folder / f"{number:05d}{self._path.suffix.lower()}"

    def _frames_file(self, number: int) -> Path:
        return self._folder / f"{number:05d}.rgb"

    def _is_encoded(self, number: int, encoder: VideoWriter) -> bool:
        return number < self.frames // self._length and encoder.is_encoded

    def _encode(self, number: int, frames: RGBArray) -> None:
        if number not in self._encoders:
            self._encoders[number] = VideoWriter(self._segment(number), self._video, overwrite=True)
        self._encoders[number].write(frames)
        self.frames += len(frames)
        if self.frames % self._length == 0:
            self._encoders[number].end()
            if self._kept is not None:
                self._kept.close()
                self._kept = None

    def _go_on(self, frames: int) -> None:
        """Take what there is of the first `frames` frames, and remove what comes after them.

        Raises:
            OutputError: something of them is missing.
        """
        whole, rest = divmod(frames, self._length)
        for path in self._folder.iterdir():
            if path.suffix in (".rgb", self._path.suffix.lower()) and path.stem.isdecimal():
                number = int(path.stem)
                if number > whole or (number == whole and (path.suffix != ".rgb" or not rest)):
                    path.unlink()
        for number in range(whole + bool(rest)):
            if self._segment(number).exists():
                self.frames += self._length
                continue
            count = self._length if number < whole else rest
            path, size = self._frames_file(number), count * int(np.prod(self._shape))
            if not path.is_file() or path.stat().st_size < size:
                raise OutputError(f"{path} is missing or too short: remove {self._folder} to start again")
            os.truncate(path, size)
            with path.open("rb") as file:
                for _ in range(count):
                    data = np.frombuffer(file.read(size // count), np.uint8)
                    self._encode(number, data.reshape(1, *self._shape))

    def _join(self, part: PartFile) -> None:
        count = -(-self.frames // self._length)
        if count == 1:
            shutil.copyfile(self._segment(0), part.path)
            return
        lines = ["ffconcat version 1.0"]
        for number in range(count):
            frames = min(self._length, self.frames - number * self._length)
            lines += [f"file {self._segment(number).name}", f"duration {float(frames / self._video.rate):.6f}"]
        listed = self._folder / "segments.ffconcat"
        listed.write_text("\n".join(lines) + "\n")
        muxer = kind_of(self._path).muxer
        arguments = ["-hide_banner", "-loglevel", "error", "-y", "-f", "concat", "-i", str(listed), "-c", "copy"]
        result = run_ffmpeg([*arguments, "-metadata", f"comment={self._video.comment}", *muxer], part)
        if result.returncode:
            raise encoder_error(self._path, result.returncode, result.stderr)


class LastingFrames(FramesWriter):
    """A folder of PNGs; see the module."""

    def __init__(self, path: Path, folder: Path, frames: int, video: VideoFormat, *, overwrite: bool) -> None:
        super().__init__(path, video, overwrite=overwrite or is_own(folder, path), part=_KeptFolder(folder))
        for picture in folder.iterdir():
            if NUMBERED.fullmatch(picture.name) and int(picture.stem) > frames:
                picture.unlink()
        self.frames = frames

    def settle(self) -> None:
        """See `Lasting`."""

    def trim(self) -> None:
        """See `Lasting`."""

    def finish(self) -> None:
        """See `Lasting`."""
        self.check()
        (self._part.path / NOTE).touch()  # from now on, pictures that are in the result's folder are this one's
        super().finish()


class _KeptFolder:
    """Takes the part of a `PartFolder`, and stays."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def place(self, name: str, target: Path) -> None:
        """Put a picture where it belongs, and keep it here."""
        with contextlib.suppress(FileNotFoundError):
            target.unlink()
        try:
            os.link(self.path / name, target)
        except OSError:  # not every file system has links
            shutil.copyfile(self.path / name, target)

    def discard(self) -> None:
        """Nothing."""


NOTE = "finished"
"""A file in the folder, made when the result is about to get its name: an identity of it, unless it is pictures."""


def is_own(folder: Path, path: Path) -> bool:
    """Whether what is in a result's place is what a run placed there before it was stopped."""
    note = folder / NOTE
    if path.name == FRAMES_NAME:
        return note.is_file()
    return path.is_file() and note.is_file() and note.read_text() == identity(path)


def identity(path: Path) -> str:
    """What stays the same when a file gets another name, and differs from that of other files."""
    found = path.stat()
    return f"{found.st_dev} {found.st_ino} {found.st_size} {found.st_mtime_ns}"


def segment_length(path: Path, video: VideoFormat) -> int:
    """Frames of a segment: the same for all runs of a job."""
    if path.suffix.lower() not in JOINED:
        return 1 << 40
    return min(SEGMENT, max(SHORTEST_SEGMENT, SEGMENT_BYTES // (3 * video.width * video.height)))
