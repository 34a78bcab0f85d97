"""Whether a request comes from this machine itself: what only the operator may ask for needs no password then."""

import ipaddress
from collections.abc import Iterable
from urllib.parse import urlsplit

LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
ABOUT_THE_SENDER = (b"x-forwarded-", b"forwarded", b"x-real-ip")
"""Headers by which proxies say who has sent a request. What clients send as these is not to be believed."""
NOT_FROM_HERE = "this is for the server's own machine: call it there as localhost, without a proxy"


def comes_from_here(headers: Iterable[tuple[bytes, bytes]], client: str) -> bool:
    """Whether a request has come straight from this machine: a proxy on it passes on what others send.

    Args:
        headers: of the request, with lower-case names.
        client: the address of the connection's other end.
    """
    headers = list(headers)
    passed_on = any(name == b"via" or name.startswith(ABOUT_THE_SENDER) for name, _ in headers)
    host = next((value.decode("latin-1") for name, value in headers if name == b"host"), "")
    return not passed_on and host_name(host) in LOCAL_NAMES and _is_loopback(client)


def host_name(host: str) -> str:
    """The name in a `Host` header, without its port."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _is_loopback(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return (mapped or parsed).is_loopback
