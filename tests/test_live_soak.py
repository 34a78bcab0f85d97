"""Sessions that come, stall, vanish and flood: the server's memory, files and tasks stay as they are.

SOAK_SESSIONS=2000 python -m pytest -m slow -s tests/test_live_soak.py
"""

import asyncio
import contextlib
import dataclasses
import json
import os
import time
from pathlib import Path

import pytest
import websockets
from prometheus_client.parser import text_string_to_metric_families

from tests.hostile.live_process import LiveProcess, served
from tests.live_client import Camera, LiveClient, grey
from tests.live_support import BLUE, GREEN, RED, picture, until

SESSIONS = int(os.environ.get("SOAK_SESSIONS", "2000"))
WARM_UP = SESSIONS // 10
"""Sessions before the first look: codecs, pools of threads and allocators are made when first used."""
CROWD = 6
"""Visitors at once."""
SIZE = 256
"""Width and height of the portrait's pictures."""
COLOURS = (RED, GREEN, BLUE)
FRAME = bytes(8) + picture((90, 90, 90), (128, 128), "JPEG")


@dataclasses.dataclass(frozen=True)
class Figures:
    """What a server holds while nobody uses it."""

    sessions: int
    memory: float
    """Resident, MiB."""
    files: int
    tasks: int
    threads: int


def figures(server: LiveProcess) -> Figures:
    """Once everybody has left."""
    with server.client() as client:

        def metric(name: str) -> int:
            families = text_string_to_metric_families(client.get("/metrics").text)
            found = (each.value for family in families for each in family.samples if each.name == name)
            return int(next(found))

        until(lambda: metric("personalive_sessions") == 0, 90)
        tasks = min(metric("personalive_tasks") for _ in range(20) if not time.sleep(0.5))
        opened = metric("personalive_sessions_opened_total")
    process = server.process
    result = Figures(opened, process.memory_info().rss / 2**20, process.num_fds(), tasks, process.num_threads())
    print(result, flush=True)
    return result


# ---- ways to use the server for a moment ----


@contextlib.asynccontextmanager
async def over_webrtc(server: LiveProcess, index: int):
    """Somebody whose pictures come; nobody if there was no room."""
    async with LiveClient(server.url) as client:
        await client.reference(picture(COLOURS[index % 3]))
        camera = Camera(grey(size=(128 + 32 * (index % 5), 160)))
        answer = await client.offer(camera)
        if answer.status_code == 200:
            await client.watch(5, 60)
            yield client, camera
        else:
            assert answer.status_code == 503
            yield None, camera


@contextlib.asynccontextmanager
async def over_socket(server: LiveProcess, index: int):
    """The same without WebRTC: the socket, or None if there was no room."""
    async with LiveClient(server.url) as client:
        await client.reference(picture(COLOURS[index % 3]))
        cookie = "; ".join(f"{name}={value}" for name, value in client.http.cookies.items())
        url = server.url.replace("http", "ws") + "/api/v1/ws"
        async with websockets.connect(url, additional_headers={"Cookie": cookie}, close_timeout=1) as socket:
            first = json.loads(await socket.recv())
            yield socket if first["type"] == "session" else None


async def come_and_go(server: LiveProcess, index: int) -> None:
    async with over_webrtc(server, index) as (client, _):
        if client is None:
            return
        path = f"/api/v1/sessions/{client.session_id}"
        if index % 2:
            await client.http.post(f"{path}/snapshot")
            await client.send(reset_cache=True, mirror=True)
            await client.watch(3, 60)
        if index % 3:
            await client.http.delete(path)


async def come_with_a_viewer(server: LiveProcess, index: int) -> None:
    async with over_webrtc(server, index) as (client, _), LiveClient(server.url) as viewer:
        if client is not None and (await viewer.look_on(await client.watch_id())).status_code == 200:
            await viewer.watch(3, 60)
            await client.http.delete(f"/api/v1/sessions/{client.session_id}")


async def stall(server: LiveProcess, index: int) -> None:
    """The camera stops: the server lets the session go."""
    async with over_webrtc(server, index) as (client, camera):
        if client is not None:
            camera.stop()
            await client.until_message(lambda each: each["type"] == "stream_stopped", 60)


async def vanish(server: LiveProcess, index: int) -> None:
    """As if the cable were cut."""
    async with over_webrtc(server, index) as (client, _):
        if client is not None:
            client.cut()


async def stall_over_socket(server: LiveProcess, index: int) -> None:
    """Reads nothing and sends nothing more; then the socket is cut."""
    async with over_socket(server, index) as socket:
        if socket is not None:
            with contextlib.suppress(websockets.ConnectionClosed):  # the server may have ended it first
                for _ in range(4):
                    await socket.send(FRAME)
                await asyncio.sleep(1)
            socket.transport.abort()


async def flood_frames(server: LiveProcess, index: int) -> None:
    async with over_socket(server, index) as socket:
        if socket is None:
            return
        with contextlib.suppress(websockets.ConnectionClosed, TimeoutError):
            async with asyncio.timeout(3):
                while True:
                    await socket.send(FRAME)
        socket.transport.abort()


async def flood_changes(server: LiveProcess, index: int) -> None:
    async with over_webrtc(server, index) as (client, _):
        if client is not None:
            for seed in range(300):
                await client.send(seed=seed, motion_strength=1.0)
                await asyncio.sleep(0)
            await client.http.delete(f"/api/v1/sessions/{client.session_id}")


async def flood_offers(server: LiveProcess, index: int) -> None:
    """Ten sessions that nobody connects to, and ten offers to watch one."""
    async with over_webrtc(server, index) as (client, _), LiveClient(server.url) as flooder:
        if client is None:
            return
        offer = {"sdp": client.peer.localDescription.sdp, "type": "offer"}
        watch = f"/api/v1/watch/{await client.watch_id()}/offer"
        for path in ("/api/v1/webrtc/offer", watch):
            for _ in range(10):
                await flooder.http.post(path, json=offer)
        await client.http.delete(f"/api/v1/sessions/{client.session_id}")


VISITS = (
    come_and_go,
    come_with_a_viewer,
    stall,
    come_and_go,
    vanish,
    stall_over_socket,
    flood_frames,
    come_and_go,
    flood_changes,
    flood_offers,
)


def visits(server: LiveProcess, first: int, sessions: int) -> int:
    """A few at a time come and go until this many sessions were opened; returns the number of the next visit."""

    async def crowd() -> int:
        index, shown = first, 0
        async with LiveClient(server.url) as operator:

            async def opened() -> int:
                text = (await operator.http.get("/metrics")).text
                return int(float(text.split("\npersonalive_sessions_opened_total ")[1].split()[0]))

            while (now := await opened()) < sessions:
                if now >= shown + SESSIONS // 20:
                    shown = now
                    print(f"{now} sessions: {server.process.memory_info().rss / 2**20:.1f} MiB", flush=True)
                visitors = range(index, index + CROWD)
                await asyncio.gather(*(VISITS[each % len(VISITS)](server, each) for each in visitors))
                index += CROWD
        return index

    return asyncio.run(crowd())


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_sessions_that_come_stall_vanish_and_flood_leave_nothing_behind(tmp_path: Path):
    with served(tmp_path, "--max_sessions", "24", "--idle_seconds", "5", "--offer_rate", "1e6") as server:
        with server.client() as client:
            client.post("/api/v1/pipeline/load", json={"load_params": {"width": SIZE, "height": SIZE}})
            until(lambda: client.get("/health").json()["pipeline"] == "loaded", 60)
        start = figures(server)
        index = visits(server, 0, WARM_UP)
        before = figures(server)
        visits(server, index, SESSIONS)
        after = figures(server)
        assert not server.defects()
    assert after.memory < 1.05 * before.memory
    assert after.tasks <= start.tasks and after.files <= start.files
    assert after.threads <= before.threads + 8
