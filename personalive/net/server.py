"""uvicorn's server, for crowds that connect at once."""

import errno
import socket

import uvicorn

from personalive.errors import PersonaLiveError

QUEUE = 1024
"""Connections that may wait to be accepted."""
ACCEPTED_AT_ONCE = 4
"""Of these, in one turn of the event loop."""


class AddressError(PersonaLiveError):
    """A server cannot listen where it was told to."""


def bound(host: str, port: int) -> socket.socket:
    """A socket at an address, for servers to listen on.

    Raises:
        AddressError: it is taken, or not this machine's.
    """
    # With its protocol named: otherwise asyncio does not turn Nagle's algorithm off, and waits 40 ms.
    result = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    result.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        result.bind((host, port))
    except OSError as error:
        result.close()
        why = error.strerror or error
        other = "--port" if error.errno in (errno.EADDRINUSE, errno.EACCES) else "--host"
        raise AddressError(f"cannot listen on {host}:{port} ({why}): give another {other}") from error
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
