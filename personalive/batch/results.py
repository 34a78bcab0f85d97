"""The file of results: a line of JSON for each job that has ended, once, whatever is killed."""

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
        self._held = -1
        self._file = -1
        kept = path.parent / KEPT
        try:
            kept.mkdir(parents=True, exist_ok=True)
            self.workers = kept / f"{path.name}.workers"
            """Locked by every process that works for the batch."""
            self._held = os.open(kept / f"{path.name}.lock", os.O_CREAT | os.O_RDWR, 0o666)
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
        """Let other batches have it."""
        for descriptor in (self._file, self._held):
            if descriptor >= 0:
                os.close(descriptor)
        self._file = self._held = -1

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
    found = []
    try:
        for line in path.read_text(encoding="utf-8").split("\n")[:-1]:
            row = json.loads(line)
            row["output"], row["status"]
            found.append((line, row))
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InputError(f"{path} holds something else than results; choose another file with --results") from error
    return found


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
