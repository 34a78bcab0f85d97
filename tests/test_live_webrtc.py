"""Sessions over WebRTC, by a client that knows only the interface table."""

import asyncio
import functools
import gc
import weakref
from typing import Any

import httpx
import numpy as np
import pytest
from aiortc.mediastreams import AudioStreamTrack

from personalive.errors import DeviceMemoryError
from personalive.testing.echo import EchoEngine
from tests.live_client import Camera, LiveClient, grey
from tests.live_support import BLUE, GREEN, RED, WAIT, live_server, picture, shows, until


@pytest.fixture(scope="module")
def server():
    engine = EchoEngine(256, 256, chunk_frames=4, delay_frames=12)
    with live_server(engine, max_sessions=3, linger_seconds=0.3) as running:
        yield running


@pytest.fixture(autouse=True)
def nothing_stays(request):
    yield
    if "server" in request.fixturenames:
        server = request.getfixturevalue("server")
        until(lambda: not server.hub.entries)
        server.engine.seconds, server.engine.before_call = 0.0, lambda streams: None


async def shown(client: LiveClient, colour) -> None:
    async with asyncio.timeout(WAIT):
        while not shows((await client.watch(1))[0], colour):
            pass


async def test_load_reference_offer_stream(server):
    async with LiveClient(server.url) as client:
        await client.load(height=256, width=256, seed=42)
        assert (await client.reference(picture(BLUE))).json()["success"] is True
        answer = await client.offer(Camera(grey()), initialParameters={"mirror": True})
        assert set(answer.json()) == {"sdp", "type", "sessionId"} and answer.json()["type"] == "answer"
        trickle = {"candidate": "candidate:1 1 udp 2122260223 127.0.0.1 9 typ host", "sdpMid": "0", "sdpMLineIndex": 0}
        path = f"/api/v1/webrtc/offer/{client.session_id}"
        assert (await client.http.patch(path, json={"candidates": [trickle]})).status_code == 204
        pictures = await client.watch(20)
        assert pictures[-1].shape == (256, 256, 3) and shows(pictures[-1], BLUE)
        stats = await client.until_message(lambda each: each["type"] == "stats" and each["fps_out"] > 5)
        assert stats["delay_ms"] > 0
        await client.http.delete(f"/api/v1/sessions/{client.session_id}")
        await client.until_message(lambda each: each["type"] == "stream_stopped" and "error_message" not in each)


async def test_the_reference_changes_the_running_session(server):
    async with LiveClient(server.url) as client:
        await client.reference(picture(RED))
        await client.offer(Camera(grey()))
        await shown(client, RED)
        answer = await client.reference(picture(GREEN))
        assert "1 running session" in answer.json()["message"]
        await shown(client, GREEN)


async def test_a_portrait_may_come_after_the_offer(server):
    async with LiveClient(server.url) as client:
        await client.offer(Camera(grey()))
        await client.until_message(lambda each: each.get("has_portrait") is False)
        await client.reference(picture(RED))
        await shown(client, RED)


def refuses(name: str, message: dict[str, Any]) -> bool:
    """Whether a message says that a parameter is refused."""
    return message["type"] == "error" and name in message["error_message"]


async def test_parameters_come_over_the_data_channel_and_bad_ones_are_answered(server):
    async with LiveClient(server.url) as client:
        await client.reference(picture(RED))
        await client.offer(Camera(grey()))
        session = server.hub.entries[client.session_id].session
        await client.send(motion_strength=0.25)
        await asyncio.to_thread(until, lambda: session.parameters.motion_strength == 0.25)
        for bad in (
            {"fps": "fast"},
            {"seed": -1},
            {"motion_strength": 1e9},
            {"paused": "yes"},
            {"set_neutral": 3},
            {"unknown": 1},
        ):
            await client.send(**bad)
            await client.until_message(functools.partial(refuses, next(iter(bad))))
        client.channel.send("no JSON")
        client.channel.send("[1]")
        client.channel.send("x" * 20000)
        client.channel.send("[" * 10000)
        client.channel.send(b"\x00\x01")
        await client.until_message(lambda each: "not JSON" in each.get("error_message", ""))
        assert session.parameters.motion_strength == 0.25
        await client.watch(5)


async def test_sizes_may_change_at_any_time(server):
    sizes = [(256, 256), (384, 256), (192, 384), (640, 480), (96, 96)]
    async with LiveClient(server.url) as client:
        await client.reference(picture(GREEN))
        await client.offer(Camera(lambda index: grey(size=sizes[index // 20 % len(sizes)])(index)))
        pictures = await client.watch(110, 40)
        assert all(image.shape == (256, 256, 3) for image in pictures)
        assert shows(pictures[-1], GREEN)


@pytest.mark.parametrize("fps", [1, 120])
async def test_slow_and_fast_cameras(server, fps):
    async with LiveClient(server.url) as client:
        await client.reference(picture(RED))
        await client.offer(Camera(grey(size=(128, 128)), fps))
        await client.watch(4 if fps == 1 else 60)
        session = server.hub.entries[client.session_id].session
        waiting_in, waiting_out = session.backlog
        assert waiting_in <= 16 and waiting_out <= 8


async def test_a_slow_model_keeps_motion_current(server):
    server.engine.seconds = 0.5
    async with LiveClient(server.url) as client:
        await client.reference(picture(RED))
        await client.offer(Camera(grey()))
        await client.watch(40)
        session = server.hub.entries[client.session_id].session
        assert session.dropped[0] > 0
        assert session.backlog[0] <= 16


async def test_garbage_offers_are_refused_and_leave_nothing(server):
    audio_only = (
        "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 0\r\nc=IN IP4 0.0.0.0\r\n"
    )
    bad = ["garbage", "v=0\r\n", audio_only, "v=0\r\n" + "m=video 9 UDP/TLS/RTP/SAVPF 96\r\n" * 500, "\x00" * 1000]
    async with LiveClient(server.url) as client:
        for sdp in bad:
            answer = await client.http.post("/api/v1/webrtc/offer", json={"sdp": sdp, "type": "offer"})
            assert answer.status_code == 400, sdp[:40]
        assert not server.hub.entries
        for body in (b"", b"{", b"[]", b'{"sdp": 1}', b'{"sdp": "v=0", "type": "answer"}'):
            answer = await client.http.post(
                "/api/v1/webrtc/offer", content=body, headers={"Content-Type": "application/json"}
            )
            assert answer.status_code == 422


async def test_an_offer_that_is_refused_changes_no_parameters(server):
    async with LiveClient(server.url) as client:
        await client.reference(picture(RED))
        await client.offer(Camera(grey()))
        body: dict[str, object] = {
            "sdp": "garbage",
            "type": "offer",
            "sessionId": client.session_id,
            "initialParameters": {"mirror": True},
        }
        assert (await client.http.post("/api/v1/webrtc/offer", json=body)).status_code == 400
        session = (await client.http.get(f"/api/v1/sessions/{client.session_id}")).json()
        assert session["parameters"]["mirror"] is False and session["state"] != "detached"
        for bad in ({"mirror": 3}, {"mirror": True, "prompts": []}):
            body |= {"sdp": client.peer.localDescription.sdp, "initialParameters": bad}
            answer = await client.http.post("/api/v1/webrtc/offer", json=body)
            assert answer.status_code == 400 and list(bad)[-1] in answer.json()["detail"]
        await client.watch(5)


async def test_garbage_candidates_are_refused(server):
    async with LiveClient(server.url) as client:
        await client.reference(picture(RED))
        await client.offer(Camera(grey()))
        path = f"/api/v1/webrtc/offer/{client.session_id}"
        for text in ("candidate:", "candidate:x y z", "nonsense " * 50):
            answer = await client.http.patch(path, json={"candidates": [{"candidate": text, "sdpMid": "0"}]})
            assert answer.status_code == 400, text
        assert (await client.http.patch(path, json={"candidates": [{"candidate": ""}]})).status_code == 204
        many = {"candidates": [{"candidate": ""}] * 65}
        assert (await client.http.patch(path, json=many)).status_code == 422
        await client.watch(5)


@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.slow
async def test_many_offers_lock_nobody_out_and_nobody_notices(server, count):
    async with LiveClient(server.url) as client, LiveClient(server.url) as flooder:
        await client.reference(picture(GREEN))
        await client.offer(Camera(grey()))
        await client.watch(5)
        await flooder.offer(Camera(grey()))
        await flooder.hang_up()
        sdp = flooder.peer.localDescription.sdp
        before, most = client.received, 0
        for _ in range(count):
            answer = await flooder.http.post("/api/v1/webrtc/offer", json={"sdp": sdp, "type": "offer"})
            assert answer.status_code == 200
            most = max(most, len(server.hub.entries))
        assert most <= 3
        assert client.received > before + count / 20
        async with LiveClient(server.url) as third:
            await third.reference(picture(BLUE))
            await third.offer(Camera(grey()))
            await shown(third, BLUE)
        await shown(client, GREEN)
        for entry in list(server.hub.entries.values()):
            server.call(entry.session.close)


async def test_an_address_that_floods_with_offers_is_told_to_wait_and_others_are_served():
    with live_server(max_sessions=3, offer_rate=0.2) as server:
        async with LiveClient(server.url) as flooder:
            await flooder.reference(picture(RED))
            await flooder.offer(Camera(grey()))
            offer = {"sdp": flooder.peer.localDescription.sdp, "type": "offer"}
            answers = [await flooder.http.post("/api/v1/webrtc/offer", json=offer) for _ in range(3)]
            assert [answer.status_code for answer in answers] == [200, 429, 429]
            assert answers[-1].headers["Retry-After"] and "0.2 times a second" in answers[-1].json()["detail"]
            elsewhere = httpx.AsyncHTTPTransport(local_address="127.0.0.2")
            async with httpx.AsyncClient(base_url=server.url, transport=elsewhere, timeout=WAIT) as other:
                assert (await other.post("/api/v1/webrtc/offer", json=offer)).status_code == 200


async def test_a_full_server_refuses_with_the_reason(server):
    clients = [LiveClient(server.url) for _ in range(4)]
    try:
        for client in clients[:3]:
            await client.reference(picture(RED))
            await client.offer(Camera(grey()))
            await client.watch(1)
        answer = await clients[3].offer(Camera(grey()))
        assert answer.status_code == 503 and "full" in answer.json()["detail"]
    finally:
        for client in clients:
            await client.__aexit__()


async def test_a_client_that_vanishes_makes_room(server):
    client = LiveClient(server.url)
    await client.reference(picture(RED))
    await client.offer(Camera(grey()))
    await client.watch(2)
    await client.http.aclose()
    await client.hang_up()
    await asyncio.to_thread(until, lambda: not server.hub.entries)


async def test_what_a_connection_held_is_freed_soon_after_its_end(server):
    gc.disable()  # on its own, Python would free it too, but many sessions later
    try:
        async with LiveClient(server.url) as client:
            await client.reference(picture(RED))
            await client.offer(Camera(grey()))
            await client.watch(3)
            connection = weakref.ref(server.hub.entries[client.session_id].transport._connection)
            assert connection() is not None
        until(lambda: connection() is None)
    finally:
        gc.enable()


async def test_a_client_comes_back_to_its_session(server, monkeypatch):
    monkeypatch.setattr(server.hub, "options", server.hub.options.replace(linger_seconds=5))
    async with LiveClient(server.url) as client:
        await client.reference(picture(BLUE))
        await client.offer(Camera(grey()))
        await shown(client, BLUE)
        first = client.session_id
        await client.hang_up()
        answer = await client.offer(Camera(grey()), sessionId=first)
        assert answer.json()["sessionId"] == first
        await shown(client, BLUE)
        assert len(server.hub.entries) == 1
        stranger = await client.http.post(
            "/api/v1/webrtc/offer", json={"sdp": "v=0", "type": "offer", "sessionId": "somebody"}
        )
        assert stranger.status_code == 404
        await client.http.delete(f"/api/v1/sessions/{first}")


async def test_a_client_that_sends_nothing_is_let_go(server, monkeypatch):
    monkeypatch.setattr(server.hub, "options", server.hub.options.replace(idle_seconds=2))
    async with LiveClient(server.url) as client:
        await client.reference(picture(RED))
        await client.offer()
        message = await client.until_message(lambda each: each["type"] == "stream_stopped")
        assert "no camera frame" in message["error_message"]


async def test_a_session_that_breaks_leaves_the_others_alone(server):
    async with LiveClient(server.url) as lucky, LiveClient(server.url) as unlucky:
        await lucky.reference(picture(GREEN))
        await lucky.offer(Camera(grey()))
        await unlucky.reference(picture(RED))
        await unlucky.offer(Camera(grey()))
        await shown(lucky, GREEN)
        await shown(unlucky, RED)

        def break_one(streams):
            if any(stream.colour == RED for stream in streams):
                raise RuntimeError("a defect")

        server.engine.before_call = break_one
        message = await unlucky.until_message(lambda each: each["type"] == "stream_stopped")
        assert "unexpected error" in message["error_message"] and "a defect" not in message["error_message"]
        await lucky.watch(20)
        await shown(lucky, GREEN)


async def test_without_memory_the_newcomer_is_refused_and_the_others_go_on(server):
    async with LiveClient(server.url) as first, LiveClient(server.url) as newcomer:
        await first.reference(picture(GREEN))
        await first.offer(Camera(grey()))
        await shown(first, GREEN)
        known = set(server.engine.streams)

        def no_memory(streams):
            if not known.issuperset(streams):
                raise DeviceMemoryError("the device's memory is used up")

        server.engine.before_call = no_memory
        answer = await newcomer.offer(Camera(grey()))
        assert answer.status_code == 503 and "memory" in answer.json()["detail"]
        await first.watch(20)


async def test_sound_comes_back_with_the_picture(server):
    async with LiveClient(server.url) as client:
        await client.reference(picture(RED))
        await client.offer(Camera(grey()), AudioStreamTrack(), initialParameters={"muted": False})
        await client.watch(5)
        async with asyncio.timeout(WAIT):
            while client.sounds < 20:
                await asyncio.sleep(0.05)


async def test_viewers_watch_without_driving_and_are_told_of_the_end(server):
    async with LiveClient(server.url) as client, LiveClient(server.url) as viewer:
        watch_id = await client.watch_id()
        assert (await viewer.http.get(f"/api/v1/watch/{watch_id}")).json() == {"live": False}
        assert (await viewer.look_on(watch_id)).status_code == 404
        await client.reference(picture(BLUE))
        await client.offer(Camera(grey()))
        await shown(client, BLUE)
        assert (await viewer.http.get(f"/api/v1/watch/{watch_id}")).json() == {"live": True, "iceServers": []}
        assert (await viewer.look_on(watch_id)).status_code == 200
        await shown(viewer, BLUE)
        await viewer.send(paused=True)
        await client.watch(10)
        assert not server.hub.entries[client.session_id].session.parameters.paused
        assert len(server.hub.entries) == 1
        await client.http.delete(f"/api/v1/sessions/{client.session_id}")
        await viewer.until_message(lambda each: each["type"] == "stream_stopped")


async def test_viewers_are_told_that_the_driver_is_gone_and_that_it_is_back(server, monkeypatch):
    monkeypatch.setattr(server.hub, "options", server.hub.options.replace(linger_seconds=30))
    async with LiveClient(server.url) as client, LiveClient(server.url) as viewer:
        await client.reference(picture(BLUE))
        await client.offer(Camera(grey()))
        await shown(client, BLUE)
        await viewer.look_on(await client.watch_id())
        await shown(viewer, BLUE)
        session_id = client.session_id
        await client.hang_up()
        await viewer.until_message(lambda each: each == {"type": "stream", "live": False})
        await client.offer(Camera(grey()), sessionId=session_id)
        await viewer.until_message(lambda each: each == {"type": "stream", "live": True})
        await shown(viewer, BLUE)
        await client.http.delete(f"/api/v1/sessions/{session_id}")


async def test_viewers_are_few_and_those_who_never_connected_give_way(server):
    viewers = [LiveClient(server.url) for _ in range(6)]
    try:
        async with LiveClient(server.url) as client:
            watch_id = await client.watch_id()
            await client.reference(picture(BLUE))
            await client.offer(Camera(grey()))
            await shown(client, BLUE)
            sdp = "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\n"
            assert (
                await client.http.post(f"/api/v1/watch/{watch_id}/offer", json={"sdp": sdp, "type": "offer"})
            ).is_error
            assert not server.hub.entries[client.session_id].viewers, "an offer that is of no use takes no place"
            await viewers[0].look_on(watch_id)
            await viewers[0].hang_up()
            dead = {"sdp": viewers[0].peer.localDescription.sdp, "type": "offer"}
            for _ in range(10):
                assert (await client.http.post(f"/api/v1/watch/{watch_id}/offer", json=dead)).status_code == 200
            for viewer in viewers[1:5]:
                assert (await viewer.look_on(watch_id)).status_code == 200
                await shown(viewer, BLUE)
            refused = await viewers[5].look_on(watch_id)
            assert refused.status_code == 503 and "4 viewers" in refused.json()["detail"]
            await client.http.delete(f"/api/v1/sessions/{client.session_id}")
    finally:
        for viewer in viewers:
            await viewer.__aexit__()


async def test_wrong_tokens_stay_out():
    with live_server(tokens=("a-long-secret", "another-secret")) as server:
        async with LiveClient(server.url) as stranger, LiveClient(server.url, "wrong") as liar:
            for client in (stranger, liar):
                for path in ("/api/v1/pipeline/status", "/metrics", "/api/v1/webrtc/ice-servers"):
                    assert (await client.http.get(path)).status_code == 401
                assert (await client.http.post("/api/v1/webrtc/offer", json={})).status_code == 401
            assert (await stranger.http.get("/health")).status_code == 200
            assert (await stranger.http.get("/")).status_code == 200
        for token in ("a-long-secret", "another-secret"):
            async with LiveClient(server.url, token) as friend:
                await friend.reference(picture(RED))
                await friend.offer(Camera(grey()))
                await shown(friend, RED)


def test_pictures_of_different_sessions_never_mix(server):
    async def one(colour):
        async with LiveClient(server.url) as client:
            await client.reference(picture(colour))
            await client.offer(Camera(grey()))
            await shown(client, colour)
            return all(shows(image, colour) for image in await client.watch(30))

    async def all_three():
        return await asyncio.gather(*(one(colour) for colour in (RED, GREEN, BLUE)))

    assert np.all(asyncio.run(all_three()))
