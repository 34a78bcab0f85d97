"""The endpoint's described interface under random requests."""

import pytest

from tests.endpoint_support import endpoint, receiver
from tests.hostile.fuzz import fuzz


@pytest.fixture(scope="module")
def server(small_model_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz") / "temporary"
    with endpoint(small_model_folder, folder, PERSONALIVE_ALLOW_PRIVATE_URLS="1") as running:
        running.wait_until_loaded()
        yield running


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_many_random_requests_are_answered_as_described(server, tmp_path):
    with receiver() as web:
        fuzz(server.url, tmp_path, 100, webhook=f"{web.url}/webhook")
    assert server.status() == "READY"
