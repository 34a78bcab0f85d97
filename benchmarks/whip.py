"""A client of WHIP and WHEP that drives a session with numbers and reads them from the pictures that come back.

It is written from the two specifications with aiortc, and knows nothing of the server but the two addresses.
"""

import asyncio
import fractions
import time
from typing import Any
from urllib.parse import urljoin

import av
import httpx
import numpy as np
from aiortc import MediaStreamTrack, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError

from personalive.live.core.pictures import encode
from personalive.types import RGBArray

BITS = 10
GREY = 112
"""As in latency_page.js: fields are darker or lighter than this."""


def corner(bit: int, field: int) -> tuple[int, int]:
    """Where a field begins, x and y."""
    return round(1.5 * field + bit % 5 * field), 3 * field + bit // 5 * field


def numbered(number: int, size: int) -> RGBArray:
    """A picture of a number."""
    image, field = np.full((size, size, 3), GREY, np.uint8), size // 8
    for bit in range(BITS):
        x, y = corner(bit, field)
        image[y : y + field, x : x + field] = 255 * (number >> bit & 1)
    return image


def number_in(image: RGBArray) -> int:
    """The number of a picture of any size."""
    field = image.shape[1] // 8
    places = [corner(bit, field) for bit in range(BITS)]
    return sum((int(image[y + field // 2, x + field // 2].mean()) > GREY) << bit for bit, (x, y) in enumerate(places))


class Numbers(MediaStreamTrack):
    """A camera that counts."""

    kind = "video"

    def __init__(self, size: int, fps: float) -> None:
        super().__init__()
        self._size, self._fps = size, fps
        self._count, self._began = 0, 0.0
        self.drawn: dict[int, float] = {}

    async def recv(self) -> av.VideoFrame:
        """The next number when it is due."""
        now = time.monotonic()
        self._began = self._began or now
        await asyncio.sleep(max(0.0, self._began + self._count / self._fps - now))
        self._count += 1
        number = self._count % (1 << BITS)
        frame = av.VideoFrame.from_ndarray(numbered(number, self._size), format="rgb24")
        frame.pts, frame.time_base = int(self._count / self._fps * 90000), fractions.Fraction(1, 90000)
        self.drawn[number] = time.monotonic()
        return frame


async def _exchange(peer: RTCPeerConnection, http: httpx.AsyncClient, endpoint: str) -> str:
    """Offer, and take the answer; returns the address of what was made."""
    await peer.setLocalDescription(await peer.createOffer())
    kind = {"Content-Type": "application/sdp"}
    answer = (await http.post(endpoint, content=peer.localDescription.sdp, headers=kind)).raise_for_status()
    await peer.setRemoteDescription(RTCSessionDescription(answer.text, "answer"))
    return urljoin(str(answer.url), answer.headers["location"])


async def measure(url: str, size: int, fps: float, seconds: float) -> dict[str, Any]:
    """Drive and watch for a while; marks as the page's script finds them: [seconds since the start, delay in ms]."""
    driver, viewer, camera = RTCPeerConnection(), RTCPeerConnection(), Numbers(size, fps)
    began, marks, times = time.monotonic(), list[list[float]](), list[float]()

    async def read(track: MediaStreamTrack) -> None:
        while True:
            try:
                frame = await track.recv()
            except MediaStreamError:
                return
            assert isinstance(frame, av.VideoFrame)
            now = time.monotonic()
            times.append(now - began)
            picture = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
            drawn = camera.drawn.pop(number_in(picture), None)
            if drawn is not None:
                marks.append([now - began, 1e3 * (now - drawn)])

    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        own = (await http.get("/api/v1/watch")).json()
        await http.post("/api/v1/personalive/reference", content=encode(numbered(0, size), "PNG"))
        driver.addTransceiver(camera, direction="sendonly")
        made = [await _exchange(driver, http, f"/api/v1/whip?key={own['key']}")]
        while not (await http.get(f"/api/v1/watch/{own['watchId']}")).json()["live"]:
            await asyncio.sleep(0.1)
        reading = list[asyncio.Task[None]]()
        viewer.on("track", lambda track: reading.append(asyncio.create_task(read(track))))
        viewer.addTransceiver("video", direction="recvonly")
        made.append(await _exchange(viewer, http, f"/api/v1/whep/{own['watchId']}"))
        await asyncio.sleep(seconds)
        figures = (await http.get("/api/v1/sessions/current")).json()["stats"]
        for each in reversed(made):
            await http.delete(each)
    await asyncio.gather(driver.close(), viewer.close())
    await asyncio.gather(*reading)
    return {"marks": marks, "times": times, "stats": [{**figures, "at": seconds}]}
