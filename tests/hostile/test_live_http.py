"""Clients that keep the live server waiting, and what answers tell: items 8, 14 and 15 of the tracker's issue 12."""

import contextlib
import json
import re
import socket
import ssl
import threading

import httpx
import pytest
import websockets.sync.client
from prometheus_client.parser import text_string_to_metric_families

from personalive.cli.main import build_parser
from tests.hostile.live_process import kept_open, served
from tests.live_support import BLUE, GREEN, RED, WAIT, picture, until
from tests.test_live_serve import certificate  # noqa: F401  a fixture

HEAD = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"
HALVES = {
    "nothing": b"",
    "half a head": HEAD + b"X-More: ",
    "half a second head": HEAD + b"\r\n" + HEAD,
    "nothing after an answer": HEAD + b"\r\n",
    "half a body": b"POST /api/v1/webrtc/offer HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b'Content-Length: 1000\r\n\r\n{"sdp"',
    "half a body that nobody reads": HEAD + b"Content-Length: 1000\r\n\r\nabc",
}
TOKENS = "first-long-secret, second-long-secret"
MINE = {"Authorization": "Bearer second-long-secret"}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with served(tmp_path_factory.mktemp("open")) as running:
        yield running
        assert not running.defects()


@pytest.fixture(scope="module")
def presets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("presets")
    for name, colour, kind in (("red.png", RED, "PNG"), ("green.JPG", GREEN, "JPEG"), ("Blue.jpeg", BLUE, "JPEG")):
        (folder / name).write_bytes(picture(colour, kind=kind))
    (folder / "grey & white#1.WebP").write_bytes(picture(kind="WEBP"))
    (folder / "secret.txt").write_text("not for anybody")
    (folder / ".hidden.png").write_bytes(picture())
    (folder / "inner").mkdir()
    (folder / "inner" / "inside.png").write_bytes(picture())
    return folder


@pytest.fixture(scope="module")
def guarded(tmp_path_factory, presets):
    folder = tmp_path_factory.mktemp("guarded")
    with served(folder, "--presets", str(presets), PERSONALIVE_TOKEN=TOKENS) as running:
        yield running
        assert not running.defects()


# ---- those who never finish ----


@pytest.mark.parametrize("source", ["127.0.0.1", "127.0.0.2"])
def test_300_half_requests_lock_nobody_out(server, source):
    connections = [server.connect(HALVES["half a head"], source) for _ in range(300)]
    try:
        assert server.health("127.0.0.1") == server.health("127.0.0.2") == 200
        # The oldest have given way to the newest, and to the last one.
        assert 200 < kept_open(connections) < 300
        assert not kept_open(connections[:20]) and kept_open(connections[-20:]) == 20
    finally:
        for each in connections:
            each.close()


def test_those_who_hold_many_connections_displace_themselves(server):
    patient = server.connect(HALVES["half a head"], "127.0.0.3")
    crowd = [server.connect(HALVES["half a head"]) for _ in range(300)]
    try:
        assert server.health("127.0.0.3") == 200  # so the crowd has been let in
        patient.sendall(b"yes\r\nConnection: close\r\n\r\n")
        assert patient.recv(100).startswith(b"HTTP/1.1 200 ")
    finally:
        for each in (patient, *crowd):
            each.close()


@pytest.mark.slow
def test_who_keeps_the_server_waiting_is_let_go(server):
    """All of them at once, as each has to wait for its deadline."""
    quick = {name: start for name, start in HALVES.items() if name != "half a body"}
    waiting = {name: server.connect(start) for name, start in quick.items()}
    drip, deaf = server.connect(HEAD), deaf_client(server)
    told, (_, port) = waiting.pop("half a head"), deaf.getsockname()
    try:

        def all_ended() -> bool:
            with contextlib.suppress(OSError):  # a byte now and then does not put the deadline off
                drip.setblocking(True)
                drip.sendall(b"X-Drop: 1\r\n")
            return not kept_open([*waiting.values(), drip]) and not open_to(server, port)

        until(all_ended, 90)
        answer = told.recv(4096)
        assert b" 408 " in answer.splitlines()[0] and b"seconds" in answer and b"nosniff" in answer
    finally:
        for each in (*waiting.values(), drip, deaf, told):
            each.close()


@pytest.mark.slow
def test_half_a_body_is_told_that_its_time_is_over_and_let_go(server):
    assert b" 408 " in server.ask(HALVES["half a body"]).splitlines()[0]


def deaf_client(server) -> socket.socket:
    """It asks and asks, and takes no answer, until the buffers are full."""
    ask = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
    connection = server.connect()
    connection.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            connection.send(ask * 100)
    return connection


def open_to(server, port: int) -> list:
    return [each for each in server.process.net_connections("tcp") if each.raddr and each.raddr.port == port]


def test_bodies_in_memory_have_a_limit(server):
    """Forty clients send almost all of a picture: 800 MB, if the server kept them all."""
    size = 20 * 2**20
    head = f"POST /api/v1/personalive/reference HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n\r\n".encode()
    part, before, most = bytes(2**20), server.process.memory_info().rss, 0
    connections = []
    try:
        for _ in range(40):
            connection = server.connect(head)
            connections.append(connection)
            with contextlib.suppress(OSError):
                for _ in range(19):
                    connection.sendall(part)
            most = max(most, server.process.memory_info().rss)
        assert server.health() == 200
        assert most - before < 500 * 2**20
    finally:
        for each in connections:
            each.close()


@pytest.fixture(scope="module")
def secure(tmp_path_factory, certificate):  # noqa: F811
    """Open to all, without a token, over https."""
    flags = ("--tls_cert", str(certificate / "cert.pem"), "--tls_key", str(certificate / "key.pem"))
    folder = tmp_path_factory.mktemp("secure")
    with served(folder, "--host", "0.0.0.0", "--insecure", *flags, scheme="https") as running:
        running.context = ssl.create_default_context(cafile=str(certificate / "cert.pem"))
        yield running
        assert not running.defects()


@pytest.mark.slow
def test_half_a_tls_handshake_locks_nobody_out_and_is_let_go(secure):
    halves = [secure.connect(b"\x16\x03\x01\x02\x00\x01\x00") for _ in range(300)]
    try:
        assert httpx.get(f"{secure.url}/health", verify=secure.context, timeout=WAIT).status_code == 200
        until(lambda: kept_open(halves) < 300)
        until(lambda: not kept_open(halves), 60)
        address = f"wss://127.0.0.1:{secure.port}/api/v1/ws"
        with websockets.sync.client.connect(address, ssl=secure.context) as driver:
            assert json.loads(driver.recv())["type"] == "session"
    finally:
        for each in halves:
            each.close()


# ---- what every answer says ----


def headers_of(answer: bytes) -> dict[str, str]:
    lines = answer.split(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
    return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}


def request(line: str, *headers: str, body: str = "", host: str = "localhost") -> bytes:
    fixed = [f"Host: {host}", "Connection: close", *([f"Content-Length: {len(body)}"] if body else [])]
    return "\r\n".join([f"{line} HTTP/1.1", *fixed, *headers, "", body]).encode()


JSON, BEARER = "Content-Type: application/json", f"Authorization: {MINE['Authorization']}"
UPGRADE = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13")
KEY = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
ANSWERS = {
    "the page": (200, request("GET /")),
    "a static file": (200, request("GET /static/app.js")),
    "no such file": (404, request("GET /static/nothing.js")),
    "another host": (400, request("GET /health", host="attacker.example")),
    "no token": (401, request("GET /metrics")),
    "no such call": (404, request("GET /api/v1/nothing", BEARER)),
    "wrong method": (405, request("PUT /health", BEARER)),
    "another site": (403, request("POST /api/v1/sessions", BEARER, "Origin: https://evil.example")),
    "too long": (413, request("POST /api/v1/sessions", BEARER, JSON, "Content-Length: 9000000")),
    "not valid": (422, request("POST /api/v1/webrtc/offer", BEARER, JSON, body="{}")),
    "not a picture": (400, request("POST /api/v1/personalive/reference", BEARER, body="x")),
    "no HTTP": (400, b"what is this?\r\n\r\n"),
    "a socket without a token": (401, request("GET /api/v1/ws", *UPGRADE, KEY)),
    "a socket to another host": (400, request("GET /api/v1/ws", *UPGRADE, KEY, host="attacker.example")),
    "a socket from another site": (403, request("GET /api/v1/ws", *UPGRADE, KEY, "Origin: https://evil.example")),
    "a socket with bad parameters": (403, request("GET /api/v1/ws?format=gif", *UPGRADE, KEY, BEARER)),
    "no such socket": (403, request("GET /api/v1/nothing", *UPGRADE, KEY, BEARER)),
    "half a socket": (400, request("GET /api/v1/ws", *UPGRADE, BEARER)),
}


@pytest.mark.parametrize("kind", ANSWERS)
def test_every_answer_has_its_guard_rails(guarded, kind):
    status, sent = ANSWERS[kind]
    answer = guarded.ask(sent)
    assert int(answer.split()[1]) == status, answer[:500]
    headers = headers_of(answer)
    assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]


def test_a_defect_is_answered_with_its_guard_rails_and_without_its_reason(tmp_path):
    from fastapi.testclient import TestClient

    from personalive.live.http.server import create_app
    from personalive.live.options import ServeOptions
    from personalive.testing.echo import echo_factory

    app = create_app(ServeOptions(), echo_factory(), None)

    @app.get("/api/v1/defect")
    def defect() -> None:
        raise ValueError("the reason")

    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as client:
        answer = client.get("/api/v1/defect")
    assert answer.status_code == 500 and "the reason" not in answer.text and "log" in answer.json()["detail"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]


def test_a_server_may_be_stopped_while_its_model_is_about_to_run(monkeypatch):
    from fastapi.testclient import TestClient

    from personalive.live.core.scheduler import Scheduler
    from personalive.live.http.server import create_app
    from personalive.live.hub.loader import Loader
    from personalive.live.options import ServeOptions
    from personalive.testing.echo import echo_factory

    reached, go, start, stop = threading.Event(), threading.Event(), Scheduler.start, Loader.stop
    schedulers = []

    def late(scheduler: Scheduler) -> None:
        schedulers.append(scheduler)
        reached.set()
        go.wait()
        start(scheduler)

    def stopping(loader: Loader) -> None:
        go.set()
        stop(loader)

    monkeypatch.setattr(Scheduler, "start", late)
    monkeypatch.setattr(Loader, "stop", stopping)
    with TestClient(create_app(ServeOptions(), echo_factory(), None), base_url="http://localhost"):
        reached.wait()
    assert schedulers and not any(thread.is_alive() for thread in schedulers[0]._threads), "it was stopped too"


# ---- names and tokens ----


def test_without_a_token_only_names_of_this_machine_are_served(secure):
    def status(host: str, **headers: str) -> int:
        return httpx.get(f"{secure.url}/health", verify=secure.context, headers={"Host": host, **headers}).status_code

    assert status("attacker.example") == status("127.0.0.1.attacker.example") == status("") == 400
    for host in ("localhost", "127.0.0.1:7860", "192.0.2.77", "[2001:db8::1]:7860", socket.gethostname()):
        assert status(host) == 200, host


def test_tokens_come_from_the_environment(guarded):
    for token, status in (("first-long-secret", 200), ("second-long-secret", 200), (TOKENS, 401), ("other", 401)):
        answer = httpx.get(f"{guarded.url}/metrics", headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == status, token
    assert "secret" not in " ".join(guarded.process.cmdline())


def test_the_help_says_who_can_read_a_token_on_the_command_line():
    verbs = next(action for action in build_parser()._actions if action.dest == "verb")
    described = re.sub(r"\s+", " ", verbs.choices["serve"].format_help())
    assert re.search(r"--token SECRET Secret[^-]*list of processes[^-]*PERSONALIVE_TOKEN", described)


# ---- portraits that the page offers ----


def test_only_listed_portraits_are_served_and_only_with_the_token(guarded):
    with guarded.client(headers=MINE) as mine, guarded.client() as stranger:
        listed = mine.get("/api/v1/presets").json()
        assert sorted(each["name"] for each in listed) == ["Blue", "green", "grey & white#1", "red"]
        for each in listed:
            answer = mine.get(each["url"])
            assert answer.status_code == 200 and answer.headers["content-type"].startswith("image/"), each
            assert stranger.get(each["url"]).status_code == 401
            sent = mine.post("/api/v1/personalive/reference", content=answer.content)
            assert sent.status_code == 200, sent.text
        for hidden in ("secret.txt", ".hidden.png", "inner/inside.png", "inner", "../secret.txt", "%2e%2e/x.png"):
            for start in ("/static/presets/", "/api/v1/presets/"):
                assert mine.get(start + hidden).status_code == 404, start + hidden
                assert stranger.get(start + hidden).status_code in (401, 404)
        assert stranger.get("/static/presets/red.png").status_code == 404


# ---- figures ----


def test_the_delay_is_a_histogram(server):
    def families() -> dict:
        return {each.name: each for each in text_string_to_metric_families(httpx.get(server.url + "/metrics").text)}

    delay = families()["personalive_delay_seconds"]
    assert delay.type == "histogram"
    buckets = [sample for sample in delay.samples if sample.name.endswith("_bucket")]
    assert buckets[-1].labels["le"] == "+Inf" and len(buckets) > 5
    assert [each.value for each in buckets] == sorted(each.value for each in buckets)
