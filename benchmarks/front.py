"""A worker dies while two people stream: what the other one sees, and how soon the first one streams again.

    python -m benchmarks.front --output benchmarks/results/front.json

A front over two workers with a model that passes frames through, in processes of their own. Two WebRTC clients
(aiortc) send a camera of 25 frames a second and note when each picture comes. One worker is ended by SIGKILL. Its
client does what the page does: when nothing has come for a second, it asks whether its session has ended, and then
offers again with the session's id.
"""

import argparse
import asyncio
import contextlib
import fractions
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np
from aiortc import MediaStreamTrack, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError

from benchmarks.measuring import Results
from personalive.live.front.serve import serve_with
from personalive.live.options import ServeOptions
from personalive.processes import Seat
from personalive.testing.echo_worker import EchoWorkers

FPS = 25
SILENT_SECONDS = 1.0


class Camera(MediaStreamTrack):
    """A bar that moves over grey."""

    kind = "video"

    def __init__(self) -> None:
        super().__init__()
        self._began = time.monotonic()
        self._count = 0

    async def recv(self) -> av.VideoFrame:
        await asyncio.sleep(max(0.0, self._began + self._count / FPS - time.monotonic()))
        image = np.full((256, 256, 3), 120, dtype=np.uint8)
        image[:, self._count * 4 % 240 :][:, :16] = 255
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame.pts, frame.time_base = self._count * 90000 // FPS, fractions.Fraction(1, 90000)
        self._count += 1
        return frame


class Person:
    """One client."""

    def __init__(self, url: str) -> None:
        self.http = httpx.AsyncClient(base_url=url, timeout=30)
        self.pictures: list[float] = []
        """When each came."""
        self.session = ""
        self.messages: list[dict[str, Any]] = []
        self._heard = 0.0
        self._peer: RTCPeerConnection | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def connect(self, **more: Any) -> None:
        """Stream; `sessionId` continues a session."""
        peer = self._peer = RTCPeerConnection()
        channel = peer.createDataChannel("parameters")
        channel.on("message", self._hear)
        peer.on("track", lambda track: self._tasks.append(asyncio.ensure_future(self._watch(track))))
        peer.addTrack(Camera())
        await peer.setLocalDescription(await peer.createOffer())
        answer = await self.http.post(
            "/api/v1/webrtc/offer", json={"sdp": peer.localDescription.sdp, "type": "offer", **more}
        )
        answer.raise_for_status()
        self.session = answer.json()["sessionId"]
        await peer.setRemoteDescription(RTCSessionDescription(answer.json()["sdp"], "answer"))

    def _hear(self, text: str) -> None:
        self._heard = time.monotonic()
        self.messages.append(json.loads(text))

    async def _watch(self, track: MediaStreamTrack) -> None:
        with contextlib.suppress(MediaStreamError):
            while True:
                await track.recv()
                self.pictures.append(time.monotonic())

    async def until(self, pictures: int) -> None:
        """Wait for so many more."""
        wanted = len(self.pictures) + pictures
        while len(self.pictures) < wanted:
            await asyncio.sleep(0.01)

    async def notice_and_return(self) -> None:
        """As the page does."""
        while True:
            await asyncio.sleep(SILENT_SECONDS)
            if time.monotonic() - self._heard < SILENT_SECONDS:
                continue
            if (await self.http.get(f"/api/v1/sessions/{self.session}")).status_code == 404:
                break
        await self.hang_up()
        await self.connect(sessionId=self.session)

    async def hang_up(self) -> None:
        """End the connection."""
        for task in self._tasks:
            task.cancel()
        if self._peer is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._peer.close(), 0.5)


async def measure(url: str, seconds: float, results: Results) -> None:
    """Let two stream, end one's worker, and look at both."""
    other, owner = Person(url), Person(url)
    for person in (other, owner):
        first = (await person.http.get("/api/v1/presets")).json()[0]["url"]
        portrait = (await person.http.get(first)).content
        (await person.http.post("/api/v1/personalive/reference", content=portrait)).raise_for_status()
        await person.connect()
        await person.until(25)
    await asyncio.sleep(seconds)
    places = (await owner.http.get("/admin/drain")).json()
    results.add("sessions of each worker", [each["sessions"] for each in places])
    killed = time.monotonic()
    os.kill(places[1]["pid"], signal.SIGKILL)
    returning = asyncio.create_task(owner.notice_and_return())
    before = len(owner.pictures)
    await returning
    answered = time.monotonic()
    while len(owner.pictures) <= before:
        await asyncio.sleep(0.005)
    again = owner.pictures[before]
    await owner.until(50)
    await asyncio.sleep(seconds)
    around = [each for each in other.pictures if killed - seconds < each < again + seconds]
    gaps = np.diff(around)
    median = statistics.median(gaps)
    results.add("other: pictures", len(around))
    results.add("other: gap, median ms", 1e3 * median)
    results.add("other: gap, largest ms", 1e3 * float(gaps.max()))
    results.add("other: largest / median", float(gaps.max()) / median)
    results.add("killed: offer answered after s", answered - killed)
    results.add("killed: streams again after s", again - killed)
    results.add("killed: messages", [each["text"] for each in owner.messages if each["type"] == "message"])
    for person in (other, owner):
        await person.hang_up()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="of streaming before and after")
    parser.add_argument("--call_ms", type=float, default=75.0)
    parser.add_argument("--serve", type=int, metavar="PORT", help=argparse.SUPPRESS)  # the other process
    parser.add_argument("--output", "-o", type=Path, default=Path("front.json"))
    options = parser.parse_args()
    if options.serve:
        serve_with(
            ServeOptions(port=options.serve, face_boxes="keypoints", workers=2),
            [Seat(threads=1)] * 2,
            EchoWorkers(seconds=options.call_ms / 1e3),
        )
        return
    results = Results(options.output)
    results.add("cores", len(os.sched_getaffinity(0)))
    results.add("load average", os.getloadavg()[0])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "benchmarks.front", "--serve", str(port), "--call_ms", str(options.call_ms)]
    with subprocess.Popen(command) as server:
        url = f"http://127.0.0.1:{port}"
        try:
            _wait(url)
            asyncio.run(measure(url, options.seconds, results))
        finally:
            server.terminate()


def _wait(url: str) -> None:
    while True:
        with contextlib.suppress(httpx.TransportError):
            if all(each["state"] == "loaded" for each in httpx.get(f"{url}/admin/drain").json()):
                return
        time.sleep(0.2)


if __name__ == "__main__":
    main()
