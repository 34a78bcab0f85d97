"""A file that is made beside its destination under another name, so that it is there whole or not at all.

A run that was killed leaves such a file behind. The next run in that folder removes it, if no process holds it.
"""

import contextlib
import fcntl
import os
import re
import secrets
import weakref
from pathlib import Path

from personalive.errors import OutputError
from personalive.media.abandoned import remove_unless_held

_NAME = re.compile(r".*\.part-[0-9a-f]{16}(\..*)?")

NUMBERED = re.compile(r"[0-9]{5,}\.png")


class PartFile:
    """A new, empty file in the folder of `target`, which is made if missing. It is locked while it is unfinished.

    It is removed, with the folders that were made for it, when `discard` is called, and also when it is dropped or the
    program ends without `keep`: a signal may come at any point, even within this constructor.

    Raises:
        OutputError: nothing can be written there.
    """

    def __init__(self, target: Path) -> None:
        # `tempfile` would make it for its owner only; the umask cannot be read without changing it for every thread.
        self.path = target.with_name(f"{target.stem[:64]}.part-{secrets.token_hex(8)}{target.suffix.lower()}")
        self._held: list[int] = []
        self._made: list[Path] = []
        self._discard = weakref.finalize(self, _discard, self.path, self._held, self._made)
        try:
            _make_folder(target.parent, self._made)
            while not self._held:
                self._held.append(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666))
                fcntl.flock(self.descriptor, fcntl.LOCK_EX)
                if not self.path.exists():  # a run that is just tidying up was faster
                    os.close(self._held.pop())
        except (OSError, ValueError) as error:
            self.discard()
            raise OutputError(f"the output {str(target)!r} cannot be written: {error}") from error

    @property
    def descriptor(self) -> int:
        """Its file descriptor: a child process that has it writes to this file, whatever its name is by then."""
        return self._held[0]

    def keep(self, target: Path) -> None:
        """Give it the name of the finished file, replacing what has it.

        Raises:
            OSError: it cannot be renamed.
        """
        self.path.replace(target)
        self._discard.detach()
        os.close(self._held.pop())

    def discard(self) -> None:
        """Remove it. Does nothing after `keep`."""
        self._discard()


class PartFolder:
    """A new, empty folder for numbered pictures in `folder`, which is made if missing. It is locked while unfinished.

    It is removed like a `PartFile`, with the numbered pictures in it and nothing else. Folders that were made for it go
    too if they are empty.

    Raises:
        OutputError: nothing can be written there.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / f"frames.part-{secrets.token_hex(8)}"
        self._held: list[int] = []
        self._made: list[Path] = []
        self._discard = weakref.finalize(self, _discard, self.path, self._held, self._made)
        try:
            _make_folder(folder, self._made)
            while not self._held:
                self.path.mkdir()
                with contextlib.suppress(FileNotFoundError):  # a run that is just tidying up was faster
                    self._held.append(os.open(self.path, os.O_RDONLY | os.O_DIRECTORY))
                    fcntl.flock(self._held[0], fcntl.LOCK_EX)
                if self._held and not self.path.exists():
                    os.close(self._held.pop())
        except (OSError, ValueError) as error:
            self.discard()
            raise OutputError(f"the output folder {str(folder)!r} cannot be written: {error}") from error

    def place(self, name: str, target: Path) -> None:
        """Give a picture its final place."""
        (self.path / name).replace(target)

    def discard(self) -> None:
        """Remove what is left of it."""
        self._discard()


def _make_folder(folder: Path, made: list[Path]) -> None:
    """Make a folder and those above it, and add the ones that were missing to `made`."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    for each in reversed(missing):
        made.append(each)
        each.mkdir(exist_ok=True)


def _discard(path: Path, held: list[int], made: list[Path]) -> None:
    with contextlib.suppress(OSError, ValueError):  # it may be gone, or a name that nothing can have
        _remove(path)
    with contextlib.suppress(OSError):  # something else may be in them by now
        while made:
            made.pop().rmdir()
    while held:
        os.close(held.pop())


def _remove(part: Path) -> None:
    """Remove a file, or a folder with the numbered pictures in it."""
    if not part.is_dir():
        part.unlink()
        return
    for path in part.iterdir():
        if NUMBERED.fullmatch(path.name) and not path.is_dir():
            path.unlink()
    part.rmdir()


def remove_abandoned(folder: Path) -> None:
    """Remove part files that ended runs left behind."""
    with contextlib.suppress(OSError):  # a folder that cannot be listed has none of ours to remove
        for path in folder.iterdir():
            if _NAME.fullmatch(path.name) and not path.is_symlink() and (path.is_file() or path.is_dir()):
                remove_unless_held(path, _remove)
