"""The HTTP service for tests, as a process of its own, and what its clients need."""

import base64
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx

from personalive.testing.pictures import moving_face, run_ffmpeg, save_video

TREE = Path(os.environ.get("PERSONALIVE_TREE") or Path(__file__).parents[1])
"""The checkout whose service is tested. One from before there was a service in front of Cog's is started as it was."""
COG_FOLDERS = Path("/tmp/coglet/predictions")
"""Where Cog makes a folder for each prediction."""
WAIT = 120
"""Seconds within which a server that answers at all has answered, on a slow machine."""
BEYOND: list[tuple[str, Any]] = [
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
    *[("output_format", value) for value in ("", "avi", "png", None, 1)],
    *[("paste_back", value) for value in ("perhaps", 2, None)],
    *[("side_by_side", value) for value in ("perhaps", 2, None)],
    *[("ref_image", value) for value in (3, None, ["x"], {})],
    *[("driving_video", value) for value in (3, None, ["x"], {})],
]
"""Names and values that an interface refuses before any work."""


@dataclass
class Endpoint:
    """A running service."""

    url: str
    process: "subprocess.Popen[bytes]"
    folder: Path
    """What it has for temporary files."""
    log: Path

    def status(self) -> str:
        """What its health check says, or DOWN."""
        try:
            return str(httpx.get(f"{self.url}/health-check", timeout=WAIT).json()["status"])
        except httpx.TransportError:
            return "DOWN"

    def wait_until_loaded(self) -> None:
        """Wait until the model is loaded, or cannot be."""
        wait_for(lambda: self.status() not in ("DOWN", "STARTING") or self.process.poll() is not None)

    def post(self, values: Any, **fields: Any) -> httpx.Response:
        """Ask for a prediction and wait for it."""
        return httpx.post(f"{self.url}/predictions", json={"input": values, **fields}, timeout=WAIT)

    def put(self, name: str, values: Any, *, wait: bool = False, **fields: Any) -> httpx.Response:
        """Ask for a prediction with this id."""
        headers = {} if wait else {"Prefer": "respond-async"}
        body = {"input": values, **fields}
        return httpx.put(f"{self.url}/predictions/{name}", json=body, headers=headers, timeout=WAIT)

    def cancel(self, name: str) -> httpx.Response:
        """Cancel a prediction."""
        return httpx.post(f"{self.url}/predictions/{name}/cancel", timeout=WAIT)

    def processes(self) -> list[int]:
        """Living processes that the service started, itself among them."""
        return [pid for pid in _processes() if pid == self.process.pid or self.process.pid in _ancestors(pid)]


@contextmanager
def endpoint(
    model: Path | str,
    folder: Path,
    *arguments: str,
    root: Path | None = None,
    bare: bool = not (TREE / "personalive" / "gateway").exists(),
    **settings: str,
) -> Iterator[Endpoint]:
    """Run the service until the block ends.

    Args:
        model: for PERSONALIVE_MODEL.
        folder: for temporary files; a log is beside it.
        arguments: of the command.
        root: the folder to start it in, if it is to serve another predict.py.
        bare: only Cog's own server, as an image made by `cog build` runs it.
        settings: of the environment.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder.mkdir(exist_ok=True)
    log = folder.parent / f"{folder.name}.log"
    environment = os.environ | {
        "PERSONALIVE_MODEL": str(model),
        "PYTHONPATH": str(TREE),
        "TMPDIR": str(folder),
        "OMP_NUM_THREADS": "1",
        **settings,
    }
    command = [sys.executable, "-m", "personalive.cli.main", "cog", "--port", str(port), *arguments]
    if bare:
        command = [sys.executable, "-m", "cog.server.http", "--host", "127.0.0.1", *arguments]
        environment |= {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "COG_PREDICT_TYPE_STUB": "predict.py:Predictor",
            "PORT": str(port),
        }
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=root or TREE, env=environment, stdout=file, stderr=file, start_new_session=True
        )
    try:
        yield Endpoint(f"http://127.0.0.1:{port}", process, folder, log)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(WAIT)


def _processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").glob("[0-9]*") if _state(int(entry.name)) not in ("", "Z")]


def _stat(pid: int) -> list[str]:
    try:
        return Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ["", "0"]


def _state(pid: int) -> str:
    return _stat(pid)[0]


def _ancestors(pid: int) -> list[int]:
    found = []
    while pid > 1:
        pid = int(_stat(pid)[1])
        found.append(pid)
    return found


def wait_for(condition: Callable[[], Any], seconds: float = WAIT) -> None:
    """Until the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


@dataclass
class Receiver:
    """A web server on loopback that keeps every request: (method, path, body)."""

    url: str
    requests: list[tuple[str, str, bytes]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    """Of each request."""

    def events(self) -> list[dict[str, Any]]:
        """What came to /webhook."""
        return [json.loads(body) for _, path, body in list(self.requests) if path == "/webhook"]

    def statuses(self) -> list[str]:
        """The status in each event."""
        return [event["status"] for event in self.events()]

    def wait_until_busy(self) -> None:
        """Wait until an event says that the networks have work."""
        wait_for(lambda: any("animating" in event.get("logs", "") for event in self.events()))


@contextmanager
def receiver(content: bytes = b"", status: int = 200, location: str | None = None) -> Iterator[Receiver]:
    """Run a `Receiver` that answers every request like this."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            keeper.requests.append((self.command, self.path, body))
            keeper.headers.append(dict(self.headers))
            self.send_response(status)
            if location is not None:
                self.send_header("Location", location)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = answer  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    keeper = Receiver(f"http://127.0.0.1:{http.server_address[1]}")
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    try:
        yield keeper
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


def data_url(content: Path | bytes, kind: str) -> str:
    """A file as a data: URL."""
    data = content if isinstance(content, bytes) else content.read_bytes()
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def alive(pids: list[int]) -> list[int]:
    """Those that still run."""
    return [pid for pid in pids if _state(pid) not in ("", "Z")]


def short_inputs(portrait: Path, folder: Path) -> dict[str, Any]:
    """A portrait, and five frames with sound."""
    driver = save_video(folder / "short.mp4", moving_face(5), sound=True)
    return {"ref_image": data_url(portrait, "image/png"), "driving_video": data_url(driver, "video/mp4")}


def long_inputs(portrait: Path, folder: Path) -> dict[str, Any]:
    """A portrait, and a minute of driving video: enough to do something in the middle."""
    clip = save_video(folder / "clip.mp4", moving_face(50))
    run_ffmpeg("-stream_loop", "29", "-i", str(clip), "-c", "copy", str(folder / "long.mp4"))
    return {
        "ref_image": data_url(portrait, "image/png"),
        "driving_video": data_url(folder / "long.mp4", "video/mp4"),
        "max_frames": 0,
    }


def assert_works(server: Endpoint, inputs: dict[str, Any]) -> None:
    """It answers the next client, who makes a mistake, as it should."""
    wait_for(lambda: server.status() == "READY", 20)
    answer = server.post(inputs | {"ref_image": "nonsense"})
    assert answer.status_code == 200 and answer.json()["status"] == "failed", answer.text[:300]
