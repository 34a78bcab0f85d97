"""A long job that was stopped, even by SIGKILL, goes on from its last saved state, as if it had not been.

The state is in a folder beside the output: what has been written of it (`media.segments`), the stream's state, and what
the job was begun with. It is saved every few seconds between two calls of the model, and takes at most a fiftieth of
the time.
"""

import contextlib
import fcntl
import json
import os
import pickle
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

import personalive
from personalive.animate.places import KEPT, folder_of
from personalive.engine.stream import Stream
from personalive.errors import InputError, OutputError
from personalive.media.content_digest import content_digest
from personalive.media.encoding import FRAMES_NAME, VideoFormat
from personalive.media.segments import NOTE, Lasting, identity, is_own, open_lasting
from personalive.media.sound import Sound
from personalive.media.video_writer import Seal
from personalive.pipeline import PersonaLive
from personalive.settings import AnimateOptions

VERSION = 1
SAVE_SECONDS = 5.0
"""Seconds between two saved states..."""
SHARE = 50
"""...or this many times what saving took, if that is longer."""
JOB, STATE, LOCK = "job.json", "state.pt", "lock"
ELSEWHERE = ("overwrite", "resume", "save_motion", "preview", "sign", "sign_key", "sign_inputs")
"""Options that may differ, or that are compared in another way."""


@dataclass
class Saved:
    """What was saved; at first, nothing."""

    frames: int = 0
    """Of the result."""
    shown: int = 0
    """Driving frames that were pushed."""
    faceless: int = 0
    stream: dict[str, Any] | None = None
    """`Stream.state_dict`."""
    motions: list[dict[str, Any]] = field(default_factory=list)
    """The driver's motion so far, if it is needed again: plain values of `Driver.take_observed`."""
    parts: int = 0
    """Files in which they are."""


class Resume:
    """The folder of a job; a context manager, which leaves it where it is.

    Raises:
        InputError: it belongs to a job with other inputs or options, or cannot be read.
        OutputError: it is in use, or cannot be written.
    """

    def __init__(self, output: Path, job: Mapping[str, Any], clock: Callable[[], float] = time.monotonic) -> None:
        self.folder, self._output = folder_of(output), output
        self._writer: Lasting | None = None
        self._clock, self._held = clock, -1
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._held = os.open(self.folder / LOCK, os.O_CREAT | os.O_RDWR, 0o666)
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.close()
            raise OutputError(f"another run is working on {output}: its state is in {self.folder}") from error
        except OSError as error:
            self.close()
            raise OutputError(f"the state of the job cannot be kept in {self.folder}: {error}") from error
        try:
            self._check(job)
            self.saved = self._read()
        except BaseException:
            self.close()
            raise
        self._next = self._clock() + SAVE_SECONDS

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is not None and not (self.folder / STATE).exists():
                self.remove()  # there is nothing to go on with
        finally:
            self.close()

    def close(self) -> None:
        """Let other runs have the folder."""
        if self._held >= 0:
            os.close(self._held)
            self._held = -1

    @property
    def is_due(self) -> bool:
        """Whether it is time to save."""
        return self._clock() >= self._next

    @property
    def is_done(self) -> bool:
        """Whether the result is complete and in its place, as the run was stopped just after that."""
        return self._output.name != FRAMES_NAME and is_own(self.folder, self._output)

    @property
    def faces(self) -> Path:
        """Folder in which positions of faces may be kept, so that they are not searched for again."""
        return self.folder / "faces"

    def open_writer(
        self, video: VideoFormat, sound: Sound | None, *, overwrite: bool, seal: Seal | None = None
    ) -> Lasting:
        """The writer of the result, which goes on after what was saved; see `media.segments.open_lasting`."""
        frames = self.saved.frames
        self._writer = open_lasting(
            self._output, self.folder, frames, video, sound=sound, overwrite=overwrite, seal=seal
        )
        return self._writer

    def save(self, shown: int, faceless: int, stream: dict[str, Any], observed: dict[str, Any] | None) -> None:
        """Save the state between two calls of the model, when the writer has everything that came out so far.

        Args:
            shown: driving frames that were pushed.
            faceless: of them, those without a face.
            stream: its `state_dict`.
            observed: the driver's motion since the last time, if it is needed again.

        Raises:
            OutputError: the disk is full, for instance.
        """
        assert self._writer is not None
        begun, parts = self._clock(), self.saved.parts
        self._writer.settle()
        if observed is not None:
            self._write(self._motion_file(parts), observed)
            parts += 1
        self.saved = Saved(self._writer.frames, shown, faceless, stream, [], parts)
        self._write(self.folder / STATE, vars(self.saved))
        self._writer.trim()
        now = self._clock()
        self._next = now + max(SAVE_SECONDS, SHARE * (now - begun))

    def note_motion(self, path: Path) -> None:
        """Note which file is about to become the motion file."""
        (self.folder / KEPT).write_text(identity(path))

    def load(self, stream: Stream) -> None:
        """Give a stream its saved state.

        Raises:
            InputError: it is damaged.
        """
        assert self.saved.stream is not None
        try:
            stream.load_state_dict(self.saved.stream)
        except (LookupError, TypeError, AttributeError, ValueError, RuntimeError) as error:
            raise self._damaged() from error

    def remove(self) -> None:
        """Remove the folder after the job is done, and last what says so."""
        with contextlib.suppress(OSError):
            for path in sorted(self.folder.iterdir(), key=lambda path: (path.name == NOTE, path.name == JOB)):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            self.folder.rmdir()

    def _motion_file(self, number: int) -> Path:
        return self.folder / f"motion-{number:05d}.pt"

    def _check(self, job: Mapping[str, Any]) -> None:
        """Begin a job, or refuse to go on with a saved one that is another."""
        path = self.folder / JOB
        given = json.loads(json.dumps({"version": VERSION, **job}))
        if not any((self.folder / name).exists() for name in (STATE, NOTE)):  # nothing was saved
            if not path.exists() and {entry.name for entry in self.folder.iterdir()} - {LOCK, f"{JOB}.new"}:
                raise OutputError(f"{self.folder} is where the state of the job is kept, and holds something else")
            self._write(path, given)
            return
        try:
            begun = dict(json.loads(path.read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise self._damaged() from error
        for name in [*given, *begun]:
            if begun.get(name) != given.get(name):
                digests = name in ("portrait", "driver")
                now = "another file now" if digests else f"{given.get(name)!r} now, and was {begun.get(name)!r} before"
                raise InputError(
                    f"the job in {self.folder} cannot go on: {name} is {now}; give the same again, or remove that "
                    "folder to start from the beginning"
                )

    def _read(self) -> Saved:
        if not (self.folder / STATE).exists():
            return Saved()
        try:
            saved = Saved(**torch.load(self.folder / STATE, weights_only=True))
            numbers = range(saved.parts)
            saved.motions = [torch.load(self._motion_file(number), weights_only=True) for number in numbers]
        except (OSError, ValueError, TypeError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise self._damaged() from error
        return saved

    def _damaged(self) -> InputError:
        return InputError(f"the state of the job in {self.folder} is damaged; remove that folder to start again")

    def _write(self, path: Path, value: Any) -> None:
        """Replace a file, all or nothing, even if the machine stops."""
        new = path.with_name(f"{path.name}.new")
        try:
            with new.open("wb") as file:
                if path.suffix == ".json":
                    file.write(json.dumps(value, indent=1).encode())
                else:
                    torch.save(value, file)
                file.flush()
                os.fsync(file.fileno())
            new.replace(path)
        except (OSError, RuntimeError) as error:
            raise OutputError(f"the state of the job cannot be saved in {self.folder}: {error}") from error


def job_of(
    model: PersonaLive, ref_image: Path, driving_video: Path, options: AnimateOptions
) -> dict[str, "str | int | float | bool | list[Any] | None"]:
    """What a job depends on, by name: another value of any of it would give other frames."""
    values = {name: value for name, value in options.given().items() if name not in ELSEWHERE}
    return {
        "portrait": content_digest(ref_image),
        "driver": content_digest(driving_video),
        **{name: str(value) if isinstance(value, Fraction) else value for name, value in values.items()},
        "save_motion": str(options.save_motion),
        "model": model.config.name,
        "motion encoder": list(model.motion_fingerprint),
        "device": model.device.type,
        "dtype": str(model.dtype),
        "personalive": personalive.__version__,
        "PyTorch": torch.__version__,
    }
