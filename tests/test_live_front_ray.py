"""Live servers on a real Ray cluster, of this machine alone, with GPUs that are only counted."""

import contextlib
import io
import json
import os
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest
import websockets.sync.client
from PIL import Image
from websockets.exceptions import ConnectionClosed

from personalive.cluster import Cluster
from personalive.errors import InputError
from personalive.live.front.identity import Identity
from personalive.live.front.on_ray import RayWorkplace
from personalive.live.options import ServeOptions
from personalive.loading import ModelChoice
from personalive.testing.echo_worker import EchoWorkers
from tests.front_support import front
from tests.live_support import BLUE, GREEN, WAIT, picture, shows, until

ray = pytest.importorskip("ray", reason='needs pip install "personalive[scale]", 750 MB')
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

ROOT = Path(__file__).parents[1]


class Watched(RayWorkplace):
    """Remembers what it has started."""

    def __init__(self, options):
        super().__init__(options, Cluster.join("local", ModelChoice(), 2), EchoWorkers())
        self.started = []

    def start(self, seat, name, call_seconds):
        self.started.append(super().start(seat, name, call_seconds))
        return self.started[-1]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    environment = {"env_vars": {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}}
    ray.init("local", num_gpus=2, num_cpus=2, log_to_driver=False, include_dashboard=False, runtime_env=environment)
    places = []

    def place(options):
        places.append(Watched(options))
        return places[-1]

    try:
        with front(tmp_path_factory.mktemp("front"), place=place, max_sessions=2) as running:
            running.place = places[0]
            yield running
    finally:
        ray.shutdown()


@contextlib.contextmanager
def driving(server, name, session=None):
    """A client over a WebSocket, known by a cookie."""
    address = server.url.replace("http", "ws") + "/api/v1/ws" + (f"?sessionId={session}" if session else "")
    cookie = {"Cookie": f"personalive_client={name}"}
    with websockets.sync.client.connect(address, additional_headers=cookie) as connection:
        yield Driver(connection)


class Driver:
    """What the client does."""

    def __init__(self, connection):
        self.connection = connection
        self.session = json.loads(connection.recv(timeout=WAIT))["sessionId"]
        self.messages = []

    def sees(self, colour):
        """Send a frame, and take what has come; whether that was the portrait of this colour."""
        with contextlib.suppress(ConnectionClosed):  # what came before that is still there to be read
            self.connection.send(struct.pack("<d", 0.0) + picture(GREEN, kind="JPEG"))
        found = False
        try:
            while True:
                message = self.connection.recv(timeout=0.02)
                if isinstance(message, str):
                    self.messages.append(json.loads(message))
                else:
                    found = shows(np.asarray(Image.open(io.BytesIO(message[8:])).convert("RGB")), colour)
        except TimeoutError:
            return found

    def heard(self, code):
        return any(each.get("code") == code for each in self.messages)


def parent(pid):
    """The process that started a process: the actor of a worker."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.parametrize("victim", ["worker", "actor"])
def test_a_session_streams_through_the_cluster_and_goes_on_elsewhere_when_its_process_is_killed(server, victim):
    server.until_loaded()
    with server.client(victim) as client:
        client.post("/api/v1/personalive/reference", content=picture(BLUE)).raise_for_status()
        with driving(server, victim) as driver:
            until(lambda: driver.sees(BLUE))
            (before,) = [each for each in server.workers() if each["sessions"]]
            os.kill(before["pid"] if victim == "worker" else parent(before["pid"]), signal.SIGKILL)
            with pytest.raises(ConnectionClosed) as closed:
                until(lambda: driver.sees(GREEN))
            assert closed.value.rcvd.code == 1012 and driver.heard("worker_ended")
        until(lambda: client.get(f"/api/v1/sessions/{driver.session}").status_code == 404)
        with driving(server, victim, driver.session) as again:
            assert again.session != driver.session
            until(lambda: again.sees(BLUE) and again.heard("moved"))
        until(lambda: not Path(f"/proc/{before['pid']}").exists())
        server.until_loaded()  # another one has taken its place
        assert before["pid"] not in [each["pid"] for each in server.workers()]
        client.delete(f"/api/v1/sessions/{again.session}").raise_for_status()
        until(lambda: server.busy() == [0, 0])


def test_nobody_but_the_front_can_call_a_worker(server):
    server.until_loaded()
    process = server.place.started[-1]
    where, certificate, own = process._address, process._address.certificate, server.place._own
    assert answer(where, own.calling(certificate)).startswith(b"HTTP/1.1 200")
    assert not answer(where, Identity.new().calling(certificate)), "a stranger's certificate"
    assert not answer(where, None), "no TLS"
    assert not answer(where, own.calling(Identity.new().certificate)), "and the front notices another worker's"


def answer(where, context):
    """What a worker answers to a request for its health."""
    with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
        connection = stack.enter_context(socket.create_connection((where.host, where.port), timeout=WAIT))
        if context is not None:
            connection = stack.enter_context(context.wrap_socket(connection))
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        return connection.recv(100)
    return b""


def test_a_drained_worker_gives_its_gpu_back(server):
    server.until_loaded()
    with server.client() as client:
        client.post("/admin/drain", json={"worker": 0}).raise_for_status()
        until(lambda: server.workers()[0]["state"] == "drained")
        until(lambda: ray.available_resources().get("GPU") == 1)
        client.request("DELETE", "/admin/drain", json={"worker": 0}).raise_for_status()
        server.until_loaded()


def test_the_command_runs_a_model_on_the_cluster_and_ends_when_that_is_drained(small_model_folder, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = f"serve --ray local --device cpu --model {small_model_folder} --face_boxes keypoints --port {port}"
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "personalive.cli.main", *command.split()],
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=log,
        )

    def loaded():
        assert process.poll() is None, (tmp_path / "log").read_text()
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{url}/health", timeout=WAIT).json()["pipeline"] == "loaded"

    try:
        until(loaded, 600)
        (worker,) = httpx.post(f"{url}/admin/drain", timeout=WAIT).json()
        assert worker["node"] and worker["pid"] != process.pid
        assert process.wait(WAIT) == 0
    finally:
        process.kill()
        process.wait()


def test_media_that_nobody_could_reach_are_refused(monkeypatch):
    cluster = Cluster(2, on_gpus=True)
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True}] * 2)
    with pytest.raises(InputError, match=r"media_host is 127\.0\.0\.1"):
        RayWorkplace(ServeOptions(), cluster, EchoWorkers())
    RayWorkplace(ServeOptions(media_host="0.0.0.0"), cluster, EchoWorkers())


@pytest.mark.parametrize(("address", "media_host"), [("local", "192.0.2.1"), ("auto", None)])
def test_on_this_machine_alone_media_use_the_address_that_was_chosen(address, media_host):
    """Ray knows this machine by its loopback address then, which nobody else could send media to."""
    options = ServeOptions(ray=address, media_host="192.0.2.1")
    assert RayWorkplace(options, Cluster(2, on_gpus=True), EchoWorkers())._options.media_host == media_host
