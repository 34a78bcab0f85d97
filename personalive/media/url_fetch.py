"""Files that a request brings: inline as `data:` URLs, or from the web, but not from private networks."""

import base64
import binascii
import http.client
from pathlib import Path
from urllib.parse import unquote_to_bytes

from personalive.errors import InputError
from personalive.net.addresses import PORTS
from personalive.net.outbound import request
from personalive.net.pace import Pace

MAX_BYTES = 2 << 30
SECONDS = 300.0
"""Seconds for a whole file."""
LEAST_RATE = 64 * 1024
"""The least bytes a second: a slower sender would keep the model waiting."""


def fetch(url: str, target: Path, *, allow_private: bool = False) -> Path:
    """Store the file that a URL stands for.

    Args:
        url: `data:`, `http:` or `https:`.
        target: the file to write.
        allow_private: also allow loopback and private addresses.

    Raises:
        InputError: it is not such a URL, the address is not allowed, the server does not deliver, or it is too large.
    """
    scheme = url.partition(":")[0].lower()
    if scheme == "data":
        target.write_bytes(_inline(url))
    elif scheme in PORTS:
        _download(url, target, allow_private)
    else:
        raise InputError(
            f"{url[:80]!r} is not a file: upload the file itself, as a data: URL, or give its http: or https: address"
        )
    return target


def _inline(url: str) -> bytes:
    head, comma, content = url.partition(",")
    if not comma:
        raise InputError("a data: URL needs a comma before its content")
    raw = unquote_to_bytes(content)
    if not head.lower().endswith(";base64"):
        return raw
    try:
        return base64.b64decode(raw, validate=True)
    except binascii.Error as error:
        raise InputError(f"the content of a data: URL is not valid base64: {error}") from error


def _download(url: str, target: Path, allow_private: bool) -> None:
    pace = Pace(seconds=SECONDS, rate=LEAST_RATE)
    try:
        with request("GET", url, pace=pace, allow_private=allow_private) as answer:
            if answer.status != 200:
                raise InputError(f"{url[:200]!r} cannot be fetched: the server answers {answer.status} {answer.reason}")
            if int(answer.getheader("Content-Length") or 0) > MAX_BYTES:
                raise InputError(f"{url[:200]!r} has more than the {MAX_BYTES >> 30} GiB that are allowed")
            _store(answer, target, url)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise InputError(f"{url[:200]!r} cannot be fetched: {error}") from error


def _store(answer: http.client.HTTPResponse, target: Path, url: str) -> None:
    with target.open("wb") as file:
        while block := answer.read1(1 << 20):
            file.write(block)
            if file.tell() > MAX_BYTES:
                raise InputError(f"{url[:200]!r} has more than the {MAX_BYTES >> 30} GiB that are allowed")
    if answer.length:
        raise InputError(f"{url[:200]!r} cannot be fetched: the connection ended {answer.length} bytes too early")
