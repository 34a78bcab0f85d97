"""uvicorn's server, for crowds that connect at once."""

import errno
import socket

import uvicorn

from personalive.errors import PersonaLiveError
from personalive.net.addresses import authority

QUEUE = 1024
"""Connections that may wait to be accepted."""
ACCEPTED_AT_ONCE = 4
"""Of these, in one turn of the event loop."""


FLAGS = ("--host", "--port")
"""What commands call a host and a port, for `bound`."""


class AddressError(PersonaLiveError):
    """A server cannot listen where it was told to."""


def bound(host: str, port: int, settings: tuple[str, str] | None = None) -> socket.socket:
    """A socket that listens at an address, for servers to accept on: from now on, the address is this process's.

    Args:
        host: an address or a name; of a name's addresses, the first one of IPv4 is taken, else the first. Empty: all
            addresses of IPv4.
        port: 0: any that is free.
        settings: what the operator calls host and port, for the message; None: they were not the operator's choice.

    Raises:
        AddressError: it is taken, or not this machine's.
    """
    try:
        return _listening(host, port)
    except (OSError, UnicodeError) as error:  # UnicodeError: the name cannot be one of a host
        message = f"cannot listen on {authority(host, port)} ({getattr(error, 'strerror', None) or error})"
        if settings is not None:
            is_port = getattr(error, "errno", None) in (errno.EADDRINUSE, errno.EACCES)
            message += f": give another {settings[is_port]}"
        raise AddressError(message) from error


def _listening(host: str, port: int) -> socket.socket:
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, address = min(found, key=lambda each: each[0] != socket.AF_INET)
    # With its protocol named: otherwise asyncio does not turn Nagle's algorithm off, and waits 40 ms.
    result = socket.socket(family, kind, protocol)
    try:
        result.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:  # as asyncio's servers do: who gives `::` has not asked for IPv4
            result.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        result.bind(address)
        result.listen(QUEUE)  # with SO_REUSEADDR, another process could bind to the address until then
    except OSError:
        result.close()
        raise
    return result


class Server(uvicorn.Server):
    """Accepts a few connections at a time, so that a crowd delays what else the event loop does only a little.

    asyncio has one number for both limits, and accepts in one turn whatever may wait: for several hundred connections
    that takes a tenth of a second.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        config.backlog = ACCEPTED_AT_ONCE
        super().__init__(config)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen."""
        await super().startup(sockets)
        for each in [one for server in self.servers for one in server.sockets]:
            with socket.fromfd(each.fileno(), each.family, each.type) as listening:
                listening.listen(QUEUE)
