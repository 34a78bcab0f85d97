"""Sessions that come and go for a long time: the server's memory, tasks and threads stay as they are."""

import asyncio
import contextlib
import dataclasses
import os
import socket
import subprocess
import sys
import time

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.live_client import Camera, LiveClient, grey
from tests.live_support import BLUE, GREEN, RED, picture, until

MINUTES = float(os.environ.get("SOAK_MINUTES", "30"))
WARM_UP = max(30.0, MINUTES * 60 * 0.1)
"""Seconds of visits before the first look: codecs, thread pools and allocators are created when first used."""
CROWD = 3
"""Visitors at once."""
PAUSE = 0.5
"""Seconds between one crowd and the next, so that the machine can do other work."""
SIZE = 256
"""Width and height of the portrait's pictures."""


@dataclasses.dataclass
class Server:
    """A server in another process, seen as its operator sees it."""

    url: str
    process: psutil.Process

    def figure(self, name: str) -> float:
        families = text_string_to_metric_families(httpx.get(f"{self.url}/metrics", timeout=20).text)
        return next(sample.value for family in families for sample in family.samples if sample.name == name)

    def memory(self) -> float:
        """Resident memory in MiB."""
        return self.process.memory_info().rss / 2**20

    def at_rest(self) -> tuple[float, float, int]:
        """Memory in MiB, tasks and threads once everyone has left."""
        until(lambda: self.figure("personalive_sessions") == 0, 40)
        time.sleep(3)
        memory, tasks, threads = self.memory(), self.figure("personalive_tasks"), self.process.num_threads()
        opened = self.figure("personalive_sessions_opened_total")
        print(f"{memory:.1f} MiB, {tasks:.0f} tasks, {threads} threads after {opened:.0f} sessions", flush=True)
        return memory, tasks, threads


@contextlib.contextmanager
def other_process():
    """The server in a process of its own, with the model loaded."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen([sys.executable, "-m", "tests.soak_server", str(port)])

    def is_up() -> bool:
        assert process.poll() is None, "the server ended"
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{url}/health").json()["status"] == "healthy"
        return False

    try:
        until(is_up, 60)
        parameters = {"pipeline_id": "personalive", "load_params": {"width": SIZE, "height": SIZE}}
        httpx.post(f"{url}/api/v1/pipeline/load", json=parameters).raise_for_status()
        until(lambda: httpx.get(f"{url}/health").json()["pipeline"] == "loaded", 60)
        yield Server(url, psutil.Process(process.pid))
    finally:
        process.terminate()
        process.wait(20)


async def visit(url: str, index: int) -> None:
    """One of many ways in which somebody uses the server for a moment."""
    async with LiveClient(url) as client:
        await client.reference(picture((RED, GREEN, BLUE)[index % 3]))
        answer = await client.offer(Camera(grey(size=(128 + 32 * (index % 5), 160))))
        if answer.status_code == 503:
            return
        await client.watch(5, 30)
        if index % 2:
            await client.http.post(f"/api/v1/sessions/{client.session_id}/snapshot")
            await client.send(reset_cache=True, mirror=True)
            await client.watch(3, 30)
        if index % 3:
            await client.http.delete(f"/api/v1/sessions/{client.session_id}")


def visits(server: Server, seconds: float) -> None:
    """A few at a time come and go for that long; prints the memory every minute."""

    async def crowd() -> None:
        began = shown = time.monotonic()
        index = 0
        while time.monotonic() < began + seconds:
            await asyncio.gather(*(visit(server.url, index + each) for each in range(CROWD)))
            index += CROWD
            await asyncio.sleep(PAUSE)
            if time.monotonic() > shown + 60:
                shown = time.monotonic()
                print(f"after {shown - began:.0f} s: {server.memory():.1f} MiB", flush=True)

    asyncio.run(crowd())


@pytest.mark.slow
@pytest.mark.timeout(60 * (MINUTES + 8))
def test_sessions_that_come_and_go_leave_nothing_behind():
    """Half an hour by default; SOAK_MINUTES changes that."""
    with other_process() as server:
        visits(server, WARM_UP)
        memory, tasks, threads = server.at_rest()
        visits(server, MINUTES * 60 - WARM_UP)
        memory_after, tasks_after, threads_after = server.at_rest()
    assert memory_after < 1.05 * memory
    assert tasks_after == tasks
    assert threads_after <= threads + 8
