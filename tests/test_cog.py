"""The real Cog server over HTTP on loopback, as a client meets it."""

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import av
import httpx
import pytest

from personalive.testing.pictures import faceless, moving_face, run_ffmpeg, save_image, save_video

ROOT = Path(__file__).parents[1]
WAIT = 500
"""Seconds after which something hangs, and does not merely take its time."""


@contextmanager
def cog_server(model, folder, *arguments, **settings):
    """The server in its own process group, with `folder` for temporary files: its address and its process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder.mkdir(exist_ok=True)
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # its worker is plain `python`
        "COG_PREDICT_TYPE_STUB": "predict.py:Predictor",
        "PORT": str(port),
        "PERSONALIVE_MODEL": str(model),
        "TMPDIR": str(folder),
        "OMP_NUM_THREADS": "1",
        **settings,
    }
    command = [sys.executable, "-m", "cog.server.http", "--host", "127.0.0.1", *arguments]
    with (folder.parent / f"{folder.name}.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        yield f"http://127.0.0.1:{port}", process
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(WAIT)


def status(address):
    try:
        return httpx.get(f"{address}/health-check", timeout=WAIT).json()["status"]
    except httpx.TransportError:
        return "DOWN"


def wait_for(condition):
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def temporary(tmp_path_factory):
    return tmp_path_factory.mktemp("cog") / "temporary"


@pytest.fixture(scope="module")
def server(small_model_folder, temporary):
    with cog_server(small_model_folder, temporary) as (address, _):
        wait_for(lambda: status(address) not in ("DOWN", "STARTING"))
        yield address


def data_url(path, kind):
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


@pytest.fixture(scope="module")
def inputs(portrait, tmp_path_factory):
    driver = save_video(tmp_path_factory.mktemp("short") / "short.mp4", moving_face(5), sound=True)
    return {"ref_image": data_url(portrait, "image/png"), "driving_video": data_url(driver, "video/mp4")}


@pytest.fixture(scope="module")
def long_inputs(inputs, tmp_path_factory):
    """A minute of driving video: enough to do something in the middle."""
    folder = tmp_path_factory.mktemp("long")
    clip = save_video(folder / "clip.mp4", moving_face(50))
    run_ffmpeg("-stream_loop", "29", "-i", str(clip), "-c", "copy", str(folder / "long.mp4"))
    return inputs | {"driving_video": data_url(folder / "long.mp4", "video/mp4"), "max_frames": 0}


def predict(server, values, **fields):
    """Ask for a prediction. For a moment after it answered, the server may not have let go of the one before."""
    deadline = time.monotonic() + WAIT
    while True:
        answer = httpx.post(f"{server}/predictions", json={"input": values, **fields}, timeout=WAIT)
        if answer.status_code != 200 or "At capacity" not in answer.text or time.monotonic() > deadline:
            return answer
        time.sleep(0.1)


@contextmanager
def receiver(content=b""):
    """A web server on loopback that keeps every request: (method, path, body)."""
    requests = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self):
            requests.append((self.command, self.path, self.rfile.read(int(self.headers.get("Content-Length") or 0))))
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = answer  # noqa: N815

        def log_message(self, *_):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_address[1]}", requests
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


def events(requests):
    return [json.loads(body) for method, path, body in list(requests) if path == "/webhook"]


def content_of(url):
    head, _, content = url.partition(",")
    assert head == "data:video/mp4;base64"
    return base64.b64decode(content)


def frames_in(content, path):
    path.write_bytes(content)
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0)), bool(container.streams.audio)


def test_committed_schema_is_the_generated_one():
    done = subprocess.run(
        [sys.executable, "-m", "cog.command.openapi_schema"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    committed = (ROOT / ".cog" / "openapi_schema.json").read_text()
    assert json.loads(done.stdout) == json.loads(committed), (
        "run: python -m cog.command.openapi_schema >.cog/openapi_schema.json"
    )


def test_every_input_is_described_and_none_reaches_into_the_server():
    schemas = json.loads((ROOT / ".cog" / "openapi_schema.json").read_text())["components"]["schemas"]
    given = schemas["Input"]["properties"]
    assert all(value["description"] for value in given.values())
    assert schemas["Input"]["required"] == ["ref_image", "driving_video"]
    assert not {"output", "model", "device", "dtype", "attention", "overwrite"} & set(given)
    for name, value in given.items():
        if value.get("type") in ("integer", "number"):
            assert {"minimum", "maximum"} <= set(value), name


def test_ready(server):
    assert status(server) == "READY"
    assert httpx.get(f"{server}/openapi.json", timeout=WAIT).status_code == 200


def test_prediction_by_data_url(server, inputs, temporary, tmp_path):
    answer = predict(server, inputs).json()
    assert answer["status"] == "succeeded", answer
    assert frames_in(content_of(answer["output"]), tmp_path / "out.mp4") == (5, True)
    assert "seed: 42" in answer["logs"]
    assert "5 of 5 frames" in answer["logs"]
    assert not list(temporary.glob("personalive-inputs-*")), "the inputs were removed"


def test_every_option_arrives(server, inputs, tmp_path):
    options: dict[str, Any] = {
        "width": 320,
        "height": 256,
        "max_frames": 3,
        "steps": 8,
        "seed": 7,
        "fps": 50,
        "no_audio": True,
    }
    options |= {"crop": "none", "motion_strength": 0.5, "face_boxes": "keypoints", "side_by_side": True}
    answer = predict(server, inputs | options | {"keyframe_threshold": 2.5}).json()
    assert answer["status"] == "succeeded", answer
    path = tmp_path / "out.mp4"
    assert frames_in(content_of(answer["output"]), path) == (3, False)
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        assert (video.width, video.height, video.average_rate) == (960, 256, 50)
        assert "seed 7" in container.metadata["comment"]
    assert "3 of 10 frames used" in answer["logs"]


NO_PATHS: tuple[Any, ...] = (3, None, ["x"], {})
BEYOND = [
    *[("width", value) for value in (0, 192, 255, 257, 300, 1088, 10**12, "wide", 2.5)],
    *[("height", value) for value in (0, 192, 255, 257, 300, 1088, 10**12, "high", 2.5)],
    *[("max_frames", value) for value in (-1, 1_000_001, 10**30, 1.5, "all")],
    *[("steps", value) for value in (0, 1, 5, 99, -4, 4.5, "4 ")],
    *[("seed", value) for value in (-1, 2**32, 10**30, 0.5, "x")],
    *[("fps", value) for value in (0, 0.5, -25, 121, 1e300, "fast")],
    *[("motion_strength", value) for value in (-0.1, 2.1, 1e300, None, "much")],
    *[("keyframe_threshold", value) for value in (-1, 1001, "x")],
    *[("crop", value) for value in ("", "left", None, 1)],
    *[("face_boxes", value) for value in ("", "both", None, 1)],
    *[("no_audio", value) for value in ("perhaps", 2, None)],
    *[("side_by_side", value) for value in ("perhaps", 2, None)],
    *[("ref_image", value) for value in NO_PATHS],
    *[("driving_video", value) for value in NO_PATHS],
]


def test_values_beyond_the_bounds_are_422(server, inputs):
    for name, value in BEYOND:
        answer = predict(server, inputs | {name: value})
        assert answer.status_code == 422, (name, value, answer.text[:200])
        assert name in json.dumps(answer.json()["detail"])


def test_missing_inputs_and_broken_json_are_refused(server, inputs):
    for name in inputs:
        answer = predict(server, {key: value for key, value in inputs.items() if key != name})
        assert answer.status_code == 422 and name in answer.text
    for body in (b"{", b'{"input": {"seed": NaN}}', b"[]", b""):
        headers = {"Content-Type": "application/json"}
        assert httpx.post(f"{server}/predictions", content=body, headers=headers).status_code in (400, 422)
    assert status(server) == "READY"


@pytest.mark.parametrize("name", ["ref_image", "driving_video"])
@pytest.mark.parametrize(
    "value", ["/etc/passwd", "file:///etc/passwd", "predict.py", "ftp://127.0.0.1/x", "", "data:x"]
)
def test_strings_that_are_no_uploads_fail(server, inputs, name, value):
    answer = predict(server, inputs | {name: value}).json()
    assert answer["status"] == "failed"
    assert "is not a file" in answer["error"] or "data: URL" in answer["error"]
    assert "root:" not in answer["error"]


def test_addresses_inside_are_not_fetched(server, inputs):
    with receiver(b"secret") as (address, requests):
        port = address.rpartition(":")[2]
        for host in ("127.0.0.1", "localhost", "0.0.0.0", "[::1]", "[::ffff:127.0.0.1]", "2130706433", "10.0.0.1"):
            answer = predict(server, inputs | {"ref_image": f"http://{host}:{port}/picture.png"}).json()
            assert answer["status"] == "failed", host
            assert "not public" in answer["error"] or "cannot be fetched" in answer["error"]
        assert requests == []


def test_many_failures_in_a_row_leave_the_server_ready(server, inputs):
    for _ in range(20):
        assert predict(server, inputs | {"ref_image": "nonsense"}).json()["status"] == "failed"
    assert status(server) == "READY"


def test_failure_says_why(server, inputs, temporary, tmp_path):
    grey = save_image(tmp_path / "grey.png", faceless())
    answer = predict(server, inputs | {"ref_image": data_url(grey, "image/png")}).json()
    assert answer["status"] == "failed"
    assert "no face was found in the reference" in answer["error"]
    assert not [path for path in temporary.rglob("*.mp4") if path.stat().st_size], "no file is left"
    text = "data:text/plain;base64," + base64.b64encode(b"no picture").decode()
    answer = predict(server, inputs | {"driving_video": text}).json()
    assert answer["status"] == "failed" and "not a video" in answer["error"]


def start(server, values, name, webhook):
    answer = httpx.put(
        f"{server}/predictions/{name}",
        json={
            "input": values,
            "webhook": f"{webhook}/webhook",
            "webhook_events_filter": ["start", "logs", "completed"],
        },
        headers={"Prefer": "respond-async"},
        timeout=WAIT,
    )
    assert answer.status_code == 202, answer.text


def test_async_with_webhooks(server, inputs, tmp_path):
    with receiver() as (address, requests):
        start(server, inputs, "one", address)
        wait_for(lambda: any(event["status"] == "succeeded" for event in events(requests)))
        seen = events(requests)
    assert seen[0]["status"] in ("starting", "processing")
    assert all(event["id"] == "one" for event in seen)
    assert frames_in(content_of(seen[-1]["output"]), tmp_path / "out.mp4") == (5, True)


@dataclass(frozen=True)
class Uploading:
    """A server that uploads its results to another, which also has a portrait to download."""

    server: str
    process: subprocess.Popen[str]
    folder: Path
    web: str
    requests: list[tuple[str, str, bytes]]


@pytest.fixture(scope="module")
def uploading(small_model_folder, portrait, tmp_path_factory):
    """Two tests share it; the second ends it."""
    folder = tmp_path_factory.mktemp("uploading") / "temporary"
    with (
        receiver(portrait.read_bytes()) as (web, requests),
        cog_server(
            *(small_model_folder, folder, "--upload-url", f"{web}/results/"), PERSONALIVE_ALLOW_PRIVATE_URLS="1"
        ) as (server, process),
    ):
        wait_for(lambda: status(server) not in ("DOWN", "STARTING"))
        yield Uploading(server, process, folder, web, requests)


def test_output_is_uploaded_where_asked(uploading, inputs, tmp_path):
    """And files come from the web, here from loopback, which this server's operator allows."""
    answer = predict(uploading.server, inputs | {"ref_image": f"{uploading.web}/portrait.png"}).json()
    assert answer["status"] == "succeeded", answer
    assert ("GET", "/portrait.png", b"") in uploading.requests
    (upload,) = [(path, body) for method, path, body in uploading.requests if method in ("PUT", "POST")]
    assert upload[0].startswith("/results/")
    assert frames_in(upload[1], tmp_path / "out.mp4") == (5, True)


def test_second_prediction_while_busy_is_409_and_cancel_stops_the_first(server, inputs, long_inputs, temporary):
    with receiver() as (address, requests):
        start(server, long_inputs, "long", address)
        wait_for(lambda: any("animating: 8 of" in event.get("logs", "") for event in events(requests)))
        assert status(server) == "BUSY"
        assert predict(server, inputs).status_code == 409
        assert list(temporary.rglob("*.part-*")), "it is in the middle of a file"
        assert httpx.post(f"{server}/predictions/long/cancel", timeout=WAIT).status_code == 200
        wait_for(lambda: events(requests) and events(requests)[-1]["status"] == "canceled")
        wait_for(lambda: status(server) == "READY")
    assert not list(temporary.rglob("*.part-*"))
    assert not list(temporary.glob("personalive-inputs-*"))
    assert predict(server, inputs).json()["status"] == "succeeded"


def test_sigterm_while_busy_stops_everything(uploading, long_inputs):
    process = uploading.process
    with receiver() as (address, requests):
        wait_for(lambda: status(uploading.server) == "READY")
        start(uploading.server, long_inputs, "long", address)
        wait_for(lambda: any("animating: 8 of" in event.get("logs", "") for event in events(requests)))
        process.send_signal(signal.SIGTERM)
        process.wait(WAIT)
        wait_for(lambda: not processes_of(process.pid))
    assert not list(uploading.folder.rglob("*.part-*"))


def processes_of(group):
    """Living processes that came from the server."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == group and fields[0] != "Z":
            found.append(entry.name)
    return found


def test_wrong_model_fails_in_setup_and_says_why(tmp_path):
    with cog_server(tmp_path / "nowhere", tmp_path / "temporary") as (server, _):
        wait_for(lambda: status(server) == "SETUP_FAILED")
        logs = httpx.get(f"{server}/health-check").json()["setup"]["logs"]
    assert "nowhere" in logs
