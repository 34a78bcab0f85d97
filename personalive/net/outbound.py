"""Requests to addresses that a client names: only where allowed, and never for longer than they may take."""

import http.client
import io
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, TypeVar
from urllib.parse import SplitResult, quote, urljoin

from personalive.errors import InputError
from personalive.net.addresses import resolve, split_url
from personalive.net.pace import Pace

MAX_REDIRECTS = 5
CONNECT_SECONDS = 5.0
SLICE = 0.25
"""Seconds after which a wait is interrupted: Cog cancels a prediction by an exception that is raised at the next line
of Python, and `Pace.stop` is noticed then."""
PIECE = 64 * 1024
"""Bytes that are passed to the network at once."""
T = TypeVar("T")


@contextmanager
def request(
    method: str,
    url: str,
    *,
    pace: Pace,
    allow_private: bool,
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
) -> Iterator[http.client.HTTPResponse]:
    """Send a request and return the answer, whatever its status; reading from it keeps to the pace as well.

    Every address, including those of redirects, is looked up once, checked, and then connected to as it was checked. A
    redirect is followed with the same method and body, or not at all (303 after anything but a GET).

    Raises:
        InputError: it leads to an address that is not allowed or not valid.
        OSError, http.client.HTTPException, ValueError: there is no proper answer in time.
    """
    given = {"User-Agent": "personalive", "Accept": "*/*", **(headers or {})}
    for _ in range(MAX_REDIRECTS + 1):
        parts = split_url(url)
        with _connection(parts, allow_private, pace) as connection:
            target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            connection.request(
                method, quote(target, safe="%/?:@!$&'()*+,;=~[]"), body=body, headers={"Host": _host(parts), **given}
            )
            answer = connection.getresponse()
            location = answer.getheader("Location")
            if location is None or answer.status not in _redirects(method):
                yield answer
                return
        url = urljoin(url, location)
        if split_url(url).netloc != parts.netloc:
            given.pop("Authorization", None)  # what one host may know is not for another
    raise OSError(f"more than {MAX_REDIRECTS} redirects")


def check(url: str, *, allow_private: bool) -> None:
    """Refuse early what `request` would refuse. The address is looked up again for the call.

    Raises:
        InputError: not an http: or https: URL, an address that is not allowed, or an unknown host.
    """
    try:
        resolve(split_url(url), allow_private=allow_private)
    except (OSError, UnicodeError) as error:
        raise InputError(f"the host of {url[:80]!r} is not known: {error}") from error


def _redirects(method: str) -> tuple[int, ...]:
    return (301, 302, 303, 307, 308) if method == "GET" else (301, 302, 307, 308)


def _host(parts: SplitResult) -> str:
    """The host as headers name it."""
    name = parts.hostname or ""
    name = f"[{name}]" if ":" in name else name.encode("idna").decode()
    return name if parts.port is None else f"{name}:{parts.port}"


@contextmanager
def _connection(parts: SplitResult, allow_private: bool, pace: Pace) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection(_host(parts))
    paced = _PacedSocket(_open(resolve(parts, allow_private=allow_private), pace), pace)
    try:
        if parts.scheme == "https":
            paced.start_tls(parts.hostname or "")
        connection.sock = paced  # it has what http.client uses of a socket
        yield connection
    finally:
        paced.end()


def _open(addresses: list[tuple[socket.AddressFamily, Any]], pace: Pace) -> socket.socket:
    """A connection to the first address that accepts one."""
    for family, address in addresses:
        plain = socket.socket(family, socket.SOCK_STREAM)
        try:
            plain.settimeout(min(CONNECT_SECONDS, pace.left()))
            plain.connect(address)
            return plain
        except OSError as error:
            plain.close()
            failure = error
        except BaseException:
            plain.close()
            raise
    raise failure


class _PacedSocket(io.RawIOBase):
    """What `http.client` uses of a socket, with every wait cut into slices that keep to the pace."""

    def __init__(self, plain: socket.socket, pace: Pace) -> None:
        self._socket = plain
        self._pace = pace

    def start_tls(self, host: str) -> None:
        """Switch to TLS, if the other side proves to be this host."""
        secure = ssl.create_default_context().wrap_socket(
            self._socket, server_hostname=host, do_handshake_on_connect=False
        )
        self._socket = secure
        self._patiently(secure.do_handshake)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._patiently(lambda: self._socket.recv_into(buffer))
        self._pace.count(count)
        return count

    def sendall(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            sent = self._patiently(lambda: self._socket.send(rest[:PIECE]))  # noqa: B023 (called at once)
            self._pace.count(sent)
            rest = rest[sent:]

    def close(self) -> None:
        """Does nothing: `http.client` closes its socket when it has an answer, and reads the answer afterwards."""

    def end(self) -> None:
        self._socket.close()

    def _patiently(self, operation: Callable[[], T]) -> T:
        while True:
            self._socket.settimeout(min(SLICE, self._pace.left()))
            with suppress(TimeoutError):
                return operation()
