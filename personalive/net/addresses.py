"""Which addresses a server calls for its clients: only public ones, unless its operator allows others.

A client must not reach, through the server, what only the server can reach: services on loopback and addresses in the
private network.
"""

import ipaddress
import os
import socket
from typing import Any
from urllib.parse import SplitResult, urlsplit

from personalive.errors import InputError

PORTS = {"http": 80, "https": 443}
ALLOW_PRIVATE = "PERSONALIVE_ALLOW_PRIVATE_URLS"
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
"""IPv6 names of IPv4 addresses behind a translating gateway."""


def private_addresses_allowed() -> bool:
    """Whether the operator lets clients name loopback and private addresses."""
    return os.environ.get(ALLOW_PRIVATE) == "1"


def authority(host: str, port: int) -> str:
    """Host and port as they stand in a URL, where an address of IPv6 is in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split_url(url: str) -> SplitResult:
    """The parts of an `http:` or `https:` URL, with a host and without a user name.

    Raises:
        InputError: it is not one.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise InputError(f"{url[:80]!r} is not an address: {error}") from error
    if parts.scheme not in PORTS:
        raise InputError(f"{url[:80]!r} is not an http: or https: address")
    if not parts.hostname or "@" in parts.netloc or port == 0:
        raise InputError(f"{url[:80]!r} needs a host, and no user name")
    return parts


def resolve(parts: SplitResult, *, allow_private: bool) -> list[tuple[socket.AddressFamily, Any]]:
    """Look the host up: family and socket address of every address that it has.

    Connect only to one of these: if the name is looked up again, it may be another address.

    Raises:
        InputError: one of them is not public, and `allow_private` is False.
        OSError: the name is not known.
        UnicodeError: the name is not valid.
    """
    host = parts.hostname or ""
    found = socket.getaddrinfo(host, parts.port or PORTS[parts.scheme], type=socket.SOCK_STREAM)
    for *_, address in found:
        if not allow_private and not is_public(str(address[0])):
            raise InputError(
                f"{host} is {address[0]}, an address that is not public: it is only called where "
                f"{ALLOW_PRIVATE}=1 is set in the environment"
            )
    return [(family, address) for family, *_, address in found]


def is_public(text: str) -> bool:
    """Whether an IPv4 or IPv6 address belongs to a host on the public internet, however it is written."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if inner is not None:  # an IPv4 address in disguise
            return is_public(str(inner))
        if address in NAT64:
            return is_public(str(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)))
    return address.is_global and not address.is_multicast
