"""Sessions against clients that vanish, crowd in or know too much: items 11, 12 and 17 of the tracker's issue 12.

Against an older server: `PERSONALIVE_TREE=/tmp/old python -m pytest tests/hostile/test_live_sessions.py`.
"""

import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import numpy as np
import pytest
import websockets.sync.client
from PIL import Image
from playwright.sync_api import expect, sync_playwright

from personalive.testing.browser import CHROMIUM, chromium, moving_bar, write_camera
from tests.hostile.live_process import served
from tests.live_support import BLUE, RED, WAIT, picture, shows, until

ROOT = Path(__file__).parents[2]
COOKIE = "personalive_client"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Room for two; a camera is waited for 20 seconds, a lost client for 15."""
    presets = tmp_path_factory.mktemp("presets")
    (presets / "blue.png").write_bytes(picture(BLUE))
    flags = ("--presets", str(presets), "--max_sessions", "2", "--idle_seconds", "20")
    with served(tmp_path_factory.mktemp("server"), *flags) as running:
        with person(running, None) as client:
            client.post("/api/v1/pipeline/load", json={"load_params": {"width": 256, "height": 256}})
            until(lambda: client.get("/health").json()["pipeline"] == "loaded")
        yield running
        assert not running.defects()


@pytest.fixture(autouse=True)
def nobody_stays(request):
    yield
    if "server" in request.fixturenames:
        server = request.getfixturevalue("server")
        until(lambda: httpx.get(f"{server.url}/health").json()["sessions"] == 0, 60)


def person(server, cookie, source="127.0.0.1"):
    cookies = {COOKIE: cookie} if cookie else {}
    transport = httpx.HTTPTransport(local_address=source)
    return httpx.Client(base_url=server.url, cookies=cookies, timeout=WAIT, transport=transport)


@contextlib.contextmanager
def socket_session(server, cookie=None, source="127.0.0.1"):
    """A session over a WebSocket, which ends with the block: the socket and the session's id, None without room."""
    headers = {"Cookie": f"{COOKIE}={cookie}"} if cookie else {}
    url = f"ws://127.0.0.1:{server.port}/api/v1/ws"
    with websockets.sync.client.connect(url, additional_headers=headers, source_address=(source, 0)) as connection:
        session = json.loads(connection.recv(timeout=WAIT)).get("sessionId")
        yield connection, session
        with person(server, cookie, source) as client:
            client.delete(f"/api/v1/sessions/{session}")


@contextlib.contextmanager
def lost_session(server, cookie):
    """A session whose connection is lost."""
    with socket_session(server, cookie) as (connection, session), person(server, cookie) as client:
        connection.socket.shutdown(socket.SHUT_RDWR)
        until(lambda: not client.get(f"/api/v1/sessions/{session}").json()["connected"])
        yield session


# ---- sessions without a connection ----


def test_a_client_s_own_lost_session_does_not_keep_it_out(server):
    with (
        socket_session(server, "other"),
        lost_session(server, "mine") as lost,
        socket_session(server, "mine") as (_, session),
        person(server, "mine") as client,
    ):
        assert session, "there was no room"
        assert client.get(f"/api/v1/sessions/{lost}").status_code == 404


def test_a_lost_session_gives_way_to_a_newcomer_and_one_that_is_connected_does_not(server):
    with (
        socket_session(server, "first") as (_, first),
        lost_session(server, "second") as lost,
        socket_session(server, "third") as (_, third),
    ):
        assert third, "there was no room"
        with person(server, "second") as client:
            assert client.get(f"/api/v1/sessions/{lost}").status_code == 404
        with person(server, "fourth") as client:
            assert client.post("/api/v1/sessions", json={}).status_code == 503
        with person(server, "first") as client:
            assert client.get(f"/api/v1/sessions/{first}").json()["connected"]


@pytest.mark.slow
def test_a_peer_that_vanishes_is_missed_long_before_its_camera_is(server):
    """While the server waits for the camera it must notice that the whole peer has gone, and let it come back."""
    command = [sys.executable, "-m", "tests.live_recorder", server.url, *map(str, RED)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as recorder:
        _, session, cookie = recorder.stdout.readline().split()
        os.kill(recorder.pid, signal.SIGSTOP)  # its sockets stay: nothing tells the server
        try:
            with person(server, cookie) as client:
                path = f"/api/v1/sessions/{session}"
                answer = until(lambda: once_not_connected(client.get(path)), 90)
                client.delete(path)
        finally:
            recorder.kill()
    assert answer.status_code == 200, "the camera was missed first"


def once_not_connected(answer):
    return None if answer.status_code == 200 and answer.json()["connected"] else answer


# ---- who knows too much ----

OFFER = {"sdp": "v=0\r\n", "type": "offer"}


def control_calls(client, identifier):
    """Everything by which a session can be changed or taken over."""
    path = f"/api/v1/sessions/{identifier}"
    yield client.get(path)
    yield client.patch(f"{path}/parameters", json={"mirror": True})
    yield client.put(f"{path}/reference", content=picture(RED))
    for call in ("pause", "reset", "snapshot", "resume"):
        yield client.post(f"{path}/{call}")
    yield client.patch(f"/api/v1/webrtc/offer/{identifier}", json={"candidates": [{"candidate": ""}]})
    yield client.post("/api/v1/webrtc/offer", json={**OFFER, "sessionId": identifier})
    yield client.delete(path)


def test_who_knows_a_session_s_id_but_has_not_its_cookie_controls_nothing(server):
    with person(server, "owner") as owner, person(server, "stranger") as stranger:
        owner.post("/api/v1/personalive/reference", content=picture(BLUE))
        with socket_session(server, "owner") as (connection, session):
            assert {answer.status_code for answer in control_calls(stranger, session)} == {403}
            taken = f"ws://127.0.0.1:{server.port}/api/v1/ws?sessionId={session}"
            with websockets.sync.client.connect(taken, additional_headers={"Cookie": f"{COOKIE}=stranger"}) as thief:
                assert json.loads(thief.recv(timeout=WAIT))["type"] == "stream_stopped"
            described = owner.get(f"/api/v1/sessions/{session}").json()
            assert described["connected"] and not described["parameters"]["mirror"]
            assert json.loads(connection.recv(timeout=WAIT))["type"] == "stats"


def test_a_token_controls_the_sessions_that_were_opened_with_it_and_watching_needs_none(tmp_path):
    tokens = ("first-long-secret", "second-long-secret")
    with served(tmp_path, *(f"--token={token}" for token in tokens)) as server:
        first, second, same = (person(server, cookie) for cookie in ("first", "second", "another cookie"))
        first.headers["Authorization"] = same.headers["Authorization"] = f"Bearer {tokens[0]}"
        second.headers["Authorization"] = f"Bearer {tokens[1]}"
        session = first.post("/api/v1/sessions", json={}).json()["sessionId"]
        assert {answer.status_code for answer in control_calls(second, session)} == {403}
        assert same.patch(f"/api/v1/sessions/{session}/parameters", json={"mirror": True}).status_code == 200
        watch_id = first.get("/api/v1/watch").json()["watchId"]
        with person(server, None) as nobody:
            assert nobody.get(f"/api/v1/watch/{watch_id}").json() == {"live": False}
            assert nobody.get("/api/v1/watch").status_code == 401
            assert {answer.status_code for answer in control_calls(nobody, watch_id)} == {401}
        assert {answer.status_code for answer in control_calls(first, watch_id)} == {404}


def test_two_who_keep_no_cookies_and_come_from_different_places_are_not_one(server):
    """A snapshot holds a face: the one that the first took must not come up in the second's session."""
    httpx.post(f"{server.url}/api/v1/personalive/reference", content=picture(RED))
    with (
        socket_session(server) as (_, mine),
        socket_session(server, source="127.0.0.2") as (_, theirs),
        person(server, None) as first,
        person(server, None, "127.0.0.2") as second,
    ):
        assert first.post(f"/api/v1/sessions/{mine}/snapshot").status_code == 200
        assert second.post(f"/api/v1/sessions/{theirs}/resume").status_code == 400
        assert not second.get(f"/api/v1/sessions/{theirs}").json()["stats"]["has_portrait"]


# ---- the page and its link ----


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if not Path(CHROMIUM).exists():
        pytest.skip("Chromium is not installed: ./test.sh does that")
    camera = write_camera(tmp_path_factory.mktemp("camera") / "camera.mjpeg", moving_bar(), 25)
    with sync_playwright() as playwright, chromium(playwright, camera) as running:
        yield running


@pytest.fixture
def page(browser, server):
    context = browser.new_context()
    page = context.new_page()
    page.goto(server.url)
    page.get_by_role("button", name="blue", exact=True).click()
    yield page
    context.close()


def start(page):
    page.get_by_role("button", name="Start").click()
    expect(page.get_by_role("button", name="Stop")).to_be_enabled()
    return page.locator("#embed").evaluate("(link) => link.href")


def stop(page):
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_role("button", name="Start")).to_be_enabled()


def seen(viewer):
    """What a page shows, as OBS lays it over a scene: uint8 [h,w,4]."""
    return np.asarray(Image.open(io.BytesIO(viewer.screenshot(omit_background=True))).convert("RGBA"))


def is_transparent(viewer):
    return not seen(viewer)[..., 3].any()


def test_the_link_for_viewers_controls_nothing(page, server):
    (identifier,) = [value for (value,) in parse_qs(urlsplit(start(page)).query).values()]
    with person(server, None) as stranger:
        assert all(400 <= answer.status_code < 500 for answer in control_calls(stranger, identifier))
    page.wait_for_timeout(1000)
    expect(page.get_by_role("button", name="Stop")).to_be_enabled()
    expect(page.locator("#notice")).to_be_hidden()


def test_the_link_stays_the_same_and_viewers_never_see_a_frozen_face(page, browser):
    link = start(page)
    stop(page)
    viewer = browser.new_context(viewport={"width": 128, "height": 128}).new_page()
    viewer.goto(link)
    for _ in range(2):
        assert start(page) == link
        until(lambda: shows(seen(viewer)[..., :3], BLUE), 60)
        stop(page)
        until(lambda: is_transparent(viewer))
    viewer.context.close()
