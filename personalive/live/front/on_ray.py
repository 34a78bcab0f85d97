"""Workers on the machines of a Ray cluster: each is started by an actor, which passes on what it says.

Requests and WebSockets go to a worker directly, over TLS in which either side accepts only the other's certificate.
These are exchanged through Ray; keys stay where they are made. WebRTC's media go straight to the worker, as always.
"""

import contextlib
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
from websockets.asyncio.client import ClientConnection, connect

from personalive.cluster import Cluster, actor_options
from personalive.errors import InputError, first_line
from personalive.live.front.identity import Identity
from personalive.live.front.process import CONNECTIONS, Process
from personalive.live.front.reports import Order, Report
from personalive.live.front.worker import Duty, MakeFactory, Secured, for_worker, work
from personalive.live.options import ServeOptions
from personalive.live.transport.ice import IceLimits
from personalive.net.addresses import authority
from personalive.net.server import bound
from personalive.processes import Seat, how_ended, spawn


@dataclass(frozen=True)
class Address:
    """Where a worker has begun to listen."""

    host: str
    """Its node's address."""
    port: int
    certificate: str
    pid: int | None


class WorkerActor:
    """The actor: it has the GPU, and runs a worker there in a process of its own, which ends with it."""

    def __init__(
        self, options: ServeOptions, make_factory: MakeFactory, call_seconds: float | None, certificate: str
    ) -> None:
        """Start the worker.

        Args:
            options: of the front, as `RayWorkplace` has changed them.
            make_factory: see `worker.MakeFactory`.
            call_seconds: see `Duty`.
            certificate: of the front.
        """
        import ray.util

        self._sending = threading.Lock()
        host, own = ray.util.get_node_ip_address(), Identity.new()
        options = options.replace(media_host=options.media_host or host)
        with bound(host, 0) as listening:
            duty = Duty(Seat(), options, make_factory, listening, call_seconds, Secured(own, certificate))
            self._process, self._connection = spawn(work, duty, name="live")
            self._address = Address(host, listening.getsockname()[1], own.certificate, self._process.pid)

    def follow(self) -> Iterator[Address | Report | str]:
        """Where the worker listens, all that it says, and at last how it ended."""
        yield self._address
        while True:
            try:
                report = self._connection.recv()
            except (EOFError, OSError):
                break
            yield report
        self._process.kill()  # it may have closed its end only
        self._process.join()
        yield how_ended(self._process.exitcode)

    def send(self, order: Order) -> None:
        """Give it an order."""
        with self._sending, contextlib.suppress(OSError):
            self._connection.send(order)

    def terminate(self) -> None:
        """Let it end."""
        self._process.terminate()


class RayProcess:
    """A worker on a cluster; see `Process`."""

    url = ""
    transport: httpx.AsyncBaseTransport

    def __init__(self, actor: Any, own: Identity) -> None:
        """`actor`: its `WorkerActor`, which may have to wait for a GPU."""
        self._actor, self._own = actor, own
        self._over = threading.Event()
        self.described: dict[str, object] = {}

    def follow(self, hear: Callable[[Report], None]) -> str:
        """Pass on what it says."""
        import ray
        from ray.exceptions import RayError

        how = "ended"
        try:
            for each in self._actor.follow.options(num_returns="streaming").remote():
                said = ray.get(each)
                if isinstance(said, Address):
                    self._found(said)
                elif isinstance(said, str):
                    how = said
                else:
                    hear(said)
        except RayError as error:
            how = f"is lost ({first_line(error)})"
        ray.kill(self._actor)  # which gives its GPU back
        self._over.set()
        return how

    def _found(self, address: Address) -> None:
        self.url, self._address = f"https://{authority(address.host, address.port)}", address
        self._secured = self._own.calling(address.certificate)
        self.transport = httpx.AsyncHTTPTransport(verify=self._secured, limits=CONNECTIONS)
        self.described = {"node": address.host, "pid": address.pid}

    def send(self, order: Order) -> None:
        """Give it an order."""
        self._actor.send.remote(order)

    def connect(self, target: str, **options: Any) -> Awaitable[ClientConnection]:
        """Open a WebSocket to it."""
        host, port = self._address.host, self._address.port
        return connect(f"wss://localhost{target}", host=host, port=port, ssl=self._secured, **options)

    def terminate(self) -> None:
        """Let it end."""
        self._actor.terminate.remote()

    def kill(self, seconds: float) -> None:
        """Wait, and end it."""
        import ray

        self._over.wait(seconds)
        ray.kill(self._actor)

    async def close(self) -> None:
        """Close connections to it."""
        if self.url:
            await self.transport.aclose()


class RayWorkplace:
    """A Ray cluster.

    Args:
        options: of the front.
        cluster: which has been joined.
        make_factory: see `worker.MakeFactory`; must be importable by name, on every node.

    Raises:
        InputError: media of workers on other machines could not be reached.
    """

    def __init__(self, options: ServeOptions, cluster: Cluster, make_factory: MakeFactory) -> None:
        self.size = cluster.workers
        self._on_gpus, self._make_factory = cluster.on_gpus, make_factory
        self._options = for_worker(options).replace(media_host=_media_host(options))
        self._own = Identity.new()

    def start(self, seat: int, name: str, call_seconds: float | None) -> Process:
        """Start a process; see `Workplace`. If it is lost, the front asks for another one, so Ray does not."""
        import ray

        chosen = {**actor_options(on_gpus=self._on_gpus), "max_restarts": 0, "max_concurrency": 3}
        actor = ray.remote(WorkerActor).options(**chosen)
        return RayProcess(
            actor.remote(self._options, self._make_factory, call_seconds, self._own.certificate), self._own
        )


def _media_host(options: ServeOptions) -> str | None:
    """The address for media, where it means the same on all machines; None: each node's own."""
    import ray

    chosen = options.media_host or options.host
    limits = IceLimits(chosen)
    if not limits.local_only:
        # "local" is this machine, which Ray knows by its loopback address only.
        return chosen if limits.addresses is None or options.ray == "local" else None
    if sum(node["Alive"] for node in ray.nodes()) > 1:
        raise InputError(
            f"media_host is {chosen}: nobody could reach media of workers on other machines there; give 0.0.0.0"
        )
    return chosen
