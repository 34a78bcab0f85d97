"""Clients that are broken, idle or hostile, against the HTTP service as its operators start it.

Each met a fault of Cog's server alone. `PERSONALIVE_TREE=CHECKOUT pytest tests/hostile/test_endpoint.py` runs them
against the service of another checkout.
"""

import json
import os
import re
import shutil
import signal
import socket
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from personalive.testing.cog_folder import make_cog_folder
from tests.endpoint_support import WAIT, alive, data_url, endpoint, long_inputs, receiver, short_inputs, wait_for

COG_FOLDERS = Path("/tmp/coglet/predictions")
"""Where Cog makes a folder for each prediction."""
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def inputs(portrait, tmp_path_factory):
    return short_inputs(portrait, tmp_path_factory.mktemp("short"))


@pytest.fixture(scope="module")
def long(portrait, tmp_path_factory):
    return long_inputs(portrait, tmp_path_factory.mktemp("long"))


@pytest.fixture(scope="module")
def server(small_model_folder, tmp_path_factory):
    """As strangers meet it."""
    shutil.rmtree("/tmp/hostile", ignore_errors=True)  # an older service, tried in vain, may have made it
    with endpoint(small_model_folder, tmp_path_factory.mktemp("server") / "temporary") as running:
        running.wait_until_loaded()
        yield running


@pytest.fixture(scope="module")
def trusting(small_model_folder, tmp_path_factory):
    """One that may call loopback, so that it can be told something from there. The last test ends it."""
    folder = tmp_path_factory.mktemp("trusting") / "temporary"
    with endpoint(small_model_folder, folder, PERSONALIVE_ALLOW_PRIVATE_URLS="1") as running:
        running.wait_until_loaded()
        yield running


def assert_works(server, inputs):
    """It answers the next client, who makes a mistake, as it should."""
    wait_for(lambda: server.status() == "READY", 20)
    answer = server.post(inputs | {"ref_image": "nonsense"})
    assert answer.status_code == 200 and answer.json()["status"] == "failed", answer.text[:300]


BAD_IDS = [
    *("/tmp/hostile/y", "../../hostile", "..", ".", "a/b", "a\\b", "", " ", "a b", "x" * 65, "x" * 3000, "a\n", "é"),
    *("a\x00b", "a%2Fb", "~root", "-x/../y", "${HOME}"),
]


@pytest.mark.parametrize("name", BAD_IDS)
def test_ids_that_are_paths_or_too_long_are_422_and_take_no_slot(server, inputs, name):
    assert server.post(inputs | {"ref_image": "nonsense"}, id=name).status_code == 422
    quoted = "".join(f"%{byte:02X}" for byte in name.encode())
    refused = (422,) if "\n" not in name else (404, 422)
    if quoted:
        assert server.put(quoted, inputs | {"ref_image": "nonsense"}, wait=True).status_code in refused
        assert server.cancel(quoted).status_code in refused
    assert not Path("/tmp/hostile").exists() and not (COG_FOLDERS / "../../hostile").exists()
    assert_works(server, inputs)


def test_ids_that_are_no_strings_are_422(server, inputs):
    for name in (3, 1.5, True, ["x"], {"x": "y"}):
        assert server.post(inputs, id=name).status_code == 422
    assert server.put("one", inputs, id="other").status_code == 422


PRIVATE = ["127.0.0.1", "localhost", "[::1]", "0.0.0.0", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]", "10.0.0.1"]
NO_WEB = [
    "file:///etc/passwd",
    "/etc/passwd",
    "ftp://example.org/x",
    "gopher://x",
    "http://",
    "http://u:p@1.1.1.1/",
    "",
]


@pytest.mark.parametrize("field", ["webhook", "output_file_prefix"])
def test_addresses_inside_are_not_called(server, inputs, field):
    with receiver() as web:
        port = web.url.rpartition(":")[2]
        for host in PRIVATE:
            answer = server.post(inputs | {"ref_image": "nonsense"}, **{field: f"http://{host}:{port}/webhook"})
            assert answer.status_code == 422, (host, answer.text)
            assert field in json.dumps(answer.json()["detail"])
        for url in NO_WEB:
            assert server.post(inputs | {"ref_image": "nonsense"}, **{field: url}).status_code == 422, url
        assert web.requests == []


def test_strictly_sequential_client_is_never_refused(server, inputs):
    for _ in range(60):
        answer = server.post(inputs | {"ref_image": "nonsense"})
        assert answer.status_code == 200, answer.text
        assert server.status() == "READY", "the slot is free when the answer is there"


def test_inputs_that_are_not_known_are_422_and_named(server, inputs):
    answer = server.post(inputs | {"device": "cuda:0", "stepz": 4, "__class__": 1})
    assert answer.status_code == 422
    assert [each["loc"][-1] for each in answer.json()["detail"]] == ["device", "stepz", "__class__"]
    answer = httpx.post(f"{server.url}/predictions", json={"input": inputs, "webhok": "http://x"}, timeout=WAIT)
    assert answer.status_code == 422 and "webhok" in answer.text


BROKEN_FILES = [
    ("ref_image", data_url(b"no picture", "image/png")),
    ("ref_image", data_url(b"\x89PNG\r\n\x1a\n" + bytes(100), "image/png")),
    ("ref_image", data_url(b"\xff\xd8\xff" + bytes(100), "image/jpeg")),
    ("driving_video", data_url(b"no video", "video/mp4")),
    ("driving_video", data_url(b"\0\0\0\x20ftypisom" + bytes(100), "video/mp4")),
    ("driving_video", "/etc/passwd"),
]


@pytest.mark.parametrize(("name", "value"), BROKEN_FILES)
def test_errors_say_nothing_of_the_server(server, inputs, name, value):
    error = server.post(inputs | {name: value}).json()["error"]
    assert error.count("Prediction failed") <= 1
    assert str(server.folder) not in error
    paths = [path for path in re.findall(r"(?<![\w:/])/[\w.-]+/[\w./-]+", error) if path != "/etc/passwd"]
    assert not paths, error
    assert not re.search(r"0x[0-9a-f]{6}", error), error


NO_REQUESTS = [
    *(b"", b"{", b"[]", b"null", b'"x"', b"{} {}", b'{"input": 3}', b'{"input": null}', b'{"input": []}'),
    *(b"[" * 100_000, b'{"input":' * 5000, b'{"input": {"seed": NaN}}', b'{"input": {"fps": 1e999}}'),
    *(b'{"input": {"fps": -Infinity}}', b'{"input": {"seed": 1' + b"0" * 10_000 + b"}}"),
    *(b'{"input": {"ref_image": "\\ud800"}}', b'{"input": {"ref_image": "\xff"}}', b'{"\\ud800": 1}'),
    *(b'{"input": {}, "webhook": 3}', b'{"input": {}, "webhook_events_filter": "start"}'),
    *(b'{"input": {}, "webhook_events_filter": ["begin"]}', b'{"input": {}, "context": {"a": 1}}'),
    *(b'{"input": {"\\u0000": 1}}', b'{"input": {"seed": {"a": [1]}}}', b"\xef\xbb\xbf{}", b"\x00"),
]


@pytest.mark.parametrize("body", NO_REQUESTS, ids=lambda body: repr(body[:40]))
def test_bodies_that_are_no_requests_are_refused_in_json(server, body):
    for method, path in (("POST", "/predictions"), ("PUT", "/predictions/one")):
        answer = httpx.request(method, server.url + path, content=body, headers=JSON, timeout=WAIT)
        assert answer.status_code in (400, 422), answer.text[:200]
        assert "detail" in answer.json()
    assert server.status() == "READY"


def test_other_kinds_of_bodies_are_refused(server):
    for kind in ("", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "a/b"):
        answer = httpx.post(f"{server.url}/predictions", content=b"{}", headers={"Content-Type": kind}, timeout=WAIT)
        assert answer.status_code == 415 and "detail" in answer.json()


def test_body_that_is_too_long_is_413(server):
    def endless():
        for _ in range(101):
            yield bytes(1 << 20)

    with suppress(httpx.WriteError):  # some of it may be left unsent
        assert httpx.post(f"{server.url}/predictions", content=endless(), headers=JSON, timeout=WAIT).status_code == 413
    assert server.status() == "READY"


def test_preferences_that_are_not_known_are_no_error(server, inputs):
    failing = {"input": inputs | {"ref_image": "nonsense"}}
    for value, status in (("", 200), ("nonsense;;,=", 200), ("wait=5", 200), ("wait=1, Respond-Async;x=y", 202)):
        answer = httpx.post(f"{server.url}/predictions", json=failing, headers={"Prefer": value}, timeout=WAIT)
        assert answer.status_code == status, value
        wait_for(lambda: server.status() == "READY")


def test_nobody_can_stop_the_server_over_the_network(server, inputs):
    assert httpx.post(f"{server.url}/shutdown", timeout=WAIT).status_code == 404
    assert_works(server, inputs)


def test_there_are_no_trainings(server, inputs):
    assert httpx.post(f"{server.url}/trainings", json={"input": inputs}, timeout=WAIT).status_code == 404


@contextmanager
def connections(server, count, content, address="127.0.0.1"):
    """So many connections from an address that have sent this and no more."""
    port = int(server.url.rpartition(":")[2])
    with ExitStack() as stack:
        for _ in range(count):
            each = socket.create_connection(("127.0.0.1", port), source_address=(address, 0))
            stack.callback(each.close)
            each.sendall(content)
        yield


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"GET /health-check HTTP/1.1\r\nHost: x\r\nX-",
        b"POST /predictions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 90000000\r\n\r\n{",
        b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 90000000\r\n\r\n{",
        b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 50,  # and the answers are not read
    ],
    ids=["nothing", "half a head", "half a body", "half a body for nobody", "deaf"],
)
def test_hundreds_of_idle_connections_lock_nobody_out(server, inputs, content):
    with (
        connections(server, 300, content),
        connections(server, 300, content, "127.0.0.2"),
    ):
        for address in ("127.0.0.1", "127.0.0.2", "127.0.0.3"):
            with httpx.Client(transport=httpx.HTTPTransport(local_address=address), timeout=WAIT) as client:
                assert client.get(f"{server.url}/health-check").json()["status"] == "READY"
        assert_works(server, inputs)


def test_head_that_is_too_long_is_refused(server):
    with suppress(httpx.TransportError):
        headers = {"X-Long": "x" * 200_000}
        assert httpx.get(f"{server.url}/health-check", headers=headers, timeout=WAIT).status_code in (400, 431)
    assert server.status() == "READY"


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
