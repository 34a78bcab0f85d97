"""The whole server with a real face mesh: what happens while there is no face to see."""

import asyncio
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from personalive.live.core.faces import MeshFaces
from personalive.testing.echo import EchoEngine
from personalive.testing.pictures import faceless, photograph
from personalive.types import RGBArray
from tests.live_client import Camera, LiveClient
from tests.live_support import live_server, picture, until

FACE = photograph()[:, 40:440][::2, ::2].copy()
BLACK = np.zeros_like(FACE)


@pytest.fixture(scope="module")
def server():
    with live_server(EchoEngine(256, 256, window=4, delay_frames=12), MeshFaces(), linger_seconds=0.3) as running:
        yield running


@pytest.fixture(autouse=True)
def nothing_stays(server):
    yield
    until(lambda: not server.hub.entries, 20)


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


async def test_black_frames_are_told_and_pictures_come_once_a_face_is_there(server):
    seen = [BLACK]
    async with LiveClient(server.url) as client:
        await client.reference(portrait(FACE))
        await client.offer(Camera(lambda index: seen[0]))
        await client.until_message(lambda each: each.get("code") == "no_face")
        assert client.received == 0
        seen[0] = FACE
        await client.until_message(lambda each: each.get("code") == "face")
        await client.watch(10)
        assert not server.hub.entries[client.session_id].session.closed


async def test_a_camera_that_turns_black_leaves_the_session_going_and_it_recovers(server):
    seen = [FACE]
    async with LiveClient(server.url) as client:
        await client.reference(portrait(FACE))
        await client.offer(Camera(lambda index: seen[0]))
        await client.watch(10)
        seen[0] = BLACK
        await client.until_message(lambda each: each.get("code") == "no_face")
        await client.watch(30)
        assert (await client.watch(1))[0][80:176, 80:176].mean() < 40, "the echo of a black camera is black"
        seen[0] = FACE
        await client.until_message(lambda each: each.get("code") == "face")
        async with asyncio.timeout(15):
            while (await client.watch(1))[0][80:176, 80:176].mean() < 60:
                pass
