"""uvicorn's server, for crowds that connect at once."""

import socket

import uvicorn

QUEUE = 1024
"""Connections that may wait to be accepted."""
ACCEPTED_AT_ONCE = 4
"""Of these, in one turn of the event loop."""


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
        for each in [bound for server in self.servers for bound in server.sockets]:
            with socket.fromfd(each.fileno(), each.family, each.type) as listening:
                listening.listen(QUEUE)
