"""The fallback socket, and what the gate keeps out."""

import asyncio
import json
import math
import socket as sockets
import struct
from functools import partial
from typing import Any

import httpx
import pytest
import websockets
from websockets import Subprotocol

from personalive.live.core.pictures import decode
from personalive.live.hub.entries import SessionState
from personalive.testing.echo import EchoEngine
from personalive.types import RGBArray
from tests.live_support import GREEN, RED, WAIT, live_server, picture, shows, until

STAMP = struct.Struct("<d")


@pytest.fixture(scope="module")
def server():
    engine = EchoEngine(128, 128, chunk_frames=4, delay_frames=12)
    with live_server(engine, max_sessions=2, linger_seconds=0.5) as running:
        yield running


@pytest.fixture(autouse=True)
def nothing_stays(server):
    yield
    until(lambda: not server.hub.entries)


# A client that has stopped reading does not see the server's goodbye: it need not wait for that.
connect = partial(websockets.connect, close_timeout=0.5)


PROTOCOL = Subprotocol("personalive")


def address(server, query: str = "") -> str:
    return server.url.replace("http", "ws") + "/api/v1/ws" + query


def cookie(server, colour) -> dict[str, str]:
    answer = httpx.post(server.url + "/api/v1/personalive/reference", content=picture(colour))
    return {"Cookie": answer.headers["set-cookie"].split(";")[0]}


def frame(stamp: float, kind: str = "JPEG", size=(128, 128)) -> bytes:
    return STAMP.pack(stamp) + picture((90, 90, 90), size, kind)


async def pictures(socket, count: int, seconds: float = WAIT) -> list[tuple[float, RGBArray]]:
    found: list[tuple[float, RGBArray]] = []
    async with asyncio.timeout(seconds):
        while len(found) < count:
            message = await socket.recv()
            if isinstance(message, bytes):
                found.append((STAMP.unpack_from(message)[0], decode(message[8:])))
    return found


async def message(socket, test, seconds: float = WAIT) -> dict[str, Any]:
    async with asyncio.timeout(seconds):
        while True:
            text = await socket.recv()
            if isinstance(text, str) and test(content := json.loads(text)):
                return content


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
async def test_pictures_come_back_with_the_stamps_that_went_in(server, kind):
    async with connect(address(server, f"?format={kind.lower()}"), additional_headers=cookie(server, GREEN)) as socket:

        async def send():
            for index in range(60):
                await socket.send(frame(1000.0 + index, kind))
                await asyncio.sleep(0.03)

        sending = asyncio.ensure_future(send())
        shown = await pictures(socket, 24)
        await sending
    assert math.isnan(shown[0][0]) and all(shows(image, GREEN) for _, image in shown)
    stamps = [stamp for stamp, _ in shown if not math.isnan(stamp)]
    assert len(stamps) > 8 and stamps == sorted(stamps) and stamps[0] >= 1000 and stamps[-1] < 1060


async def test_garbage_is_answered_and_the_session_goes_on(server):
    async with connect(address(server), additional_headers=cookie(server, RED)) as socket:
        await socket.send(b"")
        await message(socket, lambda each: "eight bytes" in each.get("error_message", ""))
        await socket.send("no JSON")
        await message(socket, lambda each: "not JSON" in each.get("error_message", ""))
        for index in range(8):
            await socket.send(STAMP.pack(index) + b"no picture")
            await asyncio.sleep(0.02)
        await message(socket, lambda each: each.get("code") == "bad_frame")
        for index in range(30):
            await socket.send(frame(index, size=(64 + index, 200 - index)))
            await asyncio.sleep(0.03)
        assert shows((await pictures(socket, 4))[-1][1], RED)


async def test_messages_that_are_too_long_end_the_connection_only(server):
    async with connect(address(server)) as socket:
        with pytest.raises(websockets.ConnectionClosed):
            await socket.send(bytes(6 * 1024 * 1024))
            while True:
                await socket.recv()
    assert httpx.get(server.url + "/health").status_code == 200


async def test_who_floods_is_let_go_and_the_other_goes_on(server):
    red, green = cookie(server, RED), cookie(server, GREEN)
    async with (
        connect(address(server), additional_headers=red) as flooder,
        connect(address(server), additional_headers=green) as other,
    ):
        data = frame(1.0)

        async def send(socket, count, pause):
            while True:
                for _ in range(count):
                    await socket.send(data)
                await asyncio.sleep(pause)

        work = [asyncio.ensure_future(send(*each)) for each in ((flooder, 100, 0.05), (other, 1, 0.04))]
        shown = await pictures(other, 60)
        assert all(shows(image, GREEN) for _, image in shown)
        await asyncio.to_thread(until, lambda: len(server.hub.entries) == 1)
        for each in work:
            each.cancel()
        await asyncio.gather(*work, return_exceptions=True)
        flooder.transport.abort()


async def test_a_client_that_never_reads_leaves_the_others_alone(server):
    red, green = cookie(server, RED), cookie(server, GREEN)
    async with (
        connect(address(server), additional_headers=red, max_queue=1) as deaf,
        connect(address(server), additional_headers=green) as other,
    ):

        async def drive(socket):
            while True:
                await socket.send(frame(3.0))
                await asyncio.sleep(0.04)

        work = [asyncio.ensure_future(drive(each)) for each in (deaf, other)]
        assert len(await pictures(other, 60)) == 60
        for each in work:
            each.cancel()
        await asyncio.gather(*work, return_exceptions=True)
        assert all(entry.session.backlog[1] <= 8 for entry in server.hub.entries.values())


async def test_a_full_server_says_so_over_the_socket(server):
    async def connected(socket):
        """One that is not connected yet would give way."""
        identifier = (await message(socket, lambda each: each["type"] == "session"))["sessionId"]
        await asyncio.to_thread(until, lambda: server.hub.entries[identifier].state is SessionState.CONNECTED)

    async with connect(address(server)) as first:
        await connected(first)
        async with connect(address(server)) as second:
            await connected(second)
            async with connect(address(server)) as third:
                refused = await message(third, lambda each: each["type"] == "stream_stopped")
                assert "full" in refused["error_message"]


async def test_a_socket_goes_on_with_a_session(server):
    headers = cookie(server, GREEN)
    async with connect(address(server), additional_headers=headers) as first:
        identifier = (await message(first, lambda each: each["type"] == "session"))["sessionId"]
    async with connect(address(server, f"?sessionId={identifier}"), additional_headers=headers) as second:
        assert (await message(second, lambda each: each["type"] == "session"))["sessionId"] == identifier


# ---- the gate ----


@pytest.mark.parametrize(
    "path",
    [
        "/static/../server.py",
        "/static/%2e%2e/server.py",
        "/static/..%2f..%2fconfig.py",
        "/static//etc/passwd",
        "/static/presets/../../server.py",
        "/static/%00",
        "/static/" + "a" * 5000,
    ],
)
def test_static_files_can_not_be_escaped(server, path):
    rest = server.url.removeprefix("http://")
    host, _, port = rest.partition(":")
    with sockets.create_connection((host, int(port)), timeout=WAIT) as raw:
        raw.sendall(f"GET {path} HTTP/1.1\r\nHost: {rest}\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while part := raw.recv(65536):
            answer += part
    assert b" 404 " in answer.split(b"\r\n")[0] or b" 400 " in answer.split(b"\r\n")[0]
    assert b"import" not in answer and b"root:" not in answer


def test_pages_of_other_sites_are_kept_out(server):
    evil = {"Origin": "https://evil.example"}
    assert httpx.post(server.url + "/api/v1/sessions", json={}, headers=evil).status_code == 403
    assert "access-control-allow-origin" not in httpx.get(server.url + "/health", headers=evil).headers
    own = {"Origin": server.url}
    answer = httpx.post(server.url + "/api/v1/sessions", json={}, headers=own)
    assert answer.status_code == 201
    httpx.delete(f"{server.url}/api/v1/sessions/{answer.json()['sessionId']}")


async def test_sockets_from_other_sites_are_kept_out(server):
    with pytest.raises(websockets.InvalidStatus):
        await connect(address(server), origin="https://evil.example")


def test_names_that_only_point_here_are_refused(server):
    rebound = httpx.get(server.url + "/health", headers={"Host": "attacker.example"})
    assert rebound.status_code == 400 and "allowed_host" in rebound.json()["detail"]


def test_every_answer_has_its_guard_rails(server):
    page = httpx.get(server.url + "/")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
    assert "frame-ancestors *" in httpx.get(server.url + "/embed").headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"
    assert "httponly" in page.headers["set-cookie"].lower() and "samesite=strict" in page.headers["set-cookie"].lower()


def test_the_page_needs_no_other_host(server):
    for name in ("index.html", "embed.html", "style.css", "app.js", "webrtc.js", "socket.js"):
        text = httpx.get(f"{server.url}/static/{name}").text
        assert "http://" not in text and "https://" not in text, name


async def test_tokens_on_sockets():
    with live_server(tokens=("a-long-secret",)) as server:
        with pytest.raises(websockets.InvalidStatus):
            await connect(address(server))
        with pytest.raises(websockets.InvalidStatus):
            await connect(address(server), subprotocols=[PROTOCOL, Subprotocol("token.wrong-secret")])
        async with connect(address(server), subprotocols=[PROTOCOL, Subprotocol("token.a-long-secret")]) as socket:
            assert socket.subprotocol == "personalive"


def test_a_body_that_never_comes_is_given_up(server, monkeypatch):
    monkeypatch.setattr("personalive.live.http.security.BODY_SECONDS", 0.5)
    host = server.url.removeprefix("http://")
    head = f"POST /api/v1/personalive/reference HTTP/1.1\r\nHost: {host}\r\nContent-Length: 10\r\n\r\n"
    with sockets.create_connection(host.split(":"), WAIT) as connection:
        connection.sendall(head.encode() + b"a")
        assert connection.recv(1000).startswith(b"HTTP/1.1 408 ")
