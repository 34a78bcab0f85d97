"""The REST interface as its clients know it."""

import re
import threading

import httpx
import pytest

from personalive.live.hub.clients import COOKIE
from personalive.live.options import ServeOptions
from personalive.media.images import media_types
from tests.live_support import BLUE, GREEN, RED, live_server, picture, until

LOAD = {"pipeline_id": "personalive", "load_params": {"height": 256, "width": 256, "seed": 7}}


@pytest.fixture(scope="module")
def server():
    with live_server(max_sessions=3) as running:
        yield running


@pytest.fixture
def client(server):
    with server.client() as http:
        yield http
    for identifier in list(server.hub.entries):
        server.call(server.hub.entries[identifier].session.close)
    until(lambda: not server.hub.entries)


def test_load_and_status_follow_the_interface():
    with live_server(load_at_start=False) as server, server.client() as http:
        assert http.get("/api/v1/pipeline/status").json() == {"status": "not_loaded"}
        assert http.post("/api/v1/personalive/reference", content=picture()).status_code == 400
        answer = http.post("/api/v1/pipeline/load", json=LOAD)
        assert answer.status_code == 200 and set(answer.json()) == {"message"}
        until(lambda: http.get("/api/v1/pipeline/status").json()["status"] == "loaded")
        status = http.get("/api/v1/pipeline/status").json()
        assert status["pipeline_id"] == "personalive" and status["load_params"] == LOAD["load_params"]


def test_load_refuses_names_that_do_not_exist_and_values_out_of_bounds(client):
    for unknown in ({"load_params": {"width": 256, "loras": []}}, {"loras": [], "load_params": {"width": 256}}):
        answer = client.post("/api/v1/pipeline/load", json=unknown)
        assert answer.status_code == 422 and "loras" in answer.text
    for bad in ({"width": 100}, {"height": 2048}, {"seed": -1}, {"width": 300}):
        assert client.post("/api/v1/pipeline/load", json={"load_params": bad}).status_code == 422
    assert client.post("/api/v1/pipeline/load", json={"pipeline_id": "other"}).status_code == 422


def test_a_look_for_a_face_needs_a_picture_even_where_no_face_is_looked_for(client):
    """This server takes its boxes from keypoints."""
    assert client.post("/api/v1/personalive/face", content=picture()).json() == {"found": None, "box": None}
    for bad in (b"", b"not a picture"):
        assert client.post("/api/v1/personalive/face", content=bad).status_code == 400


def test_settings_that_do_not_exist_are_refused_by_name(client):
    until(lambda: client.get("/api/v1/pipeline/status").json()["status"] == "loaded")
    answer = client.post("/api/v1/sessions", json={"mirrored": True})
    assert answer.status_code == 422 and "no setting 'mirrored': did you mean mirror?" in answer.text
    path = f"/api/v1/sessions/{client.post('/api/v1/sessions', json={}).json()['sessionId']}"
    answer = client.patch(f"{path}/parameters", json={"mirror": True, "smoth": 1.0})
    assert answer.status_code == 422 and "'smoth': did you mean smooth?" in answer.text
    assert client.get(path).json()["parameters"]["mirror"] is False, "nothing was changed"
    answer = client.post(f"{path}/pause", json={"pause": False})
    assert answer.status_code == 422 and "pause" in answer.text


def test_load_with_other_parameters_is_refused_while_a_session_runs(server, client):
    until(lambda: client.get("/api/v1/pipeline/status").json()["status"] == "loaded")
    assert client.post("/api/v1/sessions", json={}).status_code == 201
    answer = client.post("/api/v1/pipeline/load", json={"load_params": {"seed": 99}})
    assert answer.status_code == 409 and "session" in answer.json()["detail"]
    assert client.get("/api/v1/pipeline/status").json()["status"] == "loaded"


def test_loading_is_told_with_its_stage_and_sessions_wait():
    asked = threading.Event()

    def slow(parameters, at_stage):
        at_stage("reading the weights")
        asked.wait()
        raise MemoryError

    with live_server(factory=slow, load_at_start=False) as server, server.client() as http:
        http.post("/api/v1/pipeline/load", json=LOAD)
        until(lambda: http.get("/api/v1/pipeline/status").json().get("stage") == "reading the weights")
        refused = http.post("/api/v1/sessions", json={})
        asked.set()
        assert refused.status_code == 503 and "reading the weights" in refused.json()["detail"]
        until(lambda: http.get("/api/v1/pipeline/status").json()["status"] == "error")
        assert http.get("/api/v1/pipeline/status").json()["error"]


def test_every_picture_that_is_read_may_be_chosen_and_is_described(client):
    page = client.get("/").text
    chosen = re.search(r'id="portrait-file" type="file" accept="([^"]*)"', page)[1].split(",")
    known_to_browsers = ("image/jpeg", "image/png", "image/gif", "image/webp", "image/bmp")
    for suffix, kind in media_types().items():
        assert kind.startswith("image/") and "image/*" in chosen and (kind in known_to_browsers or suffix in chosen)
    described = client.get("/openapi.json").json()["paths"]["/api/v1/personalive/reference"]["post"]["requestBody"]
    assert set(described["content"]) == set(media_types().values())


@pytest.mark.parametrize(
    ("body", "reason"),
    [(b"", "empty"), (b"no picture at all", "not a picture"), (picture()[:60], "damaged")],
)
def test_bodies_that_are_no_picture_are_refused_with_the_reason(client, body, reason):
    answer = client.post("/api/v1/personalive/reference", content=body, headers={"Content-Type": "image/png"})
    assert answer.status_code == 400 and reason in answer.json()["detail"]


def test_a_picture_with_too_many_pixels_is_refused_before_it_is_decoded(client):
    answer = client.post("/api/v1/personalive/reference", content=picture(size=(9000, 9000)))
    assert answer.status_code == 400 and "9000x9000" in answer.json()["detail"]


def test_a_body_of_100_mb_is_refused_announced_or_not(client):
    def endless():
        for _ in range(1600):
            yield bytes(65536)

    for path in ("/api/v1/personalive/reference", "/api/v1/webrtc/offer"):
        for content in (bytes(100 * 1024 * 1024), endless()):
            try:
                answer = client.post(path, content=content, headers={"Content-Type": "application/json"})
            except httpx.TransportError:  # the server closed the connection early, which is just as good
                continue
            assert answer.status_code == 413
    assert client.get("/health").status_code == 200


def test_session_calls(server, client):
    assert client.post("/api/v1/personalive/reference", content=picture(BLUE)).json()["success"]
    session = client.post("/api/v1/sessions", json={"mirror": True}).json()
    path = f"/api/v1/sessions/{session['sessionId']}"
    assert session["parameters"]["mirror"] and session["stats"]["has_portrait"] and not session["connected"]
    changed = client.patch(f"{path}/parameters", json={"motion_strength": 0.5, "seed": 3}).json()
    assert (changed["motion_strength"], changed["seed"], changed["mirror"]) == (0.5, 3, True)
    assert client.patch(f"{path}/parameters", json={"fps": 0}).status_code == 422
    assert client.put(f"{path}/reference", content=picture(GREEN)).json()["success"]
    assert client.post(f"{path}/pause", json={"paused": True}).status_code == 200
    assert client.get(path).json()["parameters"]["paused"] is True
    assert client.post(f"{path}/pause", json={"paused": False}).status_code == 200
    assert client.post(f"{path}/reset").status_code == 200
    assert client.post(f"{path}/neutral").status_code == 200
    assert client.post(f"{path}/resume").status_code == 400
    assert client.post(f"{path}/snapshot").status_code == 200
    assert client.put(f"{path}/reference", content=picture(RED)).json()["success"]
    assert client.post(f"{path}/resume").status_code == 200
    stream = server.hub.entries[session["sessionId"]].session._animation._stream
    assert stream.colour == GREEN and stream.anchors == 1
    assert client.delete(path).status_code == 204
    assert client.get(path).status_code == 404


def test_a_snapshot_goes_on_in_another_session(server, client):
    client.post("/api/v1/personalive/reference", content=picture(GREEN))
    first = client.post("/api/v1/sessions", json={}).json()["sessionId"]
    client.post(f"/api/v1/sessions/{first}/snapshot")
    client.delete(f"/api/v1/sessions/{first}")
    client.post("/api/v1/personalive/reference", content=picture(RED))
    second = client.post("/api/v1/sessions", json={}).json()["sessionId"]
    assert client.post(f"/api/v1/sessions/{second}/resume").status_code == 200
    assert server.hub.entries[second].session._animation._stream.colour == GREEN


def test_each_client_gets_its_own_portrait(server, client):
    with server.client() as other:
        client.post("/api/v1/personalive/reference", content=picture(RED))
        other.post("/api/v1/personalive/reference", content=picture(GREEN))
        mine = client.post("/api/v1/sessions", json={}).json()["sessionId"]
        theirs = other.post("/api/v1/sessions", json={}).json()["sessionId"]
        colours = {each: server.hub.entries[each].session._animation._stream.colour for each in (mine, theirs)}
        assert colours == {mine: RED, theirs: GREEN}
        client.post("/api/v1/personalive/reference", content=picture(BLUE))
        assert server.hub.entries[mine].session._animation._stream.colour == BLUE
        assert server.hub.entries[theirs].session._animation._stream.colour == GREEN


def test_a_client_without_cookies_is_known_by_its_address(server, client):
    def send(method, path, **options):
        return httpx.request(method, server.url + path, **options)

    send("POST", "/api/v1/personalive/reference", content=picture(BLUE))
    session = send("POST", "/api/v1/sessions", json={}).json()
    assert session["stats"]["has_portrait"]
    send("POST", "/api/v1/personalive/reference", content=picture(GREEN))
    stream = server.hub.entries[session["sessionId"]].session._animation._stream
    assert stream.colour == GREEN and stream.resets == 0


def test_a_full_server_says_so(server, client):
    others = [server.client() for _ in range(4)]
    server.hub.options = ServeOptions(max_sessions=2)
    try:
        for http in others[:2]:
            identifier = http.post("/api/v1/sessions", json={}).json()["sessionId"]
            entry = server.hub.entries[identifier]
            server.call(server.hub.connections.attach, entry, NoTransport())
        refused = others[2].post("/api/v1/sessions", json={})
        assert refused.status_code == 503 and "full" in refused.json()["detail"] and "Retry-After" in refused.headers
    finally:
        server.hub.options = ServeOptions(max_sessions=3)
        for http in others:
            http.close()


class NoTransport:
    """Stands for a connection that is up."""

    connected = True

    def send(self, message):
        pass

    async def close(self):
        pass


def test_other_calls_of_the_interface(client):
    assert client.get("/api/v1/webrtc/ice-servers").json() == {"iceServers": []}
    assert "personalive" in client.get("/api/v1/pipelines/schemas").json()["pipelines"]
    health = client.get("/health").json()
    assert health["status"] == "healthy" and health["max_sessions"] == 3
    paths = client.get("/openapi.json").json()["paths"]
    assert "/api/v1/webrtc/offer" in paths and "/api/v1/sessions/{session_id}/parameters" in paths


def test_metrics_count_what_happened(server, client):
    client.post("/api/v1/sessions", json={})
    text = client.get("/metrics").text
    for name in (
        "sessions",
        "fps_out",
        "chunk_seconds_count",
        "delay_seconds_sum",
        "dropped_frames_total",
        "waiting_in",
        "tasks",
        "threads",
    ):
        assert f"personalive_{name} " in text, name
    assert "process_resident_memory_bytes" in text
    assert "personalive_sessions 1.0" in text


def test_unknown_sessions_are_404(client):
    missing = "/api/v1/sessions/nobody"
    assert client.get(missing).status_code == 404
    assert client.delete(missing).status_code == 404
    assert client.put(f"{missing}/reference", content=picture()).status_code == 404
    assert client.patch("/api/v1/webrtc/offer/nobody", json={"candidates": []}).status_code == 404
    for call in ("pause", "reset", "neutral", "snapshot", "resume"):
        assert client.post(f"{missing}/{call}").status_code == 404


def test_a_client_that_opens_session_after_session_keeps_one(server, client):
    first = client.post("/api/v1/sessions", json={}).json()["sessionId"]
    second = client.post("/api/v1/sessions", json={}).json()["sessionId"]
    assert set(server.hub.entries) == {second} and first != second


def test_strangers_who_have_just_come_are_not_displaced(server, client):
    others = [server.client(cookies={COOKIE: f"c{index}"}) for index in range(4)]
    try:
        codes = [http.post("/api/v1/sessions", json={}).status_code for http in others]
        assert codes == [201, 201, 201, 503]
        for entry in server.hub.entries.values():
            entry.since -= 10
        assert others[3].post("/api/v1/sessions", json={}).status_code == 201
    finally:
        for http in others:
            http.close()
