"""Clients of the HTTP service that are told something, or stop something: webhooks, results, cancellation.

Each met a fault of Cog's server alone, as in test_endpoint.py.
"""

import json
import re
import signal
import socket
import threading
import time
from contextlib import contextmanager, suppress

import httpx
import pytest

from tests.endpoint_support import COG_FOLDERS, WAIT, alive, assert_works, endpoint, long_inputs, receiver, wait_for


@pytest.fixture(scope="module")
def long(portrait, tmp_path_factory):
    return long_inputs(portrait, tmp_path_factory.mktemp("long"))


@pytest.fixture(scope="module")
def trusting(small_model_folder, tmp_path_factory):
    """One that may call loopback, so that it can be told something from there. The last test ends it."""
    folder = tmp_path_factory.mktemp("trusting") / "temporary"
    with endpoint(small_model_folder, folder, PERSONALIVE_ALLOW_PRIVATE_URLS="1") as running:
        running.wait_until_loaded()
        yield running


@contextmanager
def dripping(content=b""):
    """A server that sends a byte of its answer now and then, for as long as anybody listens."""
    given_up = threading.Event()

    def drip(connection):
        with connection, suppress(OSError):
            connection.recv(1 << 16)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
            while not given_up.wait(0.5):
                connection.sendall(b"x")

    def listen():
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=drip, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            given_up.set()
            listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.timeout(300)
@pytest.mark.slow
def test_file_that_drips_is_given_up_and_the_slot_is_free(trusting, inputs):
    with dripping() as url, httpx.Client(timeout=60) as client:
        body = {"input": inputs | {"ref_image": f"{url}/portrait.png"}}
        answer = client.post(f"{trusting.url}/predictions", json=body).json()
    assert answer["status"] == "failed" and "slower than" in answer["error"], answer
    assert_works(trusting, inputs)


def test_cancel_while_a_file_drips_stops_at_once(trusting, inputs):
    with dripping() as url, receiver() as web:
        values = inputs | {"ref_image": f"{url}/portrait.png"}
        assert trusting.put("drip", values, webhook=f"{web.url}/webhook").status_code == 202
        wait_for(web.events)
        assert trusting.cancel("drip").status_code == 200
        wait_for(lambda: web.statuses()[-1] == "canceled")
    assert_works(trusting, inputs)


def test_webhook_that_never_answers_keeps_no_slot(trusting, inputs):
    with dripping() as url:
        for _ in range(3):
            answer = trusting.post(inputs | {"ref_image": "nonsense"}, webhook=f"{url}/webhook")
            assert answer.json()["status"] == "failed"


def test_events_come_in_order_and_the_last_one_last(trusting, inputs):
    with receiver() as web:
        answer = trusting.post(inputs | {"max_frames": 2}, id="ordered", webhook=f"{web.url}/webhook")
        assert answer.json()["status"] == "succeeded"
        wait_for(lambda: "succeeded" in web.statuses())
        time.sleep(0.5)
        events = web.events()
    assert {event["status"] for event in events[:-1]} <= {"starting", "processing"}
    assert events[-1]["status"] == "succeeded"
    lengths = [len(event["logs"]) for event in events]
    assert lengths == sorted(lengths)
    assert events[-2]["output"] == events[-1]["output"] == answer.json()["output"]
    assert {event["id"] for event in events} == {"ordered"}


def test_redirected_webhook_is_called_again_with_its_event(trusting, inputs):
    with receiver() as target, receiver(status=307, location=f"{target.url}/webhook") as web:
        trusting.post(inputs | {"ref_image": "nonsense"}, webhook=f"{web.url}/old")
        wait_for(lambda: "failed" in target.statuses())
        assert {method for method, _, _ in web.requests + target.requests} == {"POST"}


def test_webhook_that_fails_is_called_again_for_the_last_event_only(trusting, inputs):
    with receiver(status=500) as web:
        trusting.post(inputs | {"ref_image": "nonsense"}, webhook=f"{web.url}/webhook")
        wait_for(lambda: len(web.events()) >= 3)
        assert web.statuses()[1:] == ["failed"] * (len(web.events()) - 1)


def test_events_that_were_not_asked_for_do_not_come(trusting, inputs):
    with receiver() as web:
        fields = {"webhook": f"{web.url}/webhook", "webhook_events_filter": ["completed"]}
        trusting.post(inputs | {"ref_image": "nonsense"}, **fields)
        wait_for(lambda: web.statuses() == ["failed"])


def test_result_is_sent_where_it_was_asked_for(trusting, inputs):
    with receiver() as web:
        answer = trusting.post(inputs | {"max_frames": 2}, output_file_prefix=f"{web.url}/results/").json()
        assert answer["output"] == f"{web.url}/results/output.mp4"
        ((method, path, body),) = web.requests
    assert (method, path, body[4:8]) == ("PUT", "/results/output.mp4", b"ftyp")


def test_result_that_cannot_be_sent_is_a_failure_and_says_so(trusting, inputs):
    with receiver(status=403) as web:
        answer = trusting.post(inputs | {"max_frames": 2}, output_file_prefix=f"{web.url}/results/").json()
    assert answer["status"] == "failed" and "answers 403" in answer["error"] and "output" not in answer


@pytest.mark.slow
def test_same_id_while_it_runs(trusting, inputs, long):
    """PUT says how it is, POST is refused, and neither begins another."""
    with receiver() as web:
        assert trusting.put("twice", long, webhook=f"{web.url}/webhook").status_code == 202
        web.wait_until_busy()
        again = [trusting.put("twice", inputs, wait=wait) for wait in (True, False)]
        assert [answer.status_code for answer in again] == [202, 202]
        assert all(answer.json()["status"] == "processing" and "animating" in answer.json()["logs"] for answer in again)
        assert all(len(answer.content) < 10_000 for answer in again), "neither files nor a line for each frame"
        assert trusting.post(inputs, id="twice").status_code == 409
        assert trusting.put("other", inputs).status_code == 409
        assert trusting.cancel("other").status_code == 404
        assert trusting.cancel("twice").status_code == 200
        wait_for(lambda: web.statuses()[-1] == "canceled")
    wait_for(lambda: trusting.status() == "READY")
    assert trusting.cancel("twice").status_code == 200, "that it has ended meanwhile is no error"


def test_many_at_once_with_one_id_are_one_prediction(trusting, long):
    with receiver() as web:
        answers = []

        def put():
            answers.append(trusting.put("crowd", long, webhook=f"{web.url}/webhook"))

        threads = [threading.Thread(target=put) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {answer.status_code for answer in answers} <= {202, 409}
        assert 202 in {answer.status_code for answer in answers}
        trusting.cancel("crowd")
        wait_for(lambda: "canceled" in web.statuses())
        wait_for(lambda: trusting.status() == "READY")
        assert web.statuses().count("canceled") == 1


def test_client_who_leaves_cancels(trusting, inputs, long):
    with receiver() as web:
        body = json.dumps({"input": long, "webhook": f"{web.url}/webhook"}).encode()
        head = f"Host: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        with socket.create_connection(trusting.url.removeprefix("http://").split(":"), WAIT) as client:
            client.sendall(f"POST /predictions HTTP/1.1\r\n{head}".encode() + body)
            wait_for(web.events)
        wait_for(lambda: "canceled" in web.statuses())
    assert_works(trusting, inputs)


def folders_of(server):
    """What Cog keeps of this server's predictions; others on this machine keep theirs in the same place."""
    names = re.findall(r'"prediction_id":"([^"]+)"', server.log.read_text())
    return [COG_FOLDERS / name for name in names if (COG_FOLDERS / name).exists()]


@pytest.mark.slow
def test_nothing_of_a_prediction_is_left(trusting, inputs, long):
    """After success, failure and cancellation, in Cog's folder and ours."""

    def left():
        ours = [path for path in trusting.folder.rglob("*") if path.is_file() or path.name.startswith("personalive-i")]
        return ours + folders_of(trusting)

    assert trusting.post(inputs | {"max_frames": 2}).json()["status"] == "succeeded"
    assert left() == []
    assert trusting.post(inputs | {"ref_image": "nonsense"}).json()["status"] == "failed"
    assert left() == []
    with receiver() as web:
        trusting.put("left", long, webhook=f"{web.url}/webhook")
        web.wait_until_busy()
        trusting.cancel("left")
        wait_for(lambda: "canceled" in web.statuses())
    wait_for(lambda: trusting.status() == "READY")
    assert left() == []


@pytest.mark.slow
def test_sigterm_while_busy_tells_the_webhook_and_leaves_nothing(trusting, long):
    processes = trusting.processes()
    with receiver() as web:
        assert trusting.put("last", long, webhook=f"{web.url}/webhook").status_code == 202
        web.wait_until_busy()
        trusting.process.send_signal(signal.SIGTERM)
        wait_for(lambda: "canceled" in web.statuses(), 30)
        assert trusting.process.wait(WAIT) == 0
    wait_for(lambda: not alive(processes))
    assert [path for path in trusting.folder.rglob("*") if path.is_file()] == []
    assert folders_of(trusting) == []
