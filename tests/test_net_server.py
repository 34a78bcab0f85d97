"""Where the servers listen, and how many connections they take in at a time."""

import asyncio
import contextlib
import socket
from collections import Counter
from typing import ClassVar

import pytest
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from personalive.live.options import ServeOptions
from personalive.net.server import ACCEPTED_AT_ONCE, FLAGS, AddressError, Server, bound

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


def test_an_address_belongs_to_who_bound_it_first_even_before_it_answers():
    with bound("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(
            AddressError, match=rf"cannot listen on 127\.0\.0\.1:{port} \(.*in use\): give another --port"
        ):
            bound("127.0.0.1", port, FLAGS)
        assert first.proto == socket.IPPROTO_TCP


@pytest.mark.parametrize("host", ("192.0.2.1", "fe80::1%nowhere", "x" * 70))
def test_a_host_that_is_not_of_this_machine_is_refused(host):
    with pytest.raises(AddressError, match=r"cannot listen on .+:0 \(.+\): give another --host$"):
        bound(host, 0, FLAGS)


def test_what_nobody_chose_nobody_is_told_to_change():
    """A worker on a cluster listens at its node's address."""
    with pytest.raises(AddressError, match=r"cannot listen on 192\.0\.2\.1:0 \(.+\)$"):
        bound("192.0.2.1", 0)


@pytest.fixture
def ipv6():
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6")


def test_all_addresses_of_ipv6_are_not_those_of_ipv4_too(ipv6):
    with bound("::", 0) as listening:
        port = listening.getsockname()[1]
        socket.create_connection(("::1", port)).close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        with bound("127.0.0.1", port), pytest.raises(AddressError, match=rf"cannot listen on \[::\]:{port} "):
            bound("::", port)


@pytest.mark.parametrize(
    "families, chosen",
    [((socket.AF_INET6,), socket.AF_INET6), ((socket.AF_INET6, socket.AF_INET), socket.AF_INET)],
    ids=["IPv6 alone", "both"],
)
def test_a_name_is_looked_up(ipv6, families, chosen, monkeypatch):
    addresses = {socket.AF_INET6: ("::1", 0, 0, 0), socket.AF_INET: ("127.0.0.1", 0)}
    found = [(each, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", addresses[each]) for each in families]
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, port, **how: {"here.example": found}[host])
    with bound("here.example", 0) as listening:
        assert listening.getsockname()[0] == addresses[chosen][0]


@pytest.mark.parametrize(
    "host, url",
    [
        ("0.0.0.0", "http://localhost:7860/"),
        ("127.0.0.1", "http://localhost:7860/"),
        ("::", "http://[::1]:7860/"),
        ("::1", "http://[::1]:7860/"),
        ("2001:db8::1", "http://[2001:db8::1]:7860/"),
        ("here.example", "http://here.example:7860/"),
    ],
)
def test_the_page_is_where_the_operator_is_told(host, url):
    assert ServeOptions(host=host, port=7860, insecure=True).page_url == url
