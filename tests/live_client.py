"""A client of the interface table, written from the table alone: load → reference → offer → stream."""

import asyncio
import contextlib
import fractions
import json
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import av
import httpx
import numpy as np
from aiortc import MediaStreamTrack, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError

from personalive.types import RGBArray
from tests.live_support import WAIT

CLOCK = fractions.Fraction(1, 90000)


class Camera(MediaStreamTrack):
    """A webcam that shows what a function draws."""

    kind = "video"

    def __init__(self, draw: Callable[[int], RGBArray], fps: float = 25) -> None:
        super().__init__()
        self._draw, self._fps, self._count = draw, fps, 0
        self._began: float | None = None

    async def recv(self) -> av.VideoFrame:
        if self.readyState != "live":
            raise MediaStreamError
        now = time.monotonic()
        self._began = self._began or now
        await asyncio.sleep(max(0.0, self._began + self._count / self._fps - now))
        frame = av.VideoFrame.from_ndarray(self._draw(self._count), format="rgb24")
        frame.pts, frame.time_base = int(self._count / self._fps * 90000), CLOCK
        self._count += 1
        return frame


def grey(level: int = 120, size: tuple[int, int] = (256, 256)) -> Callable[[int], RGBArray]:
    """A camera's picture: plain, with a mark that moves."""

    def draw(index: int) -> RGBArray:
        image = np.full((size[1], size[0], 3), level, dtype=np.uint8)
        left = index * 4 % (size[0] - 40)
        image[60:-60, left : left + 20] = 255
        return image

    return draw


class LiveClient:
    """One client, with its own cookies."""

    def __init__(self, url: str, token: str | None = None) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.http = httpx.AsyncClient(base_url=url, headers=headers, timeout=WAIT)
        self.peer: RTCPeerConnection | None = None
        self.session_id: str | None = None
        self.messages: list[dict[str, Any]] = []
        self.pictures: deque[tuple[float, RGBArray]] = deque(maxlen=500)
        self.received = 0
        self.sounds = 0
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "LiveClient":
        return self

    async def __aexit__(self, *problem: object) -> None:
        await self.hang_up()
        await self.http.aclose()

    async def load(self, **parameters: Any) -> None:
        answer = await self.http.post(
            "/api/v1/pipeline/load", json={"pipeline_id": "personalive", "load_params": parameters}
        )
        answer.raise_for_status()
        async with asyncio.timeout(WAIT):
            while (await self.http.get("/api/v1/pipeline/status")).json()["status"] != "loaded":
                await asyncio.sleep(0.05)

    async def reference(self, data: bytes, kind: str = "image/png") -> httpx.Response:
        headers = {"Content-Type": kind}
        return await self.http.post("/api/v1/personalive/reference", content=data, headers=headers)

    async def offer(self, *tracks: MediaStreamTrack, **extra: Any) -> httpx.Response:
        """Send an offer, and connect if it is taken."""
        servers = (await self.http.get("/api/v1/webrtc/ice-servers")).json()["iceServers"]
        assert servers == []
        return await self._connect("/api/v1/webrtc/offer", tracks, extra)

    async def look_on(self, watch_id: str) -> httpx.Response:
        """Watch someone else's session."""
        return await self._connect(f"/api/v1/watch/{watch_id}/offer", (), {})

    async def _connect(self, path: str, tracks: tuple[MediaStreamTrack, ...], extra: dict[str, Any]) -> httpx.Response:
        self.peer = RTCPeerConnection()
        self.channel = self.peer.createDataChannel("parameters")
        self.channel.on("message", lambda text: self.messages.append(json.loads(text)))
        self.peer.on("track", self._on_track)
        for track in tracks:
            self.peer.addTrack(track)
        if not tracks:
            self.peer.addTransceiver("video", direction="recvonly")
        await self.peer.setLocalDescription(await self.peer.createOffer())
        local = self.peer.localDescription
        answer = await self.http.post(path, json={"sdp": local.sdp, "type": local.type, **extra})
        if answer.status_code == 200:
            content = answer.json()
            self.session_id = content.get("sessionId")
            await self.peer.setRemoteDescription(RTCSessionDescription(content["sdp"], content["type"]))
        return answer

    async def watch_id(self) -> str:
        """The id by which others may watch this client."""
        return str((await self.http.get("/api/v1/watch")).json()["watchId"])

    async def send(self, **parameters: Any) -> None:
        async with asyncio.timeout(WAIT):
            while self.channel.readyState != "open":
                await asyncio.sleep(0.02)
        self.channel.send(json.dumps(parameters))

    async def watch(self, count: int, seconds: float = WAIT) -> list[RGBArray]:
        """The next pictures."""
        begin = self.received
        async with asyncio.timeout(seconds):
            while self.received < begin + count:
                await asyncio.sleep(0.02)
        late = self.received - begin
        return [image for _, image in list(self.pictures)[-late:][:count]]

    async def until_message(self, test: Callable[[dict[str, Any]], bool], seconds: float = WAIT) -> dict[str, Any]:
        async with asyncio.timeout(seconds):
            while not (found := [each for each in self.messages if test(each)]):
                await asyncio.sleep(0.02)
        return found[0]

    async def hang_up(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.peer is not None:
            with contextlib.suppress(TimeoutError):  # aiortc may wait for ever for a server that has left
                async with asyncio.timeout(10):
                    await self.peer.close()

    def cut(self) -> None:
        """Be gone without a word, as when a cable is cut."""
        assert self.peer is not None and self.peer.sctp is not None
        for protocol in self.peer.sctp.transport.transport._connection._protocols:
            protocol.transport.abort()

    def _on_track(self, track: MediaStreamTrack) -> None:
        self._tasks.append(asyncio.ensure_future(self._read(track)))

    async def _read(self, track: MediaStreamTrack) -> None:
        with contextlib.suppress(MediaStreamError):
            while True:
                frame = await track.recv()
                if track.kind == "video":
                    self.pictures.append((time.monotonic(), frame.to_ndarray(format="rgb24")))
                    self.received += 1
                else:
                    self.sounds += 1
