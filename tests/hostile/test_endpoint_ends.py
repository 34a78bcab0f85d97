"""How the HTTP service starts and ends, also when Cog's server fails it.

Each met a fault of Cog's server alone, as in test_endpoint.py.
"""

import os
import signal
import socket
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from personalive.testing.cog_folder import make_cog_folder
from tests.endpoint_support import WAIT, alive, endpoint, receiver, wait_for

STUB = """
import os, time
from cog import BasePredictor, Input

class Predictor(BasePredictor):
    def predict(self, what: str = Input(description="What to do.", default="end")) -> str:
        if what == "die":
            os._exit(3)
        if what == "wait":
            time.sleep(600)
        if what == "result":
            time.sleep(0.2)
            return "data:text/plain;base64,aGVsbG8="
        raise ValueError(what)
"""


@pytest.fixture
def stub_folder(tmp_path):
    """Where the same service has a predictor that does what no real one should."""
    make_cog_folder(tmp_path, STUB)
    return tmp_path


@contextmanager
def stub_server(folder, *arguments):
    allowed = {"PERSONALIVE_ALLOW_PRIVATE_URLS": "1"}
    with endpoint("demo", folder / "temporary", *arguments, root=folder, **allowed) as running:
        running.wait_until_loaded()
        yield running


@pytest.fixture
def stub(stub_folder):
    with stub_server(stub_folder) as running:
        yield running


def test_results_are_sent_where_the_operator_wants_them(stub_folder):
    with receiver() as web, stub_server(stub_folder, "--upload_url", f"{web.url}/kept") as running:
        answer = running.post({"what": "result"}).json()
        assert answer["output"] == f"{web.url}/kept/output.txt"
        assert web.requests == [("PUT", "/kept/output.txt", b"hello")]


@pytest.mark.slow
def test_slot_that_cog_loses_ends_the_service_so_that_it_is_started_again(stub):
    """Cog's server loses its slot to a prediction that ends within a few milliseconds, unless the machine is busy."""
    with suppress(httpx.TransportError):
        for _ in range(100):
            stub.post({"what": "end"})
    if stub.process.poll() is None and stub.status() == "READY":
        assert stub.post({"what": "result"}).json()["status"] == "succeeded", "nothing was lost"
    else:
        assert stub.process.wait(WAIT) == 1
        assert "slot" in stub.log.read_text().splitlines()[-1]


def test_worker_that_dies_is_told_and_ends_the_service(stub):
    processes = stub.processes()
    with receiver() as web:
        assert stub.put("fatal", {"what": "die"}, webhook=f"{web.url}/webhook").status_code == 202
        wait_for(lambda: "failed" in web.statuses())
        assert stub.process.wait(WAIT) == 1
        assert web.statuses().count("failed") == 1
    assert not alive(processes)


@pytest.mark.slow
def test_server_of_cog_that_dies_is_told_and_ends_the_service(stub):
    processes = stub.processes()
    cog = [pid for pid in processes if b"cog.server.http" in Path("/proc", str(pid), "cmdline").read_bytes()]
    with receiver() as web:
        stub.put("fatal", {"what": "wait"}, webhook=f"{web.url}/webhook")
        wait_for(web.events)
        for pid in cog:
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: "failed" in web.statuses())
        assert stub.process.wait(WAIT) == 1
    wait_for(lambda: not alive(processes))


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM])
def test_signals_end_all_processes_even_where_the_prediction_does_not_listen(stub, number):
    processes = stub.processes()
    assert len(processes) >= 3
    with receiver() as web:
        stub.put("deaf", {"what": "wait"}, webhook=f"{web.url}/webhook")
        wait_for(web.events)
        stub.process.send_signal(number)
        assert stub.process.wait(WAIT) == 0
        assert "canceled" in web.statuses()
    wait_for(lambda: not alive(processes))


@pytest.mark.slow
def test_sigterm_during_an_upload_still_tells_the_webhook_how_it_ended(stub_folder):
    with socket.create_server(("127.0.0.1", 0)) as deaf, receiver() as web:
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}/kept"
        with stub_server(stub_folder, "--upload_url", url) as running:
            running.put("kept", {"what": "result"}, webhook=f"{web.url}/webhook")
            upload, _ = deaf.accept()
            with upload:
                running.process.send_signal(signal.SIGTERM)
                assert running.process.wait(WAIT) == 0
        assert web.statuses()[-1] == "failed"
        assert "upload" in web.events()[-1]["error"]


@pytest.mark.slow
def test_service_that_is_killed_leaves_no_process(stub):
    processes = stub.processes()
    stub.process.kill()
    wait_for(lambda: not alive(processes))


def test_predictions_before_the_model_is_loaded_are_503_and_say_when_to_ask_again(small_model_folder, inputs, tmp_path):
    with endpoint(small_model_folder, tmp_path / "temporary") as running:
        wait_for(lambda: running.status() != "DOWN")
        answer = running.post(inputs)
        assert answer.status_code == 503 and int(answer.headers["Retry-After"]) > 0, answer.text
