"""Checks files against what is known of them, and remembers the outcome.

Hashing twelve gigabytes at every start would take as long as loading them. So a file is hashed once, and again only
when its size or times have changed.
"""

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from personalive.errors import WeightsError
from personalive.weights.manifest import FileDigest, is_digest
from personalive.weights.source import format_size


def replace_text(path: Path, text: str) -> None:
    """Write a file atomically: other processes see either the old one or the new one."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text, "utf-8")
    partial.replace(path)


def digest_of(path: Path, digits: int = 64) -> str:
    """Hex digest of a file: sha256 for 64 digits, the git blob id for 40."""
    with path.open("rb") as file:
        if digits == 64:
            return hashlib.file_digest(file, "sha256").hexdigest()
        header = b"blob %d\0" % path.stat().st_size
        return hashlib.file_digest(file, lambda: hashlib.sha1(header, usedforsecurity=False)).hexdigest()


def check_file(path: Path, label: str, expected: FileDigest, remedy: str) -> None:
    """Compare a file with what it must be, the cheap test first.

    Raises:
        WeightsError: size or digest differ.
    """
    size = path.stat().st_size
    if expected.size is not None and size != expected.size:
        raise WeightsError(
            f"{label} is damaged: {path} has {size} bytes where {expected.size} were published. {remedy}"
        )
    if expected.digest is not None and (found := digest_of(path, len(expected.digest))) != expected.digest:
        raise WeightsError(
            f"{label} is damaged or was changed: the digest of {path} ({format_size(size)}) is {found}, "
            f"expected {expected.digest}. {remedy}"
        )


class ChecksumCache:
    """A JSON file: what files must be and when they were last found right, or what they hold."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def recorded(self, key: str) -> FileDigest | None:
        """What was recorded when the file was written."""
        entry = self._read().get(key)
        return FileDigest(entry["size"], entry["digest"]) if entry else None

    def check(
        self, key: str, path: Path, label: str, expected: FileDigest, *, remedy: str, thorough: bool = False
    ) -> None:
        """Compare a file with what it must be, and remember that it was right.

        Args:
            thorough: hash the file even when it has not changed since it was found right.

        Raises:
            WeightsError: size or digest differ.
        """
        entry, stamp = self._read().get(key), _stamp(path)
        if not thorough and entry and entry["stamp"] == stamp and expected.digest in (None, entry["digest"]):
            return
        check_file(path, label, expected, remedy)
        self._write(key, {"size": stamp[0], "digest": expected.digest, "stamp": stamp}, self._read())

    def digest(self, path: Path) -> str:
        """The sha256 of any file, whose key is its path. Files that are gone are forgotten."""
        key, stamp = str(path.resolve()), _stamp(path)
        entry = self._read().get(key)
        if entry and entry["stamp"] == stamp and entry["digest"] is not None:
            return str(entry["digest"])
        digest = digest_of(path)
        # Not `Path.is_file`, which raises for a name that is too long, or in a folder that is closed to us.
        there = {name: entry for name, entry in self._read().items() if os.path.isfile(name)}
        self._write(key, {"size": stamp[0], "digest": digest, "stamp": stamp}, there)
        return digest

    def _read(self) -> dict[str, Any]:
        try:
            values = json.loads(self.path.read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        return {key: entry for key, entry in values.items() if _is_entry(entry)} if isinstance(values, dict) else {}

    def _write(self, key: str, entry: dict[str, Any], others: dict[str, Any]) -> None:
        # A cache that cannot be written to is checked in full at every start; that is slow, not wrong.
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            replace_text(self.path, json.dumps(others | {key: entry}, indent=1, sort_keys=True))


def _is_entry(value: object) -> bool:
    """Whether it is one of ours: a file that was damaged or that another version wrote costs time, not the start."""
    if not isinstance(value, dict) or not {"size", "digest", "stamp"} <= value.keys():
        return False
    size, digest = value["size"], value["digest"]
    return (size is None or isinstance(size, int)) and (digest is None or is_digest(digest))


def _stamp(path: Path) -> list[int]:
    """What changes with a file."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]
