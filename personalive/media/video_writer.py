"""The result as a file: H.264 in MP4, made by ffmpeg from frames in a pipe, with the sound of the driving video.

Everything is written beside the output under another name and renamed when it is complete.
"""

import contextlib
import logging
import os
import re
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from personalive.errors import OutputError
from personalive.media.part_file import PartFile, remove_abandoned
from personalive.media.video_reader import CONTAINERS, VideoInfo
from personalive.types import RGBArray

logger = logging.getLogger(__name__)

QUALITY = 18
"""x264's constant rate factor."""
COPIED_SOUND = ("aac", "mp3")
"""Codecs whose packets every MP4 player takes as they are; others become AAC."""
LATE_PICTURE = Fraction(1, 10)
"""Seconds by which sound may begin before the picture and be kept; longer leads are cut away."""
_FULL_DISK = re.compile(r"No space left on device|File too large|Disk quota exceeded", re.IGNORECASE)


@dataclass(frozen=True)
class VideoFormat:
    """What the encoder must know before the first frame."""

    width: int
    height: int
    rate: Fraction
    comment: str
    """Stored in the file: that it is synthetic, and how it was made."""


class VideoWriter:
    """Writes one MP4; a context manager. Unless `finish` was called, leaving it removes everything that was written.

    Args:
        path: the file to make; its folder is created if missing.
        video: size, rate and comment.
        sound: the video whose sound is added; None: silent.
        overwrite: whether an existing file may be replaced.

    Raises:
        OutputError: not a `.mp4` name, a folder, an existing file, or a place that cannot be written; or there is
            no ffmpeg.
    """

    def __init__(self, path: Path, video: VideoFormat, *, sound: VideoInfo | None = None, overwrite: bool = False):
        self._target = check_output(path, overwrite)
        self.path = path
        self.frames = 0
        self._video = video
        self._sound = sound
        self._overwrite = overwrite
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

    def finish(self) -> None:
        """Complete the file and give it its name.

        Raises:
            OutputError: it cannot be written, or another program has made a file of that name in the meantime.
        """
        assert self._encoder.stdin is not None
        with contextlib.suppress(OSError):  # a broken pipe shows in the exit status too
            self._encoder.stdin.close()
        if self._encoder.wait() != 0:
            raise self._failure()
        if self._sound is not None and self._sound.sound is not None:
            self._add_sound(self._sound)
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
                [self._ffmpeg, *_encode_arguments(self._video), f"/dev/fd/{self._part.descriptor}"],
                stdin=subprocess.PIPE,
                stderr=self._log,
                pass_fds=[self._part.descriptor],
                start_new_session=True,
            )
        except OSError as error:
            raise OutputError(f"{self.path} cannot be written: ffmpeg cannot be started: {error}") from error

    def _failure(self) -> OutputError:
        self._log.seek(0)
        return _output_error(self.path, self._encoder.returncode, self._log.read())

    def _add_sound(self, source: VideoInfo) -> None:
        """Join picture and sound in a new file. Sound that cannot be used is dropped, and the log says so."""
        joined = PartFile(self._target)
        duration = self.frames / self._video.rate
        try:
            result = subprocess.run(
                [self._ffmpeg, *_join_arguments(self._part.path, source, duration), f"/dev/fd/{joined.descriptor}"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                pass_fds=[joined.descriptor],
                start_new_session=True,
            )
            message = result.stderr.decode(errors="replace").strip()
            if result.returncode == 0:
                self._part, joined = joined, self._part
            elif _room_reason(result.returncode, message):
                raise _output_error(self.path, result.returncode, result.stderr)
            else:
                logger.warning("The sound of %s cannot be used, so the result is silent: %s", source.path, message)
        finally:
            joined.discard()


def check_output(path: Path, overwrite: bool) -> Path:
    """Refuse an output before any work is done for it.

    Returns:
        The file itself: symbolic links are written through.

    Raises:
        OutputError: not a `.mp4` name, a folder, or an existing file without `overwrite`.
    """
    if path.suffix.lower() != ".mp4":
        raise OutputError(f"the output {path} must be a file whose name ends with .mp4")
    try:
        if path.is_dir():
            raise OutputError(f"the output {path} is a folder; name a file in it")
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


def find_ffmpeg() -> str:
    """The ffmpeg to use: the one that comes with imageio-ffmpeg, or the system's if there is none.

    Raises:
        OutputError: there is none.
    """
    import imageio_ffmpeg  # imported here, so that the rest of the package works without it

    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError as error:
        raise OutputError("no ffmpeg was found to write the result; install the package ffmpeg") from error


def _encode_arguments(video: VideoFormat) -> list[str]:
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-video_size", f"{video.width}x{video.height}"]
    # Players assume HD colours, but ffmpeg's default for RGB is SD: convert to HD and tag it.
    tags = "setparams=colorspace=bt709:color_primaries=bt709:color_trc=bt709:range=tv"
    colours = ["-vf", f"scale=out_color_matrix=bt709:out_range=tv,format=yuv420p,{tags}"]
    return [
        *("-hide_banner", "-loglevel", "error", "-y"),
        *source,
        *("-framerate", str(video.rate), "-i", "pipe:0", "-an"),
        *colours,
        *("-c:v", "libx264", "-preset", "medium", "-crf", str(QUALITY), "-threads", "2"),
        *("-metadata", f"comment={video.comment}", "-movflags", "+faststart", "-f", "mp4"),
    ]


def _join_arguments(picture: Path, source: VideoInfo, duration: Fraction) -> list[str]:
    # The driving video's clock starts with its first packet, ours with its first frame.
    early = source.start
    shift = ["-ss", f"{float(early):.6f}"] if early > LATE_PICTURE else ["-itsoffset", f"{-float(early):.6f}"]
    guarded = ["-protocol_whitelist", "file", "-format_whitelist", CONTAINERS]
    codec = ["copy"] if source.sound in COPIED_SOUND else ["aac", "-b:a", "192k"]
    return [
        *("-hide_banner", "-loglevel", "error", "-y", "-i", f"file:{picture}"),
        *shift,
        *guarded,
        *("-i", f"file:{source.path}", "-map", "0:v:0", "-map", "1:a:0", "-c:v", "copy", "-c:a", *codec),
        *("-t", f"{float(duration):.6f}", "-map_metadata", "0", "-map_chapters", "-1"),
        *("-movflags", "+faststart", "-f", "mp4"),
    ]


def _room_reason(status: int, message: str) -> str | None:
    """Why there was no room for the file, if that is what stopped ffmpeg."""
    if status == -signal.SIGXFSZ:
        return "File too large"
    found = _FULL_DISK.search(message)
    return found.group(0) if found else None


def _output_error(path: Path, status: int, stderr: bytes) -> OutputError:
    message = stderr.decode(errors="replace").strip()
    room = _room_reason(status, message)
    reason = f"there is no room for it ({room})" if room else message or f"ffmpeg stopped with status {status}"
    return OutputError(f"{path} cannot be written: {reason}")
