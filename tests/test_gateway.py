"""Parts of the HTTP service that its clients cannot reach from outside at will."""

import asyncio
import io
import json
import re
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.exceptions import HTTPException
from starlette.requests import Request

from personalive.animate.requested import InternalError, _errors_for_clients
from personalive.errors import InputError
from personalive.gateway import app as app_module
from personalive.gateway import predictions as predictions_module
from personalive.gateway.app import MAX_CHECKS, create_app
from personalive.gateway.bodies import Bodies
from personalive.gateway.deliveries import Deliveries, UploadError, Webhook
from personalive.gateway.json_pieces import PIECE, json_pieces
from personalive.gateway.openapi import inputs_of, own_schema
from personalive.gateway.options import GatewayOptions
from personalive.gateway.predictions import Predictions
from personalive.gateway.requests import ID_PATTERN, InvalidError, check_id, parse
from personalive.net import addresses
from tests.endpoint_support import receiver

ROOT = Path(__file__).parents[1]
PUBLIC = [(2, 1, 6, "", ("93.184.216.34", 80))]

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@given(st.dictionaries(st.text(), values, max_size=4), st.integers(0, 3), st.text(min_size=1, max_size=3))
def test_json_in_pieces_is_the_same_json(value, pieces, letters):
    """Also where a string is cut, between any two letters."""
    value = {**value, "long": letters * (pieces * PIECE // 2)}
    assert json.loads(b"".join(json_pieces(value))) == value


@given(st.text(max_size=70) | st.from_regex(ID_PATTERN))
def test_ids_are_letters_digits_and_two_signs(identifier):
    allowed = bool(re.fullmatch(r"[A-Za-z0-9_-]{1,64}", identifier))
    if allowed:
        check_id(identifier)
    else:
        with pytest.raises(InvalidError):
            check_id(identifier)


@given(st.binary() | values.map(lambda value: json.dumps(value).encode()))
def test_any_body_is_a_request_or_refused(body):
    with suppress(InvalidError):
        request = parse(body, {"seed": {}})
        assert set(request.input) <= {"seed"}


async def test_webhook_whose_name_has_become_private_is_not_called(monkeypatch):
    """DNS rebinding: public when the request came, loopback now."""
    with receiver() as web:
        port = int(web.url.rpartition(":")[2])
        looked_up = iter([PUBLIC, [(2, 1, 6, "", ("127.0.0.1", port))]])
        monkeypatch.setattr(addresses.socket, "getaddrinfo", lambda *_, **__: next(looked_up))
        url = f"http://rebinding.example:{port}/webhook"
        parse(json.dumps({"input": {}, "webhook": url}).encode(), {})
        addresses.resolve(addresses.split_url(url), allow_private=False)
        webhook = Webhook(Deliveries(allow_private=False), url, {"completed"}, {})
        webhook.tell("completed", {"status": "succeeded"})
        await webhook.run()
        assert next(looked_up, None) is None and web.requests == []


async def test_result_is_not_sent_to_a_private_address_unless_it_is_the_operators():
    with receiver() as web:
        deliveries = Deliveries(allow_private=False)
        with pytest.raises(UploadError, match="not public"):
            await deliveries.upload("data:text/plain;base64,aGVsbG8=", web.url, trusted=False)
        assert web.requests == []
        url = await deliveries.upload("data:text/plain;base64,aGVsbG8=", f"{web.url}/a/", trusted=True)
        assert url == f"{web.url}/a/output.txt" and web.requests == [("PUT", "/a/output.txt", b"hello")]


async def test_secret_for_webhooks_stays_with_the_host_that_was_named(monkeypatch):
    monkeypatch.setenv("WEBHOOK_AUTH_TOKEN", "secret")
    with receiver() as other, receiver(status=307, location=f"{other.url}/webhook") as web:
        webhook = Webhook(Deliveries(allow_private=True), f"{web.url}/webhook", {"completed"}, {})
        webhook.tell("completed", {"status": "succeeded"})
        await webhook.run()
        assert web.headers[0]["Authorization"] == "Bearer secret"
        assert "Authorization" not in other.headers[0]


def sending(chunks):
    """A request whose body comes in these chunks; None is one that does not come."""
    waiting = asyncio.Event()
    rest = iter(chunks)

    async def receive():
        chunk = next(rest, b"")
        if chunk is None:
            await waiting.wait()
        return {"type": "http.request", "body": chunk, "more_body": chunk != b""}

    return Request({"type": "http", "method": "POST", "headers": []}, receive)


async def test_oldest_unfinished_body_gives_way():
    """The one that is complete stays, and so does the newest."""
    bodies = Bodies(max_held=1000)

    async def read(*chunks):
        async with bodies.read(sending(chunks), 1000) as body:
            return len(body)

    async with bodies.read(sending([bytes(400)]), 1000):
        stalled = asyncio.create_task(read(bytes(400), None))
        await asyncio.sleep(0.01)
        assert await read(bytes(300)) == 300
        with pytest.raises(HTTPException) as refused:
            await stalled
        assert refused.value.status_code == 503 and refused.value.headers["Retry-After"]
        with pytest.raises(HTTPException):
            await read(bytes(700))
    assert await read(bytes(1000)) == 1000, "nothing is held any longer"


async def test_slow_name_servers_keep_four_requests_waiting_at_most(monkeypatch):
    answered = threading.Event()
    asked = []

    def check(request, **_):
        asked.append(request)
        answered.wait(30)
        raise InvalidError(422, [])

    monkeypatch.setattr(app_module, "check_addresses", check)
    monkeypatch.setattr(app_module, "CHECK_WAIT_SECONDS", 0.01)
    service = create_app(IdlePredictions(), {}, inputs_of(own_schema()))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(service), base_url="http://service") as client:

        def ask():
            return client.post("/predictions", json={"input": {}, "webhook": "http://slow.example/"})

        waiting = [asyncio.create_task(ask()) for _ in range(MAX_CHECKS)]
        while len(asked) < MAX_CHECKS:
            await asyncio.sleep(0.01)
        refused = await ask()
        assert refused.status_code == 503 and refused.headers["Retry-After"]
        assert (await client.get("/health-check")).json()["status"] == "READY"
        answered.set()
        assert {(await each).status_code for each in waiting} == {422}
        assert (await ask()).status_code == 422


async def test_a_crowd_whose_addresses_are_found_at_once_is_not_refused():
    service = create_app(IdlePredictions(), {}, inputs_of(own_schema()))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(service), base_url="http://service") as client:
        body = {"input": {}, "webhook": "http://127.0.0.1/"}
        answers = await asyncio.gather(*(client.post("/predictions", json=body) for _ in range(10 * MAX_CHECKS)))
    assert {answer.status_code for answer in answers} == {422}


class ForgetfulCog:
    """Cog's server, whose worker drops the exception by which it is cancelled, some times."""

    def __init__(self, drops):
        self.drops, self.cancelled, self.predictions = drops, [], None

    async def predict(self, cog_id, request):
        pass

    async def settle(self, cog_id):
        pass

    async def cancel(self, cog_id):
        self.cancelled.append(cog_id)
        if len(self.cancelled) > self.drops:
            self.predictions.on_event(cog_id, {"status": "canceled", "logs": ""})


@pytest.mark.parametrize("drops", [0, 1, 4])
@pytest.mark.parametrize("stopped", [False, True])
async def test_a_cancellation_that_is_dropped_is_repeated_until_the_prediction_ends(monkeypatch, drops, stopped):
    monkeypatch.setattr(predictions_module, "CANCEL_AGAIN_SECONDS", 0.001)
    cog = ForgetfulCog(drops)
    cog.predictions = predictions = Predictions(cog, Deliveries(allow_private=False), "http://here/", None)
    prediction = await predictions.start(parse(b'{"id": "one", "input": {}}', {}), {})
    if stopped:
        await predictions.close(seconds=60)
    else:
        assert await predictions.cancel("one")
    await prediction.done.wait()
    await prediction.cancelling
    assert prediction.state["status"] == "canceled" and predictions.current is None
    assert cog.cancelled == [prediction.key] * (drops + 1), "and not once more"


class IdlePredictions:
    """Nothing is running."""

    health: ClassVar = {"status": "READY"}

    def check_room(self):
        """There is."""


def test_errors_that_nobody_expected_stay_in_the_log(monkeypatch):
    log = io.StringIO()
    monkeypatch.setattr(sys, "__stderr__", log)
    with pytest.raises(InternalError) as told, _errors_for_clients(Path("/tmp/secret")):
        raise ValueError(f"/opt/secret/path {object()}")
    assert "/opt" not in str(told.value) and "0x" not in str(told.value)
    assert "/opt/secret/path" in log.getvalue()
    with pytest.raises(InputError, match=r"^reference is damaged$"), _errors_for_clients(Path("/tmp/secret")):
        raise InputError("/tmp/secret/reference is damaged")


def test_port_is_the_flags_the_environments_or_5000(monkeypatch):
    monkeypatch.delenv("PORT", raising=False)
    assert GatewayOptions().resolved_port == 5000
    monkeypatch.setenv("PORT", "5001")
    assert GatewayOptions().resolved_port == 5001
    assert GatewayOptions(port=5002).resolved_port == 5002
    monkeypatch.setenv("PORT", "http")
    with pytest.raises(InputError, match="PORT is 'http'"):
        GatewayOptions().resolved_port  # noqa: B018
