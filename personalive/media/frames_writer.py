"""The result as pictures: a folder of numbered PNGs, each with its metadata."""

import contextlib
import os
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from personalive.errors import OutputError
from personalive.media.encoding import VideoFormat
from personalive.media.part_file import NUMBERED, PartFolder, remove_abandoned
from personalive.types import RGBArray


class PicturesPart(Protocol):
    """Where pictures are until all of them are complete."""

    path: Path

    def place(self, name: str, target: Path) -> None:
        """Put a picture where it belongs."""

    def discard(self) -> None:
        """Remove what is left."""


class FramesWriter:
    """Writes PNGs; a context manager. They appear in their folder only when all of them are complete.

    Args:
        path: `FOLDER/%05d.png`; the folder is created if missing, and what else is in it stays.
        video: size and comment.
        overwrite: whether numbered pictures that are there may be replaced.
        part: where they are until then; default: a folder that is removed with them if the run ends early.

    Raises:
        OutputError: there are such pictures, or the folder cannot be written.
    """

    def __init__(
        self, path: Path, video: VideoFormat, *, overwrite: bool = False, part: PicturesPart | None = None
    ) -> None:
        check_frames(path, overwrite)
        self.path, self.frames = path, 0
        self._video, self._overwrite = video, overwrite
        self._folder = Path(os.path.realpath(path.parent))
        self._text = PngInfo()
        self._text.add_text("Comment", video.comment)
        remove_abandoned(self._folder)
        self._part: PicturesPart = part or PartFolder(self._folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._part.discard()

    def write(self, frames: RGBArray) -> None:
        """Append frames: uint8 [n, height, width, 3].

        Raises:
            OutputError: the disk is full, for instance.
        """
        expected = (self._video.height, self._video.width, 3)
        if frames.shape[1:] != expected:
            raise ValueError(f"frames have the shape {frames.shape[1:]}, the video {expected}")
        for frame in frames:
            self.frames += 1
            try:
                Image.fromarray(frame).save(self._part.path / f"{self.frames:05d}.png", pnginfo=self._text)
            except OSError as error:
                raise OutputError(f"{self.path} cannot be written: {error}") from error

    def check(self) -> None:
        """Refuse a place that other pictures have taken in the meantime.

        Raises:
            OutputError: as above.
        """
        check_frames(self.path, self._overwrite)

    def finish(self) -> None:
        """Give the pictures their places.

        Raises:
            OutputError: that cannot be done, or another program has made such pictures in the meantime.
        """
        self.check()
        try:
            old = {name for name in os.listdir(self._folder) if NUMBERED.fullmatch(name)}
            names = [f"{number:05d}.png" for number in range(1, self.frames + 1)]
            for name in names:
                self._part.place(name, self._folder / name)
            for name in old - set(names):  # of a longer result that this one replaces
                (self._folder / name).unlink()
        except OSError as error:
            raise OutputError(f"{self.path} cannot be written: {error}") from error
        self._part.discard()


def check_frames(path: Path, overwrite: bool) -> None:
    """Refuse a folder for pictures before any work is done for it.

    Raises:
        OutputError: it is a file, or has numbered pictures without `overwrite`.
    """
    folder = path.parent
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"the output {path} cannot be written: {folder} is not a folder")
    with contextlib.suppress(FileNotFoundError):
        if not overwrite and any(NUMBERED.fullmatch(name) for name in os.listdir(folder)):
            raise OutputError(
                f"{folder} already holds numbered pictures; choose another folder or allow it with --overwrite"
            )
