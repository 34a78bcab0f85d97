"""Several live servers behind one address: where sessions begin, and what becomes of them when a worker dies."""

import asyncio
import contextlib
import json
import os
import signal
import struct
import weakref

import httpx
import pytest
import websockets.sync.client
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from personalive.errors import InputError
from personalive.live.core.parameters import Parameters
from personalive.live.core.scheduler import Call
from personalive.live.front.app import create_front
from personalive.live.front.ledger import Ledger, Pictures
from personalive.live.front.metrics import added
from personalive.live.front.placement import Load, call_seconds, carries, order
from personalive.live.front.pool import Pool
from personalive.live.front.process import LocalWorkplace
from personalive.live.front.reports import SessionReport
from personalive.live.front.serve import serve
from personalive.live.hub.clients import Client
from personalive.live.hub.connections import latest
from personalive.live.hub.entries import SessionState
from personalive.live.options import ServeOptions
from personalive.loading import ModelChoice
from personalive.net.server import AddressError, bound
from personalive.processes import Seat
from personalive.testing.echo_worker import EchoWorkers
from tests.front_support import front
from tests.live_client import Camera, LiveClient, grey
from tests.live_support import BLUE, GREEN, RED, WAIT, picture, shows, until

# ---- how much a worker carries, and who is next ----


def test_a_worker_carries_what_its_calls_leave_time_for():
    assert carries(None, "balanced", 4) == 4  # nothing is known yet
    assert [carries(seconds, "balanced", 4) for seconds in (0.010, 0.075, 0.083, 0.9)] == [4, 2, 1, 1]
    assert carries(0.075, "low", 4) == 1
    assert call_seconds([Call(0.1, 1)] * 7) is None
    assert call_seconds([Call(9.0, 1), *[Call(0.2, 2)] * 64]) == pytest.approx(0.1)


LOADS = st.lists(
    st.builds(
        Load,
        st.integers(0, 5),
        st.integers(0, 4),
        waiting=st.integers(0, 5),
        is_home=st.booleans(),
        has_portrait=st.booleans(),
    ),
    max_size=6,
)


@given(LOADS)
def test_who_has_room_is_asked_first_the_least_loaded_of_all_and_who_is_full_for_those_that_wait_only(loads):
    chosen = order(loads)
    assert len(set(chosen)) == len(chosen)
    assert set(chosen) == {i for i, each in enumerate(loads) if each.limit and (each.has_room or each.waiting)}
    roomy = [index for index in chosen if loads[index].has_room]
    assert chosen[: len(roomy)] == roomy
    homes = [index for index in roomy if loads[index].is_home]
    assert roomy[: len(homes)] == homes
    shares = [loads[index].share for index in roomy[len(homes) :]]
    assert shares == sorted(shares)


def test_a_client_s_own_waiting_session_gives_way_even_where_others_have_room():
    assert order([Load(0, 4), Load(4, 4, waiting=1, has_own=True)]) == [1, 0]
    assert order([Load(0, 4), Load(1, 0, waiting=1, has_own=True)]) == [0]  # it is being drained


# ---- what the front remembers ----


def test_portraits_are_kept_once_and_the_oldest_give_way():
    kept = Pictures(most=100)
    first, again, second = kept.put(b"a" * 60), kept.put(b"a" * 60), kept.put(b"b" * 40)
    assert first == again and len(kept) == 2
    kept.get(first)
    third = kept.put(b"c" * 30)
    assert (kept.get(first), kept.get(second), kept.get(third)) == (b"a" * 60, None, b"c" * 30)


def test_sessions_are_forgotten_when_their_worker_no_longer_has_them_and_kept_when_it_dies():
    now = [0.0]
    ledger = Ledger(2, lambda: now[0])
    client = Client.known("cookie", "127.0.0.1")

    def report(identifier):
        return SessionReport(identifier, client, SessionState.CONNECTED, 0.0, Parameters(mirror=True))

    ledger.opened("new", "0.0", client, None)
    ledger.reported("0.0", [])  # made before the worker opened it
    assert "new" in ledger.sessions
    ledger.reported("0.0", [report("new"), report("other")])
    ledger.reported("0.0", [report("new")])
    assert list(ledger.sessions) == ["new"] and ledger.lost("other") is None
    ledger.opened("never seen", "0.0", client, None)
    now[0] = 10.0
    ledger.reported("0.0", [report("new")])
    assert list(ledger.sessions) == ["new"]
    ledger.lose("0.0")
    assert not ledger.sessions and ledger.lost("new").parameters.mirror
    now[0] = 1000.0
    assert ledger.lost("new") is None


def test_lost_sessions_for_which_nobody_comes_back_are_forgotten():
    now = [0.0]
    ledger = Ledger(1, lambda: now[0])
    for name in ("0.0", "0.1"):
        ledger.opened(f"on {name}", name, Client.known("cookie", "127.0.0.1"), None)
    lost = weakref.ref(ledger.lose("0.0")[0])
    assert lost() is ledger.lost("on 0.0")
    now[0] = 1000.0
    ledger.lose("0.1")
    assert lost() is None and ledger.lost("on 0.1")


def test_the_latest_session_is_known_although_machines_have_clocks_of_their_own():
    ledger = Ledger(2, lambda: 1000.0)
    client = Client.known("cookie", "127.0.0.1")
    for name, since, now in (("older", 90.0, 100.0), ("newer", 49_995.0, 50_000.0), ("oldest", 900.0, 1000.0)):
        ledger.reported(name, [SessionReport(name, client, SessionState.CONNECTED, since, Parameters())], now - 1000.0)
    assert latest(ledger.sessions.values(), client).identifier == "newer"
    assert [each.since for each in ledger.sessions.values()] == [990.0, 995.0, 900.0]


def test_the_still_portrait_is_where_the_last_session_was():
    ledger = Ledger(2)
    client = Client.known("cookie", "127.0.0.1")
    assert ledger.home(client.watch_id) is None
    ledger.reported("1.0", [SessionReport("by WHIP", client, SessionState.CONNECTED, 0.0, Parameters())])
    ledger.reported("1.0", [])
    assert not ledger.sessions and ledger.home(client.watch_id) == "1.0"
    assert ledger.home(Client.known("another", "127.0.0.1").watch_id) is None


def test_figures_of_workers_are_added_up():
    text = """
# TYPE a_total counter
a_total{kind="x"} %d
# TYPE d histogram
d_bucket{le="1.0"} 1
d_bucket{le="+Inf"} 2
d_count 2
d_sum 3
# TYPE process_start_time_seconds gauge
process_start_time_seconds %d
"""
    both = [each for number in (2, 5) for each in text_string_to_metric_families(text % (number, number))]
    found = {(sample.name, *sample.labels.values()): sample.value for each in added(both) for sample in each.samples}
    assert found["a_total", "x"] == 7 and found["d_bucket", "+Inf"] == 4 and found["d_sum",] == 6
    assert found["process_start_time_seconds",] == 2


# ---- what is checked before anything reaches a worker ----


async def test_hosts_origins_and_tokens_are_checked_by_the_front_as_by_a_single_server(tmp_path):
    options = ServeOptions(tokens=("a-long-secret",), workers=2)
    workplace = LocalWorkplace(options, [Seat(), Seat()], EchoWorkers(), tmp_path)
    app = create_front(options, Pool(workplace, load_at_start=True))  # none is started
    transport = httpx.ASGITransport(app, client=("127.0.0.1", 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:

        async def status(method, path, **headers):
            return (await client.request(method, path, headers=headers)).status_code

        key = {"Authorization": "Bearer a-long-secret"}
        for method, path in (("POST", "/api/v1/sessions"), ("POST", "/admin/drain"), ("GET", "/metrics")):
            assert await status(method, path) == 401
            assert await status(method, path, **key, Host="elsewhere.example") == 400
        assert await status("POST", "/admin/drain", **key, Origin="http://elsewhere.example") == 403
        assert await status("POST", "/api/v1/sessions", **key) == 503
        assert await status("GET", "/health") == await status("GET", "/") == 200
        answer = await client.get("/api/v1/pipeline/status", headers=key)
        assert answer.json()["status"] == "loading" and answer.headers["x-content-type-options"] == "nosniff"


def test_a_cluster_is_joined_on_one_of_its_machines():
    with pytest.raises(InputError, match="with auto"):
        serve(ServeOptions(ray="ray://cluster.example:10001", port=0))


@pytest.mark.parametrize("how", ({"workers": 2}, {"ray": "ray://cluster.example:10001"}), ids=["workers", "Ray"])
def test_an_address_is_taken_before_weights_are_brought_or_a_cluster_is_joined(how):
    choice = ModelChoice(model="/no/such/model", device="cpu")
    with bound("127.0.0.1", 0) as taken, pytest.raises(AddressError, match="give another --port"):
        serve(ServeOptions(port=taken.getsockname()[1], model=choice, **how))


# ---- two workers ----


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with front(tmp_path_factory.mktemp("front"), max_sessions=2) as running:
        yield running


@pytest.fixture(autouse=True)
def all_is_quiet(request):
    yield
    if "server" in request.fixturenames:
        running = request.getfixturevalue("server")
        until(lambda: not running.thread.is_alive() or running.busy() == [0, 0], 90)


@contextlib.contextmanager
def socket_session(server, cookie, **options):
    """A session over a WebSocket until the block ends: the socket, and the session's id, None without room."""
    address = server.url.replace("http", "ws") + "/api/v1/ws"
    headers = {"Cookie": f"personalive_client={cookie}"}
    with websockets.sync.client.connect(address, additional_headers=headers, **options) as connection:
        session = json.loads(connection.recv(timeout=WAIT)).get("sessionId")
        yield connection, session
        with server.client(cookie) as client:
            client.delete(f"/api/v1/sessions/{session}")


def test_sessions_begin_on_the_least_loaded_worker_and_a_client_stays_on_its_own(server):
    with socket_session(server, "first"):
        assert server.busy() == [1, 0]
        with socket_session(server, "second") as (_, own), server.client("second") as client:
            assert server.busy() == [1, 1]
            assert client.get("/api/v1/sessions/current").json()["sessionId"] == own
            assert client.post("/api/v1/sessions/current/toggle/paused").status_code == 200
            with socket_session(server, "second"):
                assert server.busy() == [1, 2]


def test_when_all_are_full_newcomers_are_told_to_come_back(server):
    with contextlib.ExitStack() as stack, server.client("fifth") as fifth:
        for name in ("first", "second", "third", "fourth"):
            assert stack.enter_context(socket_session(server, name))[1]
        refused = fifth.post("/api/v1/sessions", json={})
        assert refused.status_code == 503 and "retry-after" in refused.headers and "4 of 4" in refused.json()["detail"]
        assert stack.enter_context(socket_session(server, "fifth"))[1] is None
        health = fifth.get("/health").json()
        assert (health["sessions"], health["max_sessions"]) == (4, 4)
        sums = fifth.get("/metrics").text.splitlines()
        assert "personalive_sessions 4.0" in sums and "personalive_workers 2.0" in sums


def test_frames_and_messages_of_a_socket_pass_both_ways(server):
    with server.client("owner") as client, socket_session(server, "owner") as (connection, session):
        client.post("/api/v1/personalive/reference", content=picture(BLUE)).raise_for_status()
        connection.send(json.dumps({"mirror": True, "nonsense": 1}))
        errors = (json.loads(text) for text in iter(connection.recv, None) if isinstance(text, str))
        assert "nonsense" in next(each for each in errors if each["type"] == "error")["error_message"]
        stamps = []
        for number in range(200):
            connection.send(struct.pack("<d", number) + picture(GREEN, kind="JPEG"))
            with contextlib.suppress(TimeoutError):
                while isinstance(message := connection.recv(timeout=0.02), str):
                    pass
                stamps.append(struct.unpack_from("<d", message)[0])
            if sum(stamp == stamp for stamp in stamps) > 3:
                break
        known = [stamp for stamp in stamps if stamp == stamp]
        assert len(known) > 3 and known == sorted(known)
        assert client.get(f"/api/v1/sessions/{session}").json()["stats"]["has_portrait"]


def test_nobody_is_taken_for_another_by_saying_where_a_request_comes_from(server):
    """Workers believe what the front says of the client's address, and only that."""
    claim = {"X-Forwarded-For": "127.0.0.1", "Forwarded": "for=127.0.0.1", "X-Real-IP": "127.0.0.1"}
    with httpx.Client(base_url=server.url) as owner:
        session = owner.post("/api/v1/sessions", json={}).json()["sessionId"]  # it is known by its address, too
    with httpx.Client(base_url=server.url, transport=httpx.HTTPTransport(local_address="127.0.0.2")) as stranger:
        assert stranger.get(f"/api/v1/sessions/{session}", headers=claim).status_code == 403
    with httpx.Client(base_url=server.url) as same:
        other = {"X-Forwarded-For": "192.0.2.1", "X-Forwarded-Proto": "https"}
        answer = same.get(f"/api/v1/sessions/{session}", headers=other)
        assert answer.status_code == 200 and "secure" not in answer.headers["set-cookie"].lower()
        assert same.delete(f"/api/v1/sessions/{session}").status_code == 204


def test_only_this_machine_itself_may_drain(server):
    with server.client() as client:
        for headers in ({"X-Forwarded-For": "127.0.0.1"}, {"Via": "1.1 proxy"}, {"Forwarded": "for=127.0.0.1"}):
            assert client.post("/admin/drain", headers=headers).status_code == 403
        assert client.post("/admin/drain", headers={"Origin": "http://evil.example"}).status_code == 403
        assert client.post("/admin/drain", headers={"Host": "evil.example"}).status_code == 400
        assert client.post("/admin/drain", json={"worker": 2}).status_code == 404
        assert client.post("/admin/drain", json={"worker": -1}).status_code == 422
    assert {each["state"] for each in server.workers()} == {"loaded"}


def test_a_worker_that_is_drained_keeps_its_sessions_takes_no_others_and_ends(server):
    with server.client("first") as client, socket_session(server, "first") as (_, session):
        client.post("/api/v1/personalive/reference", content=picture(BLUE)).raise_for_status()
        (state, _) = client.post("/admin/drain", json={"worker": 0}).json()
        assert state["state"] == "draining" and state["sessions"] == 1
        for name in ("second", "first"):  # also not the one that was there before; its portrait comes along
            with socket_session(server, name) as (_, elsewhere), server.client(name) as other:
                until(lambda: server.busy() == [1, 1])  # the front has been told that the one before has ended
                shown = other.get(f"/api/v1/sessions/{elsewhere}").json()["stats"]["has_portrait"]
                assert shown == (name == "first")
        assert client.get(f"/api/v1/sessions/{session}").json()["connected"]
        client.delete(f"/api/v1/sessions/{session}")
        until(lambda: server.workers()[0]["state"] == "drained")
        httpx.request("DELETE", f"{server.url}/admin/drain", json={"worker": 0}).raise_for_status()
        assert server.workers()[0]["state"] == "starting"


@pytest.mark.slow
async def test_a_worker_that_dies_ends_its_own_sessions_only_and_they_go_on_elsewhere(server):
    server.until_loaded()
    async with LiveClient(server.url) as other, LiveClient(server.url) as owner, LiveClient(server.url) as viewer:
        for client, colour in ((other, RED), (owner, BLUE)):
            assert (await client.reference(picture(colour))).status_code == 200
            assert (await client.offer(Camera(grey()))).status_code == 200
            await client.watch(4)
        await owner.send(mirror=True, motion_strength=0.5, keep=["roll"])
        before = owner.session_id
        settled = f"/api/v1/sessions/{before}"
        async with asyncio.timeout(WAIT):
            while not (await owner.http.get(settled)).json()["parameters"]["mirror"]:
                await asyncio.sleep(0.02)
        for_next = "/api/v1/personalive/reference?show=false"
        assert (await owner.http.post(for_next, content=picture(RED))).status_code == 200
        await asyncio.sleep(2)  # until the front has been told of it, even where it is slow
        (victim,) = [each["pid"] for each in server.workers() if each["worker"] == 1]
        watch_id = await owner.watch_id()
        stranger = httpx.AsyncClient(base_url=server.url, cookies={"personalive_client": "stranger"})
        os.kill(victim, signal.SIGKILL)
        async with asyncio.timeout(WAIT):
            while (await owner.http.get(settled)).status_code != 404:
                await asyncio.sleep(0.02)
        pictures = await other.watch(20)
        assert all(shows(image, RED) for image in pictures)
        assert not any(each["type"] == "stream_stopped" for each in other.messages)
        stolen = {"sdp": "v=0\r\n", "type": "offer", "sessionId": before}
        assert (await stranger.post("/api/v1/webrtc/offer", json=stolen)).status_code == 403
        await stranger.aclose()
        await owner.hang_up()
        answer = await owner.offer(Camera(grey()), sessionId=before)
        assert answer.status_code == 200 and owner.session_id != before
        assert all(shows(image, BLUE) for image in (await owner.watch(12))[-4:])
        await owner.until_message(lambda message: message.get("code") == "moved")
        described = (await owner.http.get(f"/api/v1/sessions/{owner.session_id}")).json()
        assert described["parameters"]["mirror"] and described["parameters"]["keep"] == ["roll"]
        assert described["parameters"]["motion_strength"] == 0.5
        assert await owner.watch_id() == watch_id
        assert (await viewer.look_on(watch_id)).status_code == 200
        assert all(shows(image, BLUE) for image in await viewer.watch(2))
        for client in (other, owner):
            await client.http.delete(f"/api/v1/sessions/{client.session_id}")
    assert "personalive_worker_deaths_total 1.0" in httpx.get(f"{server.url}/metrics").text
    assert server.workers()[1].get("pid") != victim  # another one takes its place


def test_the_server_ends_once_all_workers_are_drained(server):
    with server.client("first") as client, socket_session(server, "first") as (_, session):
        client.post("/admin/drain").raise_for_status()
        refused = client.post("/api/v1/sessions", json={})
        assert refused.status_code == 503 and "drained" in refused.json()["detail"]
        assert client.get(f"/api/v1/sessions/{session}").json()["connected"]
    until(lambda: not server.thread.is_alive())
