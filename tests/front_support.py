"""A front for tests: the real application behind the real web server, over real processes whose model echoes."""

import asyncio
import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

from personalive.live.front.process import LocalWorkplace, Workplace
from personalive.live.front.serve import front_server
from personalive.live.options import ServeOptions
from personalive.net.server import bound
from personalive.processes import Seat
from personalive.testing.echo_worker import EchoWorkers
from tests.live_support import until


@dataclasses.dataclass
class FrontServer:
    """A running front."""

    url: str
    thread: threading.Thread

    def client(self, cookie: str | None = None, **options: Any) -> httpx.Client:
        cookies = {"personalive_client": cookie} if cookie else {}
        return httpx.Client(base_url=self.url, timeout=60, cookies=cookies, **options)

    def workers(self) -> list[dict[str, Any]]:
        """What the operator is told of them."""
        return httpx.get(f"{self.url}/admin/drain").raise_for_status().json()

    def busy(self) -> list[int]:
        """Sessions of each worker."""
        return [each["sessions"] for each in self.workers()]

    def until_loaded(self) -> None:
        until(lambda: all(each["state"] == "loaded" for each in self.workers()), 120)


@contextlib.contextmanager
def front(
    folder: Path,
    workers: int = 2,
    make: EchoWorkers | None = None,
    place: Callable[[ServeOptions], Workplace] | None = None,
    **options: Any,
) -> Iterator[FrontServer]:
    """Run a front until the block ends, over workers of this machine if no other place for them is given."""
    listening = bound("127.0.0.1", 0)
    port = listening.getsockname()[1]
    chosen = ServeOptions(**{"port": port, "offer_rate": 1e6, "face_boxes": "keypoints", **options})
    here = LocalWorkplace(chosen, [Seat()] * workers, make or EchoWorkers(), folder)
    server = front_server(chosen, place(chosen) if place else here)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])), daemon=True)
    thread.start()
    running = FrontServer(f"http://127.0.0.1:{port}", thread)
    try:
        until(lambda: server.started)
        running.until_loaded()
        yield running
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive(), "the front did not stop"
