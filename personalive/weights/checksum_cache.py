"""Checking files against what is known of them, and remembering the outcome.

Reading and hashing twelve gigabytes at every start would cost as long as loading them. So a file that was hashed once
is hashed again only when its size or its times have changed.
"""

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from personalive.errors import WeightsError
from personalive.weights.manifest import Known
from personalive.weights.source import format_size

_BLOCK = 1 << 22


def digest_of(path: Path, digits: int = 64) -> str:
    """Hex digest of a file: sha256 for 64 digits, the git blob id for 40."""
    if digits == 64:
        digest = hashlib.sha256()
    else:
        digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb", buffering=0) as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def check_file(path: Path, label: str, known: Known, remedy: str) -> None:
    """Compare a file with what is known of it; the cheap test first.

    Raises:
        WeightsError: size or digest differ.
    """
    size = path.stat().st_size
    if known.size is not None and size != known.size:
        raise WeightsError(f"{label} is damaged: {path} has {size} bytes where {known.size} were published. {remedy}")
    if known.digest is not None and (found := digest_of(path, len(known.digest))) != known.digest:
        raise WeightsError(
            f"{label} is damaged or was changed: the digest of {path} ({format_size(size)}) is {found}, "
            f"expected {known.digest}. {remedy}"
        )


class Records:
    """A JSON file beside downloaded or converted files that says what they must be and when they last were."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def known(self, key: str) -> Known | None:
        """What was recorded when the file was written."""
        entry = self._read().get(key)
        return Known(entry["size"], entry["digest"]) if entry else None

    def check(self, key: str, path: Path, label: str, known: Known, *, remedy: str, thorough: bool = False) -> None:
        """Compare a file with what is known of it, and remember that it was right.

        Args:
            thorough: hash the file even when it has not changed since it was found right.

        Raises:
            WeightsError: size or digest differ.
        """
        entry = self._read().get(key)
        stamp = _stamp(path)
        if not thorough and entry and entry["stamp"] == stamp and known.digest in (None, entry["digest"]):
            return
        check_file(path, label, known, remedy)
        self._write(key, {"size": path.stat().st_size, "digest": known.digest, "stamp": stamp})

    def _read(self) -> dict[str, Any]:
        try:
            values = json.loads(self.path.read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        return values if isinstance(values, dict) else {}

    def _write(self, key: str, entry: dict[str, Any]) -> None:
        text = json.dumps(self._read() | {key: entry}, indent=1, sort_keys=True)
        partial = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        # A cache that can not be written to is checked in full at every start; that is slow, not wrong.
        with contextlib.suppress(OSError):
            partial.write_text(text, "utf-8")
            partial.replace(self.path)


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]
