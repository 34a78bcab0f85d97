"""The described interface under random requests, and sessions that come and go for long."""

import asyncio
import ctypes
import gc
import os
import threading
import time

import httpx
import psutil
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings

from benchmarks.echo import EchoEngine
from tests.live_client import Camera, LiveClient, grey
from tests.live_support import BLUE, GREEN, RED, live_server, picture, until

SOAK_MINUTES = float(os.environ.get("SOAK_MINUTES", "30"))
POOLS = ("asyncio_", "live-prepare", "live-portrait", "AnyIO")
"""Threads of pools, which grow to a bound as they are needed, and stay."""
MODES = (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE)


def fuzz(examples: int) -> int:
    """Send what the description allows and what it forbids; gives the number of requests."""
    sent = 0
    with live_server(EchoEngine(256, 256, window=4), max_sessions=8) as server:
        schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
        for found in schema.get_all_operations():
            for mode in MODES:
                sent += ask(found.ok(), mode, examples)
        assert httpx.get(f"{server.url}/health").json()["status"] == "healthy"
        server.hub.loader.wait()
        with server.client() as client:
            client.post("/api/v1/personalive/reference", content=picture(RED))
            assert client.post("/api/v1/sessions", json={}).status_code == 201
    return sent


def ask(operation, mode, examples: int) -> int:
    sent = 0

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def send(case):
        nonlocal sent
        sent += 1
        answer = case.call(timeout=20)
        # 503 with its reason is what a server answers that is full, or loads what the last request asked for.
        assert answer.status_code < 500 or answer.status_code == 503, (case.as_curl_command(), answer.text)

    # An operation without parameters has nothing that could be wrong about it.
    try:
        send()
    except Exception as error:
        if type(error).__name__ not in ("Unsatisfiable", "InvalidArgument", "SkipTest"):
            raise
    return sent


def test_random_requests_find_no_server_error():
    assert fuzz(5) > 60


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_many_random_requests_find_no_server_error():
    assert fuzz(200) > 2000


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


@pytest.mark.slow
@pytest.mark.timeout(60 * (SOAK_MINUTES + 8))
def test_sessions_that_come_and_go_leave_nothing_behind():
    """Half an hour by default; SOAK_MINUTES changes that. Clients and server share the process, so it counts both."""

    def state() -> tuple[float, list[str], int]:
        until(lambda: not server.hub.entries, 40)
        time.sleep(2)
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # what glibc keeps in the arenas of threads that have ended is no leak
        tasks = server.call(lambda: len(asyncio.all_tasks(server.loop)))
        threads = sorted(each.name for each in threading.enumerate() if not each.name.startswith(POOLS))
        memory = psutil.Process().memory_info().rss / 2**20
        print(f"{memory:.0f} MiB, {len(threads)} threads beside those of pools, {tasks} tasks")
        return memory, threads, tasks

    def visits(seconds: float) -> None:
        end, index = time.monotonic() + seconds, 0

        async def crowd() -> None:
            nonlocal index
            while time.monotonic() < end:
                await asyncio.gather(*(visit(server.url, index + each) for each in range(3)))
                index += 3

        asyncio.run(crowd())

    with live_server(EchoEngine(256, 256, window=4, delay_frames=12), max_sessions=3, linger_seconds=0.5) as server:
        visits(max(30, SOAK_MINUTES * 60 * 0.3))  # allocators and thread pools reach their size
        memory, threads, tasks = state()
        visits(SOAK_MINUTES * 60 * 0.7)
        memory_after, threads_after, tasks_after = state()
    assert memory_after < 1.05 * memory
    assert (threads_after, tasks_after) == (threads, tasks)
