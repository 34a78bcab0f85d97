"""Temporary folders that are removed by the program that made them, or, if it was killed, by the next one."""

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from personalive.errors import OutputError
from personalive.media.abandoned import remove_unless_held


class HeldFolder:
    """A new, empty folder for its owner only, locked until it is closed; a context manager.

    Folders with the same prefix that nobody holds are removed first.
    """

    def __init__(self, prefix: str, parent: str | None = None) -> None:
        """Make it.

        Args:
            prefix: of its name; no other program may use it.
            parent: the folder to make it in; None: the system's folder for temporary files.

        Raises:
            OutputError: it cannot be made.
        """
        remove_abandoned(prefix, parent)
        self._held: list[int] = []
        while not self._held:
            self.path = _new(prefix, parent)
            with contextlib.suppress(FileNotFoundError):  # a program that is just tidying up was faster
                self._held.append(os.open(self.path, os.O_RDONLY | os.O_DIRECTORY))
                with contextlib.suppress(OSError):  # a file system without locks, on which nobody removes it either
                    fcntl.flock(self._held[0], fcntl.LOCK_EX)
            if self._held and not self.path.exists():
                os.close(self._held.pop())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove it with everything in it. Further calls do nothing."""
        if self._held:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._held.pop())


def _new(prefix: str, parent: str | None) -> Path:
    try:
        return Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    except OSError as error:
        remedy = "TMPDIR can name another place" if parent is None else f"make room in {parent}, or make it writable"
        raise OutputError(f"a temporary folder cannot be made: {error}; {remedy}") from error


def remove_abandoned(prefix: str, parent: str | None = None) -> None:
    """Remove this user's folders with a prefix that no program holds."""
    for path in Path(parent or tempfile.gettempdir()).glob(f"{prefix}*"):
        if path.is_dir():
            remove_unless_held(path, shutil.rmtree)
