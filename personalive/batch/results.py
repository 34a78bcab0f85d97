"""The file of results: a line of JSON for each job that has ended, once, whatever is killed."""

import contextlib
import fcntl
import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from personalive.batch.job import Result
from personalive.batch.places import KEPT
from personalive.errors import InputError, OutputError
from personalive.media.part_file import PartFile, remove_abandoned

logger = logging.getLogger(__name__)


class Results:
    """A context manager; one batch at a time has the file.

    Lines about other outputs than this batch's stay in it.

    Raises:
        InputError: the file holds something else.
        OutputError: it cannot be written, or another batch has it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = self._held = -1
        self._made = [each for each in (path.parent / KEPT, path.parent) if not each.exists()]
        self._lock = path.parent / KEPT / f"{path.name}.lock"
        self.workers = path.parent / KEPT / f"{path.name}.workers"
        """Locked by every process that works for the batch."""
        try:
            self._lock.parent.mkdir(parents=True, exist_ok=True)
            self._held = _locked(self._lock)
            _wait_for(self.workers)
            remove_abandoned(path.parent)
        except BlockingIOError as error:
            self.close()
            raise OutputError(f"another batch is writing to {path}; let it end, or choose other --results") from error
        except OSError as error:
            self.close()
            raise OutputError(f"the results {path} cannot be written: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let other batches have it. Folders that were made for it and have nothing in them go."""
        if self._file >= 0:
            os.close(self._file)
        if self._held >= 0:
            self.workers.unlink(missing_ok=True)
            self._lock.unlink(missing_ok=True)
            os.close(self._held)
        self._file = self._held = -1
        with contextlib.suppress(OSError):
            for folder in self._made:
                folder.rmdir()

    def begin(self, ended: Iterable[Result], outputs: set[str]) -> None:
        """Begin with what is known: lines about others' outputs, and about jobs that need no work.

        Args:
            ended: those.
            outputs: of all jobs of the batch.
        """
        lines = [line for line, row in _read(self.path) if row["output"] not in outputs]
        lines += [result.to_json() for result in ended]
        part = PartFile(self.path)
        try:
            with part.path.open("w", encoding="utf-8") as file:
                file.writelines(f"{line}\n" for line in lines)
            part.keep(self.path)
            self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        except OSError as error:
            raise OutputError(f"the results {self.path} cannot be written: {error}") from error
        finally:
            part.discard()

    def add(self, result: Result) -> None:
        """Add a line.

        Raises:
            OutputError: the disk is full, for instance.
        """
        try:
            os.write(self._file, f"{result.to_json()}\n".encode())
        except OSError as error:
            raise OutputError(f"the results {self.path} cannot be written: {error}") from error


def _read(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Lines that are there, and what they say. The last one may have been cut off.

    Raises:
        InputError: they are no results.
    """
    if not path.exists():
        return []
    if not path.is_file():
        raise InputError(f"the results {path} are not a file, and are not replaced; choose another one with --results")
    found = []
    try:
        for line in path.read_text(encoding="utf-8").split("\n")[:-1]:
            row = json.loads(line)
            row["output"], row["status"]
            found.append((line, row))
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InputError(f"{path} holds something else than results; choose another file with --results") from error
    return found


def _locked(path: Path) -> int:
    """A descriptor that holds a lock.

    Raises:
        BlockingIOError: another process holds it.
    """
    while True:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with contextlib.suppress(FileNotFoundError):  # who had it has just removed it
                if path.stat().st_ino == os.fstat(descriptor).st_ino:
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _wait_for(workers: Path) -> None:
    """Wait until processes of a batch that was killed have noticed it, so that no job is made twice at once."""
    descriptor = os.open(workers, os.O_CREAT | os.O_RDWR, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("waiting for processes of a batch that was stopped to end")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
    finally:
        os.close(descriptor)
