"""Shows once what the live server does for others while it is attacked; prints figures and fails where they are bad.

    python -m tests.hostile.half_requests [--seconds 30]

From 127.0.0.1 and 127.0.0.2 at once, 300 connections each send half a request and wait, and others flood: requests one
after the other without a pause, offers, and a WebSocket with frames. Meanwhile `/health` is asked from both addresses,
and somebody's session runs over WebRTC at 25 pictures a second. The attackers run at the lowest priority, since on one
machine they would otherwise take the server's processor time by themselves.
"""

import argparse
import asyncio
import contextlib
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from tests.hostile.live_process import TREE, LiveProcess, served
from tests.live_client import Camera, LiveClient, grey
from tests.live_support import GREEN, picture

ADDRESSES = ("127.0.0.1", "127.0.0.2")
HALVES = 300
FLOODERS = 8
"""Connections from each address that send request after request."""
HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
OFFER = Path(__file__).with_name("chromium_offer.sdp").read_bytes().decode()


# ---- the attackers, in a process of their own ----


async def wait_with_half_a_request(port: int, address: str) -> None:
    """A new one for each that the server ends."""
    while True:
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))
            writer.write(HEALTH[:-2] + b"X-More: ")
            await reader.read()
            writer.close()
        await asyncio.sleep(1)


async def flood_with_requests(port: int, address: str) -> None:
    while True:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))
            while True:
                writer.write(HEALTH)
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
                await reader.readexactly(length)


async def flood_with_offers(port: int, address: str) -> None:
    transport = httpx.AsyncHTTPTransport(local_address=address)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", transport=transport, timeout=30) as client:
        while True:
            with contextlib.suppress(httpx.TransportError):
                await client.post("/api/v1/webrtc/offer", json={"sdp": OFFER, "type": "offer"})


async def flood_with_frames(port: int, address: str) -> None:
    frame = bytes(8) + picture((90, 90, 90), (64, 64), "JPEG")
    while True:
        with contextlib.suppress(OSError, WebSocketException, TimeoutError):
            async with connect(f"ws://127.0.0.1:{port}/api/v1/ws", local_addr=(address, 0)) as socket:
                while True:
                    await socket.send(frame)
        await asyncio.sleep(0.1)


async def attack(port: int) -> None:
    async with asyncio.TaskGroup() as tasks:
        for address in ADDRESSES:
            for _ in range(HALVES):
                tasks.create_task(wait_with_half_a_request(port, address))
            for _ in range(FLOODERS):
                tasks.create_task(flood_with_requests(port, address))
            tasks.create_task(flood_with_offers(port, address))
            tasks.create_task(flood_with_frames(port, address))


# ---- who suffers ----


async def ask_for_health(server: LiveProcess, times: list[tuple[int, float]], end: float) -> None:
    for address in itertools.cycle(ADDRESSES):
        if time.monotonic() > end:
            return
        began = time.monotonic()
        status = await asyncio.to_thread(server.health, address)
        times.append((status, time.monotonic() - began))
        await asyncio.sleep(0.5)


async def gaps(client: LiveClient, seconds: float) -> list[float]:
    """Seconds between one picture of a session and the next."""
    client.pictures.clear()
    await asyncio.sleep(seconds)
    arrived = [when for when, _ in client.pictures]
    return [after - before for before, after in itertools.pairwise(arrived)]


def described(name: str, found: list[float]) -> str:
    median, longest = statistics.median(found), max(found)
    late = sum(each > 2 * median for each in found)
    return (
        f"{name}: {len(found)} gaps, median {median * 1e3:.1f} ms, longest {longest * 1e3:.1f} ms "
        f"({longest / median:.2f} times the median; {late} over twice)"
    )


async def watch(server: LiveProcess, seconds: float) -> bool:
    async with LiveClient(server.url) as client:
        await client.reference(picture(GREEN))
        await client.offer(Camera(grey(size=(256, 256))))
        await client.watch(60, 60)
        print(described("before the attack", await gaps(client, min(seconds, 15))), flush=True)
        command = [
            "nice",
            "-n",
            "19",
            sys.executable,
            "-m",
            "tests.hostile.half_requests",
            "--attack",
            str(server.port),
        ]
        attackers = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, start_new_session=True)
        with contextlib.suppress(OSError):  # where Linux shares the processors among sessions, nice alone does nothing
            Path(f"/proc/{attackers.pid}/autogroup").write_text("19")
        try:
            await asyncio.sleep(5)
            health: list[tuple[int, float]] = []
            assert attackers.poll() is None
            asking = asyncio.create_task(ask_for_health(server, health, time.monotonic() + seconds))
            during = await gaps(client, seconds)
            await asking
            assert attackers.poll() is None
        finally:
            attackers.kill()
            attackers.wait()
        print(described("during the attack", during), flush=True)
        slowest = max(took for _, took in health)
        statuses = {status for status, _ in health}
        print(f"/health: asked {len(health)} times, answered {statuses}, the slowest after {slowest * 1e3:.0f} ms")
        metrics = (await client.http.get("/metrics")).text.splitlines()
        print(*(each for each in metrics if each.startswith(("personalive_waiting_conn", "personalive_displaced"))))
        return statuses == {200} and slowest < 1 and max(during) <= 2 * statistics.median(during)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--attack", type=int, metavar="PORT", help="only attack a server that runs already")
    options = parser.parse_args()
    if options.attack:
        asyncio.run(attack(options.attack))
    print(f"server of {TREE}, load average {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as folder, served(Path(folder)) as server:
        fine = asyncio.run(watch(server, options.seconds))
    print("as it should be" if fine else "NOT as it should be")
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
