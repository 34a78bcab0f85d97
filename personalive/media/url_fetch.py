"""Files that a request brings along: inline as `data:` URLs, or from the web, but from nowhere inside.

Whoever may call the server must not reach through it what only the server can reach: its own files, services on
loopback and addresses of the private network.
"""

import base64
import binascii
import http.client
import ipaddress
import socket
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, unquote_to_bytes, urljoin, urlsplit

from personalive.errors import InputError

MAX_BYTES = 2 << 30
MAX_REDIRECTS = 5
TIMEOUT = 30.0
"""Seconds without a byte after which a server is given up."""
PORTS = {"http": 80, "https": 443}
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
"""IPv6 names of IPv4 addresses behind a translating gateway."""


def fetch(url: str, target: Path, *, allow_private: bool = False) -> Path:
    """Store what a URL stands for.

    Args:
        url: `data:`, `http:` or `https:`.
        target: the file to write.
        allow_private: also take it from loopback and private addresses.

    Raises:
        InputError: no such URL, an address that is not allowed, a server that does not deliver, or too many bytes.
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
    for _ in range(MAX_REDIRECTS + 1):
        try:
            next_url = _request(url, target, allow_private)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise InputError(f"{url} can not be fetched: {error}") from error
        if next_url is None:
            return
        url = urljoin(url, next_url)
        if urlsplit(url).scheme not in PORTS:
            raise InputError(f"a redirect leads to {url[:80]!r}, which is no http: or https: address")
    raise InputError(f"{url} can not be fetched: more than {MAX_REDIRECTS} redirects")


def _request(url: str, target: Path, allow_private: bool) -> str | None:
    """Store the answer in `target`, or return where a redirect leads."""
    parts = urlsplit(url)
    connection = _connect(parts, allow_private)
    try:
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("GET", path, headers={"User-Agent": "personalive", "Accept": "*/*"})
        answer = connection.getresponse()
        location = answer.getheader("Location")
        if answer.status in (301, 302, 303, 307, 308) and location:
            return location
        if answer.status != 200:
            raise InputError(f"{url} can not be fetched: the server answers {answer.status} {answer.reason}")
        if int(answer.getheader("Content-Length") or 0) > MAX_BYTES:
            raise InputError(f"{url} has more than the {MAX_BYTES >> 30} GiB that are allowed")
        _store(answer, target, url)
    finally:
        connection.close()
    return None


def _store(answer: http.client.HTTPResponse, target: Path, url: str) -> None:
    with target.open("wb") as file:
        while block := answer.read(1 << 20):
            file.write(block)
            if file.tell() > MAX_BYTES:
                raise InputError(f"{url} has more than the {MAX_BYTES >> 30} GiB that are allowed")
    if answer.length:
        raise InputError(f"{url} can not be fetched: the connection ended {answer.length} bytes too early")


def _connect(parts: SplitResult, allow_private: bool) -> http.client.HTTPConnection:
    """A connection to an address that was checked: the name is looked up once, so it can not change in between."""
    host, port = parts.hostname or "", parts.port or PORTS[parts.scheme]
    if not host or "@" in parts.netloc:
        raise InputError(f"{parts.geturl()[:80]!r} needs a host, and no user name")
    family, address = _lookup(host, port, allow_private)
    plain = socket.socket(family, socket.SOCK_STREAM)
    try:
        plain.settimeout(TIMEOUT)
        plain.connect(address)
        secure = parts.scheme == "https"
        connection = http.client.HTTPConnection(parts.netloc)
        connection.sock = ssl.create_default_context().wrap_socket(plain, server_hostname=host) if secure else plain
    except BaseException:
        plain.close()
        raise
    return connection


def _lookup(host: str, port: int, allow_private: bool) -> tuple[socket.AddressFamily, Any]:
    """The host's first address, if none of them is inside."""
    addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    for *_, address in addresses:
        if not allow_private and not _is_public(str(address[0])):
            raise InputError(
                f"{host} is {address[0]}, an address that is not public: this server does not fetch from it "
                "(its operator can allow that with PERSONALIVE_ALLOW_PRIVATE_URLS=1)"
            )
    return addresses[0][0], addresses[0][4]


def _is_public(text: str) -> bool:
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if inner is not None:  # an IPv4 address in disguise
            return _is_public(str(inner))
        if address in NAT64:
            return _is_public(str(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)))
    return address.is_global and not address.is_multicast
