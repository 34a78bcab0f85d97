"""What a `.motion` file is known by, without PyTorch: its name, and the texts at its start."""

import json
from collections.abc import Mapping
from pathlib import Path

SUFFIX = ".motion"
FORMAT, VERSION = "personalive motion", 1
MAX_BYTES = 2 << 30
MAX_HEADER = 1 << 16


def is_motion(path: Path) -> bool:
    """Whether a file is called or begins like a motion file."""
    if path.suffix.lower() == SUFFIX:
        return True
    try:
        return metadata_of(path).get("format") == FORMAT
    except ValueError:
        return False


def metadata_of(path: Path) -> Mapping[str, str]:
    """The texts at the start of a safetensors file.

    Raises:
        ValueError: it is none, or it is too large.
    """
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if not 2 <= size <= MAX_HEADER or path.stat().st_size > MAX_BYTES:
            raise ValueError("not a motion file")
        try:
            header = json.loads(file.read(size))
        except RecursionError as error:
            raise ValueError("not a motion file") from error
    found = header.get("__metadata__") if isinstance(header, dict) else None
    if not isinstance(found, dict) or not all(isinstance(text, str) for text in found.values()):
        raise ValueError("not a motion file")
    return found
