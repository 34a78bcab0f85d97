"""Live's described interface under random requests."""

import pytest

from tests.hostile.fuzz import fuzz
from tests.hostile.live_process import served
from tests.live_support import RED, picture, until

TOKEN = "told-to-friends-only"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}
FLAGS = ("--header", f"Authorization: Bearer {TOKEN}", "--exclude-checks", "ensure_resource_availability")
"""A client's session to which nobody is connected gives way to its next one: what was created may have gone."""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    flags = ("--max_sessions", "8", "--offer_rate", "1e6", "--token", TOKEN)
    with served(tmp_path_factory.mktemp("live"), *flags) as running:
        yield running


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_many_random_requests_are_answered_as_described(server, tmp_path):
    """As one client, whom the token names: otherwise no session that one request opens would be the next one's."""
    with server.client(headers=HEADERS) as client:
        client.post("/api/v1/pipeline/load", json={"load_params": {"width": 256, "height": 256}})
        until(lambda: client.get("/health").json()["pipeline"] == "loaded", 60)
        fuzz(server.url, tmp_path, 100, *FLAGS)
        assert not server.defects()
        until(lambda: client.get("/health").json()["pipeline"] == "loaded", 60)
        assert client.post("/api/v1/personalive/reference", content=picture(RED)).status_code == 200
        assert client.post("/api/v1/sessions", json={}).status_code == 201
