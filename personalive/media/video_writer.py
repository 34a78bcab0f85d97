"""The result as a file, made by ffmpeg from frames in a pipe, with the sound of the driving video.

Everything is written beside the output under another name and renamed when it is complete.
"""

import contextlib
import logging
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from personalive.errors import OutputError
from personalive.media.encoding import (
    FRAMES_NAME,
    VideoFormat,
    check_choices,
    encode_arguments,
    kind_of,
    write_comment,
)
from personalive.media.ffmpeg import find_ffmpeg
from personalive.media.frames_writer import FramesWriter, check_frames
from personalive.media.part_file import PartFile, remove_abandoned
from personalive.media.sound import Sound, join_arguments
from personalive.types import RGBArray

logger = logging.getLogger(__name__)

Seal = Callable[[PartFile, Path], PartFile]
"""Makes a signed file of a finished one, given the name that it will have; see `media.credentials.Signer.sign`."""

_FULL_DISK = re.compile(r"No space left on device|File too large|Disk quota exceeded", re.IGNORECASE)


class VideoWriter:
    """Writes one file of a kind in `encoding.KINDS`; a context manager.

    Unless `finish` was called, leaving it removes everything that was written.

    Args:
        path: the file to make; its folder is created if missing.
        video: size, rate and comment.
        sound: what is added; None: silent.
        overwrite: whether an existing file may be replaced.
        seal: signs the finished file; None: it is not signed.

    Raises:
        OutputError: another name, a folder, an existing file, or a place that cannot be written; or there is no
            ffmpeg, or it lacks the encoder.
    """

    def __init__(
        self,
        path: Path,
        video: VideoFormat,
        *,
        sound: Sound | None = None,
        overwrite: bool = False,
        seal: Seal | None = None,
    ) -> None:
        self._target = check_output(path, overwrite)
        check_choices(path, video.codec, video.quality)
        self.path, self._kind = path, kind_of(path)
        self.frames = 0
        self._video = video
        self._sound = sound
        self._overwrite = overwrite
        self._seal = seal
        self._ffmpeg = find_ffmpeg()
        remove_abandoned(self._target.parent)
        self._part = PartFile(self._target)
        try:
            self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `abort`)
            self._encoder = self._start_encoder()
        except BaseException:
            self._part.discard()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()

    def write(self, frames: RGBArray) -> None:
        """Append frames: uint8 [n, height, width, 3].

        Raises:
            OutputError: the encoder stopped, for instance because the disk is full.
        """
        assert self._encoder.stdin is not None
        expected = (self._video.height, self._video.width, 3)
        if frames.shape[1:] != expected:
            raise ValueError(f"frames have the shape {frames.shape[1:]}, the video {expected}")
        try:
            self._encoder.stdin.write(frames.tobytes())
            self._encoder.stdin.flush()
        except OSError as error:
            self._encoder.wait()
            raise self._failure() from error
        self.frames += len(frames)

    def end(self) -> None:
        """Say that no more frames come; the encoder goes on alone, as `is_encoded` says."""
        assert self._encoder.stdin is not None
        with contextlib.suppress(OSError):  # a broken pipe shows in the exit status too
            self._encoder.stdin.close()

    @property
    def is_encoded(self) -> bool:
        """Whether the encoder is done, so that `finish` does not wait for it."""
        return self._encoder.poll() is not None

    def finish(self) -> None:
        """Complete the file and give it its name.

        Raises:
            OutputError: it cannot be written, or another program has made a file of that name in the meantime.
        """
        self.end()
        if self._encoder.wait() != 0:
            raise self._failure()
        try:
            write_comment(self._part.descriptor, self.path.suffix.lower(), self._video.comment)
        except OSError as error:
            raise OutputError(f"{self.path} cannot be written: {error}") from error
        if self._sound is not None:
            self._part = with_sound(self._part, self._target, self._sound, self.frames / self._video.rate)
        if self._seal is not None:
            self._part = self._seal(self._part, self._target)
        check_output(self.path, self._overwrite)
        try:
            self._part.keep(self._target)
        except OSError as error:
            raise OutputError(f"{self.path} cannot be written: {error}") from error

    def abort(self) -> None:
        """Stop the encoder and remove the unfinished file. Does nothing after `finish`."""
        if self._encoder.poll() is None:
            self._encoder.kill()
            self._encoder.wait()
        if self._encoder.stdin is not None:
            with contextlib.suppress(OSError):
                self._encoder.stdin.close()
        self._log.close()
        self._part.discard()

    def _start_encoder(self) -> "subprocess.Popen[bytes]":
        try:
            # Its own session: Ctrl-C in a terminal reaches this program alone, which then cleans up.
            return subprocess.Popen(
                [self._ffmpeg, *encode_arguments(self._kind, self._video), f"/dev/fd/{self._part.descriptor}"],
                stdin=subprocess.PIPE,
                stderr=self._log,
                pass_fds=[self._part.descriptor],
                start_new_session=True,
            )
        except OSError as error:
            raise OutputError(f"{self.path} cannot be written: ffmpeg cannot be started: {error}") from error

    def _failure(self) -> OutputError:
        self._log.seek(0)
        return encoder_error(self.path, self._encoder.returncode, self._log.read())


def with_sound(picture: PartFile, target: Path, sound: Sound, duration: Fraction) -> PartFile:
    """Join a finished picture and sound in a new file. Sound that cannot be used is left out, and the log says so.

    Args:
        picture: is removed, unless it is returned as it has no sound.
        target: the name that the file will have.
        duration: of the picture, in seconds.

    Raises:
        OutputError: there is no room for it.
    """
    kind = kind_of(target)
    if not kind.sound:
        return picture
    joined = PartFile(target)
    try:
        result = run_ffmpeg(join_arguments(kind, picture.path, sound, duration), joined)
        if result.returncode == 0:
            picture, joined = joined, picture
        elif _room_reason(result.returncode, result.stderr.decode(errors="replace")):
            raise encoder_error(target, result.returncode, result.stderr)
        else:
            message = result.stderr.decode(errors="replace").strip()
            logger.warning("The sound of %s cannot be used, so the result is silent: %s", sound.source.path, message)
    finally:
        joined.discard()
    return picture


def run_ffmpeg(arguments: Sequence[str], output: PartFile) -> "subprocess.CompletedProcess[bytes]":
    """Run ffmpeg, which writes to a part file."""
    return subprocess.run(
        [find_ffmpeg(), *arguments, f"/dev/fd/{output.descriptor}"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        pass_fds=[output.descriptor],
        start_new_session=True,
    )


def open_result(
    path: Path, video: VideoFormat, *, sound: Sound | None = None, overwrite: bool = False, seal: Seal | None = None
) -> VideoWriter | FramesWriter:
    """The writer for the kind of result that a name asks for; arguments and errors as for `VideoWriter`.

    Pictures are not signed.
    """
    if path.name == FRAMES_NAME:
        check_choices(path, video.codec, video.quality)
        return FramesWriter(path, video, overwrite=overwrite)
    return VideoWriter(path, video, sound=sound, overwrite=overwrite, seal=seal)


def check_output(path: Path, overwrite: bool) -> Path:
    """Refuse an output before any work is done for it.

    Returns:
        The file itself: symbolic links are written through.

    Raises:
        OutputError: a name of no known kind, a folder, or an existing file without `overwrite`.
    """
    try:
        if path.name == FRAMES_NAME:
            check_frames(path, overwrite)
            return Path(os.path.realpath(path.parent), path.name)
        kind_of(path)
        if path.is_dir():
            raise OutputError(f"the output {path} is a folder; name a file in it")
        if path.exists() and not path.is_file():
            raise OutputError(f"the output {path} is a pipe or a device, which is not replaced; choose another name")
        if path.exists() and not overwrite:
            raise OutputError(f"the output {path} already exists; choose another name or allow it with --overwrite")
        return Path(os.path.realpath(path))
    except (OSError, ValueError) as error:
        raise OutputError(f"the output {str(path)!r} cannot be written: {error}") from error


def check_folder(path: Path, target: Path) -> None:
    """Refuse an output whose folder cannot be written, before any work is done for it.

    Args:
        path: as the user calls it.
        target: the file itself.

    Raises:
        OutputError: it cannot be made, or nothing can be written there.
    """
    folder = next((each for each in target.parents if each.exists()), Path("/"))
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"the output {path} cannot be written: {folder} is not a writable folder")


def _room_reason(status: int, message: str) -> str | None:
    """Why there was no room for the file, if that is what stopped ffmpeg."""
    if status == -signal.SIGXFSZ:
        return "File too large"
    found = _FULL_DISK.search(message)
    return found.group(0) if found else None


def encoder_error(path: Path, status: int, stderr: bytes) -> OutputError:
    message = stderr.decode(errors="replace").strip()
    room = _room_reason(status, message)
    reason = f"there is no room for it ({room})" if room else message or f"ffmpeg stopped with status {status}"
    return OutputError(f"{path} cannot be written: {reason}")
