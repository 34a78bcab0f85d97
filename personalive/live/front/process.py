"""A worker's process as its front sees it, wherever it runs; and those on this machine."""

import contextlib
import socket
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import httpx
from websockets.asyncio.client import ClientConnection, unix_connect

from personalive.live.front.reports import Order, Report
from personalive.live.front.worker import Duty, MakeFactory, for_worker, work
from personalive.live.options import ServeOptions
from personalive.net.waiting import MAX_WAITING
from personalive.processes import Seat, how_ended, spawn

CONNECTIONS = httpx.Limits(max_connections=MAX_WAITING // 2, max_keepalive_connections=16)
"""To one worker: fewer than may wait there."""


class Process(Protocol):
    """A worker's process. What is there to reach it can be used once it has reported."""

    url: str
    """Where `transport` finds it, without a path."""
    transport: httpx.AsyncBaseTransport
    described: dict[str, object]
    """Where it is, for the operator."""

    def follow(self, hear: Callable[[Report], None]) -> str:
        """Pass on what it says until it has ended, and return how it has; for a thread of its own."""

    def send(self, order: Order) -> None:
        """Give it an order, which is lost if it has just died."""

    def connect(self, target: str, **options: Any) -> Awaitable[ClientConnection]:
        """Open a WebSocket to it.

        Args:
            target: path and query.
            options: as websockets' `connect` takes them.

        Raises:
            OSError: it has died.
        """

    def terminate(self) -> None:
        """Let it tell its clients and end."""

    def kill(self, seconds: float) -> None:
        """Wait so long for its end, and then end it."""

    async def close(self) -> None:
        """Forget what was there to reach it."""


class Workplace(Protocol):
    """Starts processes."""

    size: int
    """How many there are to be, each with a GPU of its own where there are GPUs."""

    def start(self, seat: int, name: str, call_seconds: float | None) -> Process:
        """Start one.

        Args:
            seat: 0 to `size` - 1. None is in the same seat.
            name: which no other has.
            call_seconds: see `Duty`.
        """


class LocalWorkplace:
    """This machine. Workers listen at Unix sockets in a folder of this user only: others cannot call them.

    Args:
        options: of the front.
        seats: what each worker may use.
        make_factory: see `worker.MakeFactory`; must be importable by name.
        folder: for the sockets.
    """

    def __init__(self, options: ServeOptions, seats: Sequence[Seat], make_factory: MakeFactory, folder: Path) -> None:
        self.size = len(seats)
        self._options, self._seats = for_worker(options), seats
        self._make_factory, self._folder = make_factory, folder

    def start(self, seat: int, name: str, call_seconds: float | None) -> Process:
        """Start a process; see `Workplace`."""
        path = self._folder / f"{name}.sock"
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as listening:
            listening.bind(str(path))
            duty = Duty(self._seats[seat], self._options, self._make_factory, listening, call_seconds)
            return LocalProcess(path, duty, f"live {seat}")


class LocalProcess:
    """A process of this machine; see `Process`."""

    url = "http://localhost"

    def __init__(self, path: Path, duty: Duty, name: str) -> None:
        """Start it; `path` is the socket at which it listens."""
        self._path = path
        self._process, self._connection = spawn(work, duty, name=name)
        self.transport: httpx.AsyncBaseTransport = httpx.AsyncHTTPTransport(uds=str(path), limits=CONNECTIONS)
        self.described: dict[str, object] = {"pid": self._process.pid}

    def follow(self, hear: Callable[[Report], None]) -> str:
        """Pass on what it says."""
        with contextlib.suppress(EOFError, OSError):
            while True:
                hear(self._connection.recv())
        self.kill(0.0)  # it may have closed its end only
        self._connection.close()
        return how_ended(self._process.exitcode)

    def send(self, order: Order) -> None:
        """Give it an order."""
        with contextlib.suppress(OSError):
            self._connection.send(order)

    def connect(self, target: str, **options: Any) -> Awaitable[ClientConnection]:
        """Open a WebSocket to it."""
        return unix_connect(str(self._path), f"ws://localhost{target}", **options)

    def terminate(self) -> None:
        """Let it end."""
        self._process.terminate()

    def kill(self, seconds: float) -> None:
        """Wait, and end it."""
        self._process.join(seconds)
        self._process.kill()
        self._process.join()

    async def close(self) -> None:
        """Remove its socket."""
        await self.transport.aclose()
        self._path.unlink(missing_ok=True)
