"""The described interface under random requests."""

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings

from personalive.testing.echo import EchoEngine
from tests.live_support import RED, live_server, picture

MODES = (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE)


def fuzz(examples: int) -> int:
    """Send what the description allows and what it forbids; return the number of requests."""
    sent = 0
    with live_server(EchoEngine(256, 256, window=4), max_sessions=8) as server:
        schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
        for found in schema.get_all_operations():
            for mode in MODES:
                sent += ask(found.ok(), mode, examples)
        assert httpx.get(f"{server.url}/health").json()["status"] == "healthy"
        server.hub.loader.wait()
        with server.client() as client:
            client.post("/api/v1/personalive/reference", content=picture(RED))
            assert client.post("/api/v1/sessions", json={}).status_code == 201
    return sent


def ask(operation, mode, examples: int) -> int:
    sent = 0

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def send(case):
        nonlocal sent
        sent += 1
        answer = case.call(timeout=20)
        # A server that is full, or is loading what the last request asked for, answers 503 with a reason.
        assert answer.status_code < 500 or answer.status_code == 503, (case.as_curl_command(), answer.text)

    # An operation without parameters has nothing that could be wrong about it.
    try:
        send()
    except Exception as error:
        if type(error).__name__ not in ("Unsatisfiable", "InvalidArgument", "SkipTest"):
            raise
    return sent


def test_random_requests_find_no_server_error():
    assert fuzz(5) > 60


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_many_random_requests_find_no_server_error():
    assert fuzz(200) > 2000
