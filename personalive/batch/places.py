"""Where a job's files are: in a folder, or in a store that fsspec reaches by an address (s3://, gs://, sftp:// ...)."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

import fsspec

from personalive.animate.inputs import ADDRESS, from_windows, open_input
from personalive.errors import InputError, OutputError, first_line
from personalive.media.content_digest import content_digest
from personalive.media.encoding import FRAMES_NAME
from personalive.media.fetched import FetchedInputs
from personalive.media.held_folder import HeldFolder
from personalive.media.part_file import NUMBERED
from personalive.media.url_fetch import MAX_BYTES
from personalive.net.addresses import PORTS

KEPT = ".personalive"
"""Folder beside results in which it is kept how they were made."""
PREFIX = "personalive-output-"


class Place(Protocol):
    """Where a result goes, and where it is kept how it was made."""

    def size(self) -> int | None:
        """Bytes, or the number of pictures, of what is there; None: nothing is."""

    def read_note(self) -> str | None:
        """What is kept about it."""

    def write_note(self, text: str | None) -> None:
        """Replace that, or remove it."""

    def making(self) -> contextlib.AbstractContextManager[Path]:
        """The file to make, which is put in its place when the context ends well."""


class LocalPlace:
    """A file in a folder, or numbered pictures."""

    def __init__(self, path: Path) -> None:
        self._path = path
        name = "frames" if path.name == FRAMES_NAME else path.name
        self._note = path.parent / KEPT / f"{name}.json"

    def size(self) -> int | None:
        """See `Place`."""
        try:
            if self._path.name == FRAMES_NAME:
                return sum(bool(NUMBERED.fullmatch(name)) for name in os.listdir(self._path.parent)) or None
            return self._path.stat().st_size
        except OSError:
            return None

    def read_note(self) -> str | None:
        """See `Place`."""
        try:
            return self._note.read_text()
        except (OSError, UnicodeDecodeError):
            return None

    def write_note(self, text: str | None) -> None:
        """See `Place`.

        Raises:
            OutputError: nothing can be written there.
        """
        try:
            if text is None:
                self._note.unlink(missing_ok=True)
                with contextlib.suppress(OSError):  # others are kept there
                    self._note.parent.rmdir()
                return
            new = self._note.with_name(f"{self._note.name}.new")
            while True:
                self._note.parent.mkdir(parents=True, exist_ok=True)
                with contextlib.suppress(FileNotFoundError):  # another process has just removed the empty folder
                    new.write_text(text)
                    new.replace(self._note)
                    return
        except OSError as error:
            raise OutputError(f"the output {str(self._path)!r} cannot be written: {error}") from error

    @contextlib.contextmanager
    def making(self) -> Iterator[Path]:
        """See `Place`."""
        yield self._path


class StoredPlace:
    """A file in a store. It is made here, and appears there under its name when it is complete."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._files, self._path = _store(address)
        folder, _, name = self._path.rpartition("/")
        self._note = f"{folder}/{KEPT}/{name}.json"

    def size(self) -> int | None:
        """See `Place`."""
        with self._told("read"):
            try:
                return int(self._files.info(self._path)["size"])
            except FileNotFoundError:
                return None

    def read_note(self) -> str | None:
        """See `Place`."""
        with self._told("read"):
            try:
                return str(self._files.cat_file(self._note), "utf-8", "replace")
            except FileNotFoundError:
                return None

    def write_note(self, text: str | None) -> None:
        """See `Place`.

        Raises:
            OutputError: nothing can be written there.
        """
        with self._told("written"):
            if text is not None:
                self._files.makedirs(self._note.rpartition("/")[0], exist_ok=True)
                self._files.pipe_file(self._note, text.encode())
            elif self._files.exists(self._note):
                self._files.rm_file(self._note)

    @contextlib.contextmanager
    def making(self) -> Iterator[Path]:
        """See `Place`."""
        name = self._path.rpartition("/")[2]
        with HeldFolder(PREFIX) as folder:
            made = folder.path / name
            yield made
            part = f"{self._path}.part-{secrets.token_hex(8)}"
            with self._told("written"):
                try:
                    self._files.put_file(str(made), part)
                    self._files.mv(part, self._path)
                except BaseException:
                    with contextlib.suppress(Exception):
                        self._files.rm_file(part)
                    raise

    @contextlib.contextmanager
    def _told(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # stores raise what they like
            raise OutputError(f"the output {self._address} cannot be {what}: {first_line(error)}") from error


def open_place(output: str) -> Place:
    """The place of a result.

    Raises:
        OutputError: its store cannot be reached from here.
    """
    return StoredPlace(output) if is_address(output) else LocalPlace(Path(output))


def is_address(text: str) -> bool:
    """Whether it names a file on the web or in a store."""
    return ADDRESS.match(text) is not None


def absolute(text: str, base: Path, what: str) -> str:
    """An absolute path, or an address as it is.

    Args:
        text: as it is written; `file://` may stand before a path.
        base: the folder that relative paths start from.
        what: its role, for messages.

    Raises:
        InputError: a Windows path that cannot be seen here.
    """
    if text.lower().startswith("file://"):
        text = unquote(urlsplit(text).path)
    return text if is_address(text) else str(base.absolute() / from_windows(text, what).expanduser())


def get_input(text: str, what: str, inputs: FetchedInputs) -> Path:
    """The file for an absolute path or an address; one of the latter is fetched.

    Raises:
        InputError: it cannot be fetched, or is too large.
    """
    if not is_address(text) or text.lower().startswith(tuple(f"{scheme}:" for scheme in PORTS)):
        return open_input(text, what, inputs)
    try:
        files, path = _store(text)
        target = inputs.place(what, text, Path(path).suffix)
        if int(files.info(path)["size"] or 0) > MAX_BYTES:
            raise InputError(f"{text} has more than the {MAX_BYTES >> 30} GiB that are allowed")
        files.get_file(path, str(target))
    except (InputError, OutputError):
        raise
    except Exception as error:  # stores raise what they like
        raise InputError(f"{what} {text} cannot be fetched: {first_line(error)}") from error
    return target


def digest(text: str) -> str:
    """Tells whether a file or the content of an address is another one now.

    It is the SHA-256 of a file's content. Of what is in a store, it is what the store itself says: a checksum or a
    time. Of what is on the web, it is the address.

    Raises:
        InputError: it cannot be read.
    """
    if not is_address(text):
        try:
            found = os.stat(text)
            return _content_digest(text, found.st_size, found.st_mtime_ns, found.st_ino)
        except OSError as error:
            raise InputError(f"{text} cannot be read: {error.strerror}") from error
    if text.lower().startswith(tuple(f"{scheme}:" for scheme in PORTS)):
        return text
    try:
        files, path = _store(text)
        return f"{text} {files.ukey(path)}"
    except OutputError as error:
        raise InputError(str(error)) from error
    except Exception as error:
        raise InputError(f"{text} cannot be read: {first_line(error)}") from error


@lru_cache(maxsize=100_000)
def _content_digest(path: str, size: int, changed: int, inode: int) -> str:
    """Once for each state of a file: a driver may be that of a hundred jobs."""
    return content_digest(Path(path))


def _store(address: str) -> tuple[Any, str]:
    """What reaches a store, and the path in it.

    Raises:
        OutputError: the package for it is not installed, or refuses.
    """
    try:
        files, path = fsspec.core.url_to_fs(address)
    except (ImportError, ValueError) as error:
        raise OutputError(f"{address[:200]} cannot be reached: {first_line(error)}") from error
    return files, str(path)
