"""Tells one file's content from another's."""

import hashlib
from pathlib import Path


def content_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
