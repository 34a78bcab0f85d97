"""The whole server with a real face mesh: what happens while there is no face to see."""

import asyncio
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from personalive.engine.cues import Cue
from personalive.live.core.faces import MeshFaces
from personalive.media.portrait import PortraitFinder
from personalive.testing.echo import EchoEngine
from personalive.testing.pictures import faceless, photograph
from personalive.types import Box, RGBArray
from tests import brought
from tests.live_client import Camera, LiveClient
from tests.live_support import WAIT, live_server, picture, until

FACE = photograph()[:, 40:440][::2, ::2].copy()
BLACK = np.zeros_like(FACE)
DRAWN = np.asarray(Image.open(Path(__file__).parents[1] / "demo" / "portrait.png").convert("RGB"))
CASES = Path(__file__).parents[2] / "shared" / "cases"


class Watched(EchoEngine):
    """Remembers what it is given."""

    def __init__(self):
        super().__init__(256, 256, chunk_frames=4, delay_frames=12)
        self.portrait: tuple[RGBArray, Box | None]
        self.cues: list[Cue] = []

    def reference(self, image, face_box):
        self.portrait = image, face_box
        return super().reference(image, face_box)

    def driving(self, images, face_boxes, cues=None):
        self.cues += cues or []
        return super().driving(images, face_boxes, cues)


@pytest.fixture(scope="module")
def server():
    with live_server(Watched(), MeshFaces(), linger_seconds=0.3) as running:
        yield running


@pytest.fixture(scope="module")
def finder():
    with PortraitFinder() as one:
        yield one


@pytest.fixture(autouse=True)
def nothing_stays(server):
    yield
    until(lambda: not server.hub.entries)


def portrait(image: RGBArray) -> bytes:
    stream = BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


async def test_portraits_without_a_face_are_refused_with_the_reason(server):
    async with LiveClient(server.url) as client:
        for body in (portrait(faceless()), portrait(BLACK), picture((255, 255, 255), (64, 64))):
            answer = await client.reference(body)
            assert answer.status_code == 400 and "face" in answer.json()["detail"], answer.text
        assert (await client.reference(portrait(FACE))).status_code == 200


@pytest.mark.parametrize(
    ("suffix", "profile"),
    [("heic", False), ("avif", False), ("tiff", False), ("jp2", False), ("bmp", False), ("webp", True), ("png", True)],
)
def test_portraits_of_every_kind_are_seen_as_their_owner_sees_them(server, finder, tmp_path, suffix, profile):
    """The truth is the picture that was stored; the crop and the colours are those of files."""
    given = brought.in_p3(DRAWN) if profile else DRAWN
    path = brought.save_still(tmp_path / f"one.{suffix}", given, profile=brought.p3_profile() if profile else None)
    answer = upload(server, path.read_bytes())
    assert answer == {"success": True, "message": "the portrait is set and used by the next session", "remarks": []}
    assert same(server.engine.portrait, finder.find(DRAWN, (256, 256), "auto"))


def test_an_upside_down_portrait_is_turned_and_its_owner_told(server, finder):
    (remark,) = upload(server, portrait(np.rot90(DRAWN, 2)))["remarks"]
    assert "half a turn" in remark
    assert same(server.engine.portrait, finder.find(DRAWN, (256, 256), "auto"))


@pytest.mark.skipif(not CASES.is_dir(), reason="the files of ../shared/cases are not here")
@pytest.mark.parametrize(
    ("name", "remark"),
    [
        ("iphone_grid2x2.heic", None),
        ("p3.png", None),
        ("alpha.png", None),
        ("tiff.tif", None),
        ("upside.png", "half a turn"),
        ("small_face.png", None),
        ("two_faces.png", "2 faces"),
    ],
)
def test_the_cases_of_portraits(server, finder, name, remark):
    remarks = upload(server, (CASES / name).read_bytes())["remarks"]
    assert [remark in each for each in remarks] == [True] if remark else remarks == []
    image, box = server.engine.portrait
    assert box is not None and 0.2 < (box[2] - box[0]) / image.shape[1] < 0.7, "head and shoulders"
    if name in ("iphone_grid2x2.heic", "p3.png", "tiff.tif", "upside.png"):
        assert same(server.engine.portrait, finder.find(DRAWN, (256, 256), "auto"))


@pytest.mark.skipif(not CASES.is_dir(), reason="the files of ../shared/cases are not here")
def test_a_video_is_no_portrait_for_a_server(server):
    with server.client() as client:
        answer = client.post("/api/v1/personalive/reference", content=(CASES / "flash.mp4").read_bytes())
    assert answer.status_code == 400 and "HEIC" in answer.json()["detail"], answer.text


def upload(server, body):
    with server.client() as client:
        answer = client.post("/api/v1/personalive/reference", content=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def same(given, expected):
    """Whether two portraits show the same, but for what lossy formats lose and a pixel or two of the crop."""
    (image, box), whole = given, expected.image
    size = whole.shape[1], whole.shape[0]
    part = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC), float)
    moved = np.abs(np.subtract(box, expected.box)).max()
    return moved <= 4 and np.abs(part - whole).mean() < 4


async def test_until_there_is_a_face_the_portrait_rests_and_the_client_is_told(server):
    seen = [BLACK]
    server.engine.cues.clear()
    async with LiveClient(server.url) as client:
        await client.reference(portrait(FACE))
        await client.offer(Camera(lambda index: seen[0]))
        await client.until_message(lambda each: each.get("code") == "no_face")
        while not server.engine.cues:  # the client is told before the model is
            await asyncio.sleep(0.05)
        assert set(server.engine.cues) == {Cue(weight=0.0, neutral=1.0)}
        seen[0] = FACE
        await client.until_message(lambda each: each.get("code") == "face")
        await client.watch(10)
        assert any(cue.anchor for cue in server.engine.cues) and server.engine.cues[-1].weight > 0
        assert not server.hub.entries[client.session_id].session.closed


async def test_a_camera_that_turns_black_leaves_the_session_going_and_it_recovers(server):
    seen = [FACE]
    async with LiveClient(server.url) as client:
        await client.reference(portrait(FACE))
        await client.offer(Camera(lambda index: seen[0]))
        await client.watch(10)
        seen[0] = BLACK
        await client.until_message(lambda each: each.get("code") == "no_face")
        server.engine.cues.clear()
        await client.watch(30)
        assert server.engine.cues and all(cue.weight == 0 for cue in server.engine.cues), "no motion of black pictures"
        assert (await client.watch(1))[0][80:176, 80:176].mean() < 40, "the echo of a black camera is black"
        seen[0] = FACE
        await client.until_message(lambda each: each.get("code") == "face")
        async with asyncio.timeout(WAIT):
            while (await client.watch(1))[0][80:176, 80:176].mean() < 60:
                pass
