"""Clients that are broken, idle or hostile, against the HTTP service as its operators start it.

Each met a fault of Cog's server alone. `PERSONALIVE_TREE=CHECKOUT pytest tests/hostile/test_endpoint.py` runs them
against the service of another checkout.
"""

import json
import re
import shutil
import socket
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from tests.endpoint_support import COG_FOLDERS, WAIT, assert_works, data_url, endpoint, receiver, wait_for

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def server(small_model_folder, tmp_path_factory):
    """As strangers meet it."""
    shutil.rmtree("/tmp/hostile", ignore_errors=True)  # an older service, tried in vain, may have made it
    with endpoint(small_model_folder, tmp_path_factory.mktemp("server") / "temporary") as running:
        running.wait_until_loaded()
        yield running


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
    for _ in range(20):  # one of forty was refused by Cog's server alone
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
        b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 20,  # and the answers are not read
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
