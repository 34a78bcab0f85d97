"""How many connections the servers take in at a time."""

import asyncio
import contextlib
import socket
from collections import Counter
from typing import ClassVar

import pytest
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from personalive.net.server import ACCEPTED_AT_ONCE, Server

CROWD = 50


class Counted(H11Protocol):
    """Notes in which turn of the loop each connection begins."""

    turn: ClassVar[int] = 0
    begun: ClassVar[Counter[int]] = Counter()

    def connection_made(self, transport):
        Counted.begun[Counted.turn] += 1
        super().connection_made(transport)


@contextlib.asynccontextmanager
async def running(config: uvicorn.Config):
    server = Server(config)
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        task = asyncio.create_task(server.serve(sockets=[bound]))
        while not server.started:
            await asyncio.sleep(0.01)
        yield bound.getsockname()
        server.should_exit = True
        await task


@pytest.fixture
def counting():
    Counted.turn = 0
    Counted.begun = Counter()


async def test_a_crowd_that_waits_is_taken_in_a_few_at_a_time(counting):
    """In between, others have their turns; and all of the crowd may wait."""
    config = uvicorn.Config(lambda *_: None, http=Counted, lifespan="off", log_config=None, timeout_graceful_shutdown=1)
    async with running(config) as address:
        crowd = [socket.create_connection(address, timeout=5) for _ in range(CROWD)]  # nothing is awaited: all wait
        while Counted.begun.total() < CROWD:
            Counted.turn += 1
            await asyncio.sleep(0)
        for each in crowd:
            each.close()
    assert max(Counted.begun.values()) <= ACCEPTED_AT_ONCE
    assert len(Counted.begun) >= CROWD // ACCEPTED_AT_ONCE
