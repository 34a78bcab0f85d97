"""WHIP in and WHEP out with a client written from RFC 9725 and the WHEP draft, which knows nothing of ours."""

import asyncio
import contextlib
import time
from urllib.parse import urljoin

import httpx
import numpy as np
import pytest
from aiortc import MediaStreamTrack, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import AudioStreamTrack, MediaStreamError

from personalive.testing.echo import EchoEngine
from tests.live_client import Camera, grey
from tests.live_support import BLUE, RED, WAIT, live_server, picture, shows, until

SDP = {"Content-Type": "application/sdp"}


class Exchange:
    """One WHIP or WHEP session: an offer posted, an answer taken, a resource deleted."""

    def __init__(self, endpoint: str, *tracks: MediaStreamTrack, token: str | None = None) -> None:
        self.endpoint, self.tracks = endpoint, tracks
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.peer = RTCPeerConnection()
        self.pictures: list[np.ndarray] = []
        self.sounds: list[float] = []
        self.seen: list[float] = []
        """How bright the picture was at each sound."""
        self.tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Exchange":
        for track in self.tracks:
            self.peer.addTransceiver(track, direction="sendonly")
        if not self.tracks:
            self.peer.on("track", lambda track: self.tasks.append(asyncio.ensure_future(self._read(track))))
            for kind in ("video", "audio"):
                self.peer.addTransceiver(kind, direction="recvonly")
        await self.peer.setLocalDescription(await self.peer.createOffer())
        async with httpx.AsyncClient(timeout=WAIT) as http:
            offer = self.peer.localDescription.sdp
            answer = await http.post(self.endpoint, content=offer, headers=SDP | self.headers)
        assert answer.status_code == 201, answer.text
        assert answer.headers["content-type"].startswith("application/sdp")
        self.resource = urljoin(self.endpoint, answer.headers["location"])
        await self.peer.setRemoteDescription(RTCSessionDescription(answer.text, "answer"))
        return self

    async def __aexit__(self, *problem: object) -> None:
        async with httpx.AsyncClient(timeout=WAIT) as http:
            self.end = await http.delete(self.resource, headers=self.headers)
        await self.peer.close()
        await asyncio.gather(*self.tasks)

    async def _read(self, track: MediaStreamTrack) -> None:
        with contextlib.suppress(MediaStreamError):
            while True:
                frame = await track.recv()
                if track.kind == "video":
                    self.pictures.append(frame.to_ndarray(format="rgb24"))
                else:
                    self.sounds.append(float(np.abs(frame.to_ndarray().astype(float)).max()))
                    self.seen.append(float(self.pictures[-1][100:150, 100:150].mean()) if self.pictures else np.nan)


class Tone(AudioStreamTrack):
    """A loud tone, while it is on."""

    def __init__(self, on=lambda: True):
        super().__init__()
        self._on = on

    async def recv(self):
        frame = await super().recv()
        wave = 12000 * self._on() * np.sin(np.arange(frame.samples) * 0.2)
        frame.planes[0].update(wave.astype("<i2").tobytes())
        return frame


@pytest.fixture(scope="module")
def server():
    engine = EchoEngine(256, 256, chunk_frames=4, delay_frames=12)
    with live_server(engine, max_sessions=2, linger_seconds=0.3, tokens=("a secret token",)) as running:
        yield running


async def test_a_program_drives_a_portrait_and_another_one_watches_it(server):
    token = {"Authorization": "Bearer a secret token"}
    async with httpx.AsyncClient(base_url=server.url, headers=token, timeout=WAIT) as page:
        own = (await page.get("/api/v1/watch")).json()
        await page.post("/api/v1/personalive/reference", content=picture(RED))
        whip = f"{server.url}/api/v1/whip?key={own['key']}"
        whep = f"{server.url}/api/v1/whep/{own['watchId']}"
        async with Exchange(whip, Camera(grey()), Tone(), token="a secret token") as driver:
            await asyncio.to_thread(until, lambda: next(iter(server.hub.entries.values())).is_shown)
            unseen = (await page.get("/api/v1/sessions/current")).json()["stats"]
            assert unseen["fps_out"] == 0 and not {"delay_ms", "delay_p95_ms"} & set(unseen)
            async with Exchange(whep) as viewer:
                await asyncio.to_thread(until, lambda: viewer.pictures and shows(viewer.pictures[-1], RED))
                await asyncio.to_thread(until, lambda: max(viewer.sounds, default=0) > 3000)
                # What the viewer sees first may be the portrait at rest, which has no delay.
                while "delay_ms" not in (seen := (await page.get("/api/v1/sessions/current")).json()["stats"]):
                    await asyncio.sleep(0.05)
                assert seen["fps_out"] > 0 and 0 < seen["delay_ms"] <= seen["delay_p95_ms"]
                await page.put("/api/v1/sessions/current/reference", content=picture(BLUE))
                await asyncio.to_thread(until, lambda: shows(viewer.pictures[-1], BLUE))
            figures = (await page.get("/api/v1/sessions/current")).json()["stats"]
            assert figures["dropped_out"] == 0  # nobody reads the driver's own copy
            assert viewer.end.status_code == 200
            entry = next(iter(server.hub.entries.values()))
            await asyncio.to_thread(until, lambda: not entry.viewers)
        assert driver.end.status_code == 200
        await asyncio.to_thread(until, lambda: not server.hub.entries)
        async with httpx.AsyncClient(timeout=WAIT) as nobody:
            assert (await nobody.post(whep, content="v=0", headers=SDP)).status_code == 404
            assert (await nobody.post(whip, content="v=0", headers=SDP)).status_code == 401
            assert (await nobody.post(whip, json={}, headers=token)).status_code == 415


async def test_candidates_may_follow_and_viewers_never_see_what_is_hidden(server):
    token = {"Authorization": "Bearer a secret token"}
    async with httpx.AsyncClient(base_url=server.url, headers=token, timeout=WAIT) as page:
        own = (await page.get("/api/v1/watch")).json()
        await page.post("/api/v1/personalive/reference", content=picture(RED))
        whip = f"{server.url}/api/v1/whip?key={own['key']}"
        async with Exchange(whip, Camera(grey()), token="a secret token") as driver:
            fragment = "a=mid:0\r\na=candidate:1 1 udp 1 127.0.0.1 9 typ host\r\n"
            kind = {"Content-Type": "application/trickle-ice-sdpfrag"}
            assert (await page.patch(driver.resource, content=fragment, headers=kind)).status_code in (204, 403)
            await asyncio.to_thread(until, lambda: next(iter(server.hub.entries.values())).is_shown)
            async with Exchange(f"{server.url}/api/v1/whep/{own['watchId']}") as viewer:
                await asyncio.to_thread(until, lambda: viewer.pictures)
                toggled = await page.post("/api/v1/sessions/current/toggle/hidden")
                assert toggled.json()["hidden"] is True
                # The still portrait is red all over; the driver's picture is grey inside its border.
                await asyncio.to_thread(until, lambda: np.abs(viewer.pictures[-1][100:150, 100:150] - RED).max() < 40)
                still = (await page.get(f"/api/v1/watch/{own['watchId']}")).json()
                assert still == {"live": False}
                assert (await page.get(f"/api/v1/watch/{own['watchId']}/portrait")).headers[
                    "content-type"
                ] == "image/jpeg"
                await page.post("/api/v1/sessions/current/toggle/hidden")
                await asyncio.to_thread(
                    until, lambda: np.abs(viewer.pictures[-1][100:150, 100:150].astype(int) - RED).max() > 80
                )


@pytest.mark.slow
async def test_sound_is_heard_while_the_picture_that_it_belongs_to_is_seen(server):
    def on():
        return int(time.monotonic()) % 2 == 1

    def flash(index):
        return np.full((256, 256, 3), 220 if on() else 60, np.uint8)

    token = {"Authorization": "Bearer a secret token"}
    async with httpx.AsyncClient(base_url=server.url, headers=token, timeout=WAIT) as page:
        own = (await page.get("/api/v1/watch")).json()
        await page.post("/api/v1/personalive/reference", content=picture(RED))
        whip = f"{server.url}/api/v1/whip?key={own['key']}"
        async with Exchange(whip, Camera(flash), Tone(on), token="a secret token"):
            await asyncio.to_thread(until, lambda: next(iter(server.hub.entries.values())).is_shown)
            async with Exchange(f"{server.url}/api/v1/whep/{own['watchId']}") as viewer:
                await asyncio.to_thread(until, lambda: len(viewer.sounds) > 400)
    bright, loud = np.array(viewer.seen[100:]) > 140, np.array(viewer.sounds[100:]) > 1000
    assert bright.any() and not bright.all()
    assert np.mean(bright == loud) > 0.8, "without the picture's delay of more than half a second, less than half"
