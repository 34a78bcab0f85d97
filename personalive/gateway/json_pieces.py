"""JSON with files in it, written piece by piece, so that the server can do other things in between."""

from collections.abc import Iterator
from typing import Any

from pydantic_core import to_json

PIECE = 256 * 1024
"""Characters of a string that are written at once."""


def json_pieces(value: Any) -> Iterator[bytes]:
    """The value as JSON. Numbers in it are finite: JSON has no others."""
    if isinstance(value, dict):
        yield b"{"
        for index, (name, each) in enumerate(value.items()):
            yield (b"," if index else b"") + to_json(name) + b":"
            yield from json_pieces(each)
        yield b"}"
    elif isinstance(value, str) and len(value) > PIECE:
        yield b'"'
        for start in range(0, len(value), PIECE):
            yield to_json(value[start : start + PIECE])[1:-1]
        yield b'"'
    else:
        yield to_json(value)
