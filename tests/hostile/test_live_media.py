"""Clients whose offers, candidates, JSON and sockets mean no good: items 9, 10 and 13 of the tracker's issue 12."""

import asyncio
import contextlib
import itertools
import json
import socket
import time
from pathlib import Path

import httpx
import pytest
import websockets.sync.client
from aiortc import RTCPeerConnection
from websockets.exceptions import ConnectionClosed

from personalive.live.options import ServeOptions
from personalive.live.transport.ice import MAX_UNANSWERED, IceLimits
from tests.hostile.live_process import LiveProcess, served
from tests.hostile.mutations import HALF_A_CHARACTER, mutated_json, mutated_sdp, seeds
from tests.live_client import Camera, LiveClient, grey
from tests.live_support import BLUE, GREEN, RED, WAIT, picture, until

CHROMIUM_OFFER = Path(__file__).with_name("chromium_offer.sdp").read_bytes().decode()
OFFER = "/api/v1/webrtc/offer"
JSON = {"Content-Type": "application/json"}
QUICK = 150
"""Mutations in the quick suite."""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with served(tmp_path_factory.mktemp("server"), "--max_sessions", "8", "--offer_rate", "1e6") as running:
        yield running
        assert not running.defects()


class Caller(httpx.Client):
    """A client that ends the sessions which it has opened."""

    def __init__(self, server: LiveProcess) -> None:
        super().__init__(base_url=server.url, timeout=WAIT)
        self._opened: list[str] = []

    def offer(self, sdp: str) -> httpx.Response:
        """Send an offer, which may have half characters."""
        content = json.dumps({"sdp": sdp, "type": "offer"})
        answer = self.post(OFFER, content=content, headers=JSON)
        if answer.status_code == 200:
            self._opened.append(answer.json()["sessionId"])
        return answer

    def __exit__(self, *problem: object) -> None:
        for identifier in self._opened[-8:]:
            self.delete(f"/api/v1/sessions/{identifier}")
        super().__exit__(*problem)


@pytest.fixture
def client(server):
    with Caller(server) as caller:
        yield caller


async def own_offer() -> str:
    """An offer of aiortc's."""
    peer = RTCPeerConnection()
    peer.createDataChannel("parameters")
    peer.addTrack(Camera(grey()))
    await peer.setLocalDescription(await peer.createOffer())
    sdp = peer.localDescription.sdp
    await peer.close()
    return sdp


# ---- errors that were defects ----


BAD_JSON = {
    "NaN": b'{"sdp": "v=0", "type": "offer", "initialParameters": NaN}',
    "NaN inside": b'{"sdp": NaN, "type": "offer"}',
    "infinity": b'{"sdp": 1e999, "type": "offer"}',
    "half a character": b'{"sdp": "\\ud800", "type": "offer"}',
    "half a character as a name": b'{"sdp": 1, "type": "offer", "\\ud800": 1}',
    "digits without end": b'{"sdp": ' + b"1" * 10_000 + b"}",
    "nested without end": b'{"sdp": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
}


@pytest.mark.parametrize("kind", BAD_JSON)
def test_json_that_cannot_be_answered_in_json_is_refused(client, kind):
    answer = client.post(OFFER, content=BAD_JSON[kind], headers=JSON)
    assert answer.status_code in (400, 422) and answer.json()["detail"]


@pytest.mark.parametrize("depth", range(100, 1000, 25))
def test_no_depth_of_nesting_is_a_defect(client, depth):
    nested = "[" * depth + "]" * depth
    body = f'{{"sdp": "v=0", "type": "offer", "initialParameters": {{"fps": {nested}}}}}'
    answer = client.post(OFFER, content=body, headers=JSON)
    assert answer.status_code in (400, 422)


def without(sdp: str, start: str) -> str:
    return "".join(line for line in sdp.splitlines(keepends=True) if not line.startswith(start))


BAD_OFFERS = {
    "half a character": CHROMIUM_OFFER + HALF_A_CHARACTER,
    "sections without a name": without(CHROMIUM_OFFER, "a=mid"),
    "one section without a name": CHROMIUM_OFFER.replace("a=mid:0\r\n", ""),
    "two sections of one name": CHROMIUM_OFFER.replace("a=mid:1", "a=mid:0"),
    "a bundle of nothing": CHROMIUM_OFFER.replace("BUNDLE 0 1 2", "BUNDLE 7 8 9"),
    "no keys": without(CHROMIUM_OFFER, "a=ice-"),
    "no fingerprint": without(CHROMIUM_OFFER, "a=fingerprint"),
    "no codecs": without(CHROMIUM_OFFER, "a=rtpmap"),
    "no video": CHROMIUM_OFFER.replace("m=video", "m=image"),
    "too many sections": CHROMIUM_OFFER + "m=audio 9 UDP/TLS/RTP/SAVPF 0\r\n" * 500,
    "too many lines": CHROMIUM_OFFER + "a=x\r\n" * 5000,
}


@pytest.mark.parametrize("kind", BAD_OFFERS)
def test_offers_that_cannot_be_used_are_refused_and_leave_nothing(server, client, kind):
    answer = client.offer(BAD_OFFERS[kind])
    assert answer.status_code in (400, 422) and answer.json()["detail"]
    until(lambda: not server.sockets())
    assert client.get("/health").json()["sessions"] == 0


def fuzz_offers(server, count: int) -> None:
    bases = (CHROMIUM_OFFER, asyncio.run(own_offer()))
    with Caller(server) as caller:
        offers = [mutated_sdp(bases[index % 2], chance) for index, chance in enumerate(seeds(count))]
        statuses = [caller.offer(each).status_code for each in offers]
    assert set(statuses) == {200, 400, 422}, {each: statuses.index(each) for each in set(statuses)}
    until(lambda: not server.sockets())
    assert server.health() == 200


def test_mutated_offers_are_answered(server):
    fuzz_offers(server, QUICK)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_thousand_mutated_offers_are_answered(server):
    fuzz_offers(server, 1000)


def fuzz_bodies(server, count: int) -> None:
    with Caller(server) as http:
        session = http.post("/api/v1/sessions", json={}).json()["sessionId"]
        calls = [
            ("POST", "/api/v1/pipeline/load", {"pipeline_id": "personalive", "load_params": {"seed": 1}}),
            ("POST", OFFER, {"sdp": CHROMIUM_OFFER[:500], "type": "offer", "initialParameters": {"fps": 1}}),
            ("PATCH", f"{OFFER}/{session}", {"candidates": [{"candidate": "", "sdpMid": "0", "sdpMLineIndex": 1}]}),
            ("POST", "/api/v1/sessions", {"mirror": True, "fps": 1}),
            ("PATCH", f"/api/v1/sessions/{session}/parameters", {"seed": 1, "motion_strength": 1.0}),
            ("POST", f"/api/v1/sessions/{session}/pause", {"paused": True}),
        ]
        for index, chance in enumerate(seeds(count)):
            method, path, value = calls[index % len(calls)]
            body = mutated_json(value, chance)
            answer = http.request(method, path, content=body, headers=JSON)
            # 503 while the model is loaded again, which one of these may ask for.
            assert answer.status_code < 500 or "Retry-After" in answer.headers, (index, path, body[:300], answer.text)
            answer.json() if answer.content else None
    assert server.health() == 200


def test_mutated_json_is_answered(server):
    fuzz_bodies(server, 2 * QUICK)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_thousand_mutated_bodies_are_answered(server):
    fuzz_bodies(server, 1000)


# ---- candidates ----


def named(count: int, address: str = "192.0.2.99", port: int = 10000) -> list[str]:
    return [f"candidate:{each} 1 udp 2122260223 {address} {port + each} typ host" for each in range(count)]


def with_candidates(lines: list[str]) -> str:
    """Chromium's offer with these candidates instead of its own."""
    sdp = without(CHROMIUM_OFFER, "a=candidate")
    return sdp.replace("a=mid:0\r\n", "a=mid:0\r\n" + "".join(f"a={line}\r\n" for line in lines))


def test_candidates_of_an_offer_and_those_after_it_have_one_limit(client):
    refused = client.offer(with_candidates(named(129)))
    assert refused.status_code == 400 and "candidates" in refused.json()["detail"]
    taken = client.offer(with_candidates(named(100)))
    path = f"{OFFER}/{taken.json()['sessionId']}"
    more = [{"candidate": each, "sdpMid": "0"} for each in named(40, port=20000)]
    assert client.patch(path, json={"candidates": more[:28]}).status_code == 204
    assert client.patch(path, json={"candidates": more[28:]}).status_code == 400


def test_media_of_a_local_server_stays_on_the_loopback_address(server, client):
    # With the name that a browser without a camera sends instead of its address, and asks the whole network for.
    hidden = "candidate:1 1 udp 2113937151 990ab247-f80e-4212-a861-99826b8522b3.local 40912 typ host"
    answer = client.offer(with_candidates([hidden]))
    addresses = [line.split()[4] for line in answer.json()["sdp"].splitlines() if line.startswith("a=candidate")]
    assert addresses and set(addresses) == {"127.0.0.1"}
    assert server.sockets() and set(server.sockets()) == {"127.0.0.1"}


def test_media_can_be_told_to_go_elsewhere():
    assert IceLimits(ServeOptions(media_host="0.0.0.0").media_host).addresses is None
    assert IceLimits("127.0.0.1").local_only and not IceLimits("0.0.0.0").local_only


@pytest.mark.slow
async def test_an_address_that_never_answers_gets_few_packets(server):
    """Many sockets that say nothing, named by one client after the other; then one that speaks, at the same address."""
    own = own_address()
    silent = {address: [listening(address) for _ in range(60)] for address in ("127.0.0.5", own)}
    lines = [
        f"candidate:{port} 1 udp 2122260223 {address} {port} typ host"
        for address, each in silent.items()
        for port in (one.getsockname()[1] for one in each)
    ]
    try:
        for _ in range(3):
            with Caller(server) as caller:
                assert caller.offer(with_candidates(lines)).status_code == 200
                await asyncio.sleep(3)  # in which there were 120 packets
        received = {address: sum(map(packets, each)) for address, each in silent.items()}
        assert 0 < received["127.0.0.5"] <= MAX_UNANSWERED and received[own] <= MAX_UNANSWERED
        async with LiveClient(server.url) as honest:
            await honest.reference(picture(RED))
            assert (await honest.offer(Camera(grey()))).status_code == 200
            assert len(await honest.watch(5)) == 5
            await honest.http.delete(f"/api/v1/sessions/{honest.session_id}")
    finally:
        for each in itertools.chain(*silent.values()):
            each.close()


def listening(address: str) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind((address, 0))
    made.setblocking(False)
    return made


def own_address() -> str:
    """The address from which clients on this machine send."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        with contextlib.suppress(OSError):
            probe.connect(("192.0.2.254", 9))
        found = probe.getsockname()[0]
    return "127.0.0.1" if found == "0.0.0.0" else found


def packets(silent: socket.socket) -> int:
    count = 0
    with contextlib.suppress(BlockingIOError):
        while silent.recv(2048):
            count += 1
    return count


# ---- sockets ----


def floods() -> dict:
    small = bytes(8) + picture((90, 90, 90), (16, 16), "JPEG")

    def frames(connection):
        connection.send(small)

    def texts(connection):
        connection.send('{"mirror": true}')

    def pings(connection):
        connection.ping()

    def parts(connection):
        connection.send(itertools.repeat(b"", 1000))

    return {each.__name__: each for each in (frames, texts, pings, parts)}


@pytest.mark.parametrize("kind", floods())
def test_a_socket_that_floods_is_told_so_and_closed(server, kind):
    address = server.url.replace("http", "ws") + "/api/v1/ws"
    send, told = floods()[kind], []
    with websockets.sync.client.connect(address, max_queue=None, close_timeout=1, ping_interval=None) as connection:
        end = time.monotonic() + 120
        with pytest.raises(ConnectionClosed) as closed:
            while time.monotonic() < end:
                for _ in range(50):
                    send(connection)
        told += texts_of(connection)
    assert closed.value.rcvd is not None and closed.value.rcvd.code == 1008, "it was allowed to go on"
    if kind in ("frames", "texts"):
        assert any("more messages came" in each.get("error_message", "") for each in told)
    said = "more messages came than a camera can send", "there were too many control frames"
    assert closed.value.rcvd.reason in said


def texts_of(connection) -> list[dict]:
    found = []
    with contextlib.suppress(ConnectionClosed, TimeoutError):
        while True:
            message = connection.recv(timeout=0)
            if isinstance(message, str):
                found.append(json.loads(message))
    return found


async def test_who_floods_disturbs_nobody(server):
    """A client's pictures keep coming while others flood by socket, by offers and by requests."""
    async with LiveClient(server.url) as calm, LiveClient(server.url) as rude:
        await calm.reference(picture(GREEN))
        await calm.offer(Camera(grey()))
        await calm.watch(5)

        async def offers() -> None:
            while True:
                await rude.http.post(OFFER, json={"sdp": with_candidates(named(50)), "type": "offer"})

        async def requests() -> None:
            while True:
                await rude.http.get("/health")

        flood = [asyncio.ensure_future(each) for each in (offers(), requests(), requests())]
        assert len(await calm.watch(40, 60)) == 40
        for each in flood:
            each.cancel()
        await asyncio.gather(*flood, return_exceptions=True)
        assert (await calm.reference(picture(BLUE))).status_code == 200
        await calm.http.delete(f"/api/v1/sessions/{calm.session_id}")
