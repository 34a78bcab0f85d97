"""`serve-jobs` on a real Ray Serve: jobs that take no model, and the small model once, on processes of this machine."""

import base64
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import httpx
import pytest
import yaml

from personalive.jobs.application import application, build
from personalive.jobs.cluster import Processes, Scale
from personalive.jobs.options import JobsOptions
from personalive.jobs.queue import LostError
from personalive.jobs.work import Began
from personalive.testing.quick_requests import QuickRequests
from tests.endpoint_support import WAIT, Endpoint, receiver, short_inputs, wait_for

ray = pytest.importorskip("ray", reason='needs pip install "personalive[scale]", 750 MB')
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[1]
START = 600
"""Seconds in which Ray and its processes have started, on a slow machine."""


@contextmanager
def service(folder: Path, *command: str, **environment: str) -> Iterator[Endpoint]:
    """Run one until the block ends."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder / "service.log"
    more = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PERSONALIVE_ALLOW_PRIVATE_URLS": "1", **environment}
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", *command, "--port", str(port)], env=os.environ | more, stdout=file, stderr=file
        )
    running = Endpoint(f"http://127.0.0.1:{port}", process, folder, log)
    try:
        wait_for(lambda: running.status() == "READY" or process.poll() is not None, START)
        assert process.poll() is None, log.read_text()
        yield running
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(2)
        process.terminate()  # now it cancels what is left; at once, the two signals may be one
        process.wait(WAIT)


@contextmanager
def quick(folder: Path, *options: str) -> Iterator[Endpoint]:
    """One whose jobs do what they are told."""
    (folder / "marks").mkdir()
    with service(folder, "personalive.testing.quick_requests", "--marks", str(folder / "marks"), *options) as running:
        yield running


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    with quick(tmp_path_factory.mktemp("two"), "--replicas", "2", "--queue", "6") as running:
        yield running


def inputs(wish, seed=0):
    return {"ref_image": f"data:text/plain,{wish}", "driving_video": "data:,x", "seed": seed}


def state(server, name):
    return httpx.get(f"{server.url}/predictions/{name}", timeout=WAIT).json()


def until(server, name, *statuses, seconds=WAIT):
    wait_for(lambda: state(server, name)["status"] in statuses, seconds)
    return state(server, name)


def command_of(pid):
    with suppress(OSError):
        return (Path("/proc") / str(pid) / "cmdline").read_text().replace("\0", " ")
    return ""


def marks(server, seed):
    return len(list((server.folder / "marks").glob(f"{seed}.*")))


def test_a_job_is_made_and_its_webhook_told(two):
    with receiver() as web:
        answer = two.post(inputs("ok", 1), webhook=f"{web.url}/webhook")
        wait_for(lambda: "succeeded" in web.statuses())
    assert answer.json()["output"] == "data:text/plain;base64," + base64.b64encode(b"result 1").decode()
    assert two.post(inputs("fails")).json()["error"] == "Prediction failed: no face was found"
    assert "/opt" not in two.post(inputs("breaks")).text


def test_both_processes_work_others_wait_and_too_many_are_refused(two):
    names = [f"long{index}" for index in range(8)]
    answers = [two.put(name, inputs("ok:600", 10)) for name in names]
    assert {answer.status_code for answer in answers} == {202}
    until(two, "long1", "processing")
    refused = two.put("more", inputs("ok"))
    assert refused.status_code == 503 and refused.headers["retry-after"]
    assert state(two, "long7")["queue_position"] == 6
    for name in reversed(names):
        assert two.cancel(name).status_code == 200
    for name in names:
        assert until(two, name, "canceled", "succeeded", "failed")["status"] == "canceled"
    assert two.post(inputs("ok", 11)).json()["status"] == "succeeded", "their processes are free again"


def test_a_client_that_goes_away_cancels_its_job(two):
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{two.url}/predictions", json={"input": inputs("ok:600"), "id": "gone"}, timeout=3)
    assert until(two, "gone", "canceled", "succeeded", "failed")["status"] == "canceled"


def test_while_ray_serve_does_not_answer_the_service_is_defunct(two):
    (controller,) = (pid for pid in two.processes() if "ServeController" in command_of(pid))
    os.kill(controller, signal.SIGSTOP)
    try:
        wait_for(lambda: two.status() == "DEFUNCT", START)
        assert two.put("refused", inputs("ok")).status_code == 503
    finally:
        os.kill(controller, signal.SIGCONT)
    wait_for(lambda: two.status() == "READY", START)
    assert two.post(inputs("ok", 12)).json()["status"] == "succeeded"


def test_when_ray_has_died_the_service_says_so_and_can_be_ended(tmp_path):
    with quick(tmp_path, "--replicas", "1") as server:
        server.put("long", inputs("ok:600"))
        until(server, "long", "processing")
        (raylet,) = (pid for pid in server.processes() if command_of(pid).partition(" ")[0].endswith("/raylet"))
        os.kill(raylet, signal.SIGKILL)
        wait_for(lambda: server.status() == "DEFUNCT", START)
        server.process.send_signal(signal.SIGTERM)
        wait_for(lambda: httpx.get(f"{server.url}/health-check", timeout=WAIT).json()["draining"])
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(START) == 0


class Handle:
    """Stands in for Ray Serve's, with one process: raises an error where it is told to."""

    def __init__(self, **errors):
        self.errors, self.sent = errors, []

    def options(self, **_options):
        return self

    @asynccontextmanager
    async def choose_replica(self):
        if "choose" in self.errors:
            raise self.errors["choose"]
        yield "process"

    def dispatch(self, process, inputs):
        if "dispatch" in self.errors:
            raise self.errors["dispatch"]
        self.sent.append(inputs)
        return self


@pytest.mark.parametrize("where", ["choose", "dispatch"])
async def test_a_process_that_is_lost_before_it_has_the_job_is_told_as_lost(where):
    """So the queue has the job made again, by another one."""
    from ray.exceptions import ActorUnavailableError, RayActorError
    from ray.serve.exceptions import RayServeException

    processes = Processes(1)
    for error in (RayActorError(), ActorUnavailableError("away", None), RayServeException("no deployment")):
        handle = processes._handle = Handle(**{where: error})
        with pytest.raises(LostError):
            async for event in processes.run(inputs("ok")):
                assert isinstance(event, Began) and where == "dispatch"
        assert not handle.sent


def test_a_job_whose_process_died_is_made_again_once(two):
    two.put("once", inputs("dies once", 21))
    assert until(two, "once", "succeeded", "failed", seconds=START)["status"] == "succeeded"
    assert marks(two, 21) == 2
    two.put("always", inputs("dies", 22))
    ended = until(two, "always", "succeeded", "failed", seconds=START)
    assert ended["status"] == "failed" and "died 2 times" in ended["error"]
    assert marks(two, 22) == 2
    assert two.put("next", inputs("ok", 23)).status_code == 202
    assert until(two, "next", "succeeded", "failed", seconds=START)["status"] == "succeeded"


def test_nothing_but_the_interface_listens_beyond_this_machine_without_a_token(two):
    """Ray's processes listen on loopback; the one port of each that does not wants Ray's token."""
    environment = b"\n".join(
        (Path("/proc") / str(pid) / "environ").read_bytes() for pid in two.processes() if pid != two.process.pid
    )
    assert b"RAY_AUTH_MODE=token" in environment
    assert httpx.get(two.url.replace("127.0.0.1", "localhost"), timeout=WAIT).status_code == 200


def test_drained_it_finishes_what_it_has_and_ends(tmp_path):
    """One process at first, and a second when there is work for it."""
    with receiver() as web, quick(tmp_path, "--replicas", "2", "--min_replicas", "1") as server:
        for index in range(6):
            server.put(f"job{index}", inputs("ok:10", index), webhook=f"{web.url}/webhook")
        wait_for(lambda: httpx.get(f"{server.url}/health-check", timeout=WAIT).json()["replicas"] == 2, START)
        server.process.send_signal(signal.SIGTERM)
        wait_for(lambda: httpx.get(f"{server.url}/health-check", timeout=WAIT).json()["draining"])
        assert server.put("late", inputs("ok")).status_code == 503
        assert server.process.wait(START) == 0
    ended = {event["id"]: event["status"] for event in web.events()}
    assert ended == dict.fromkeys((f"job{index}" for index in range(6)), "succeeded")


def test_a_model_makes_the_same_as_the_container(small_model_folder, portrait, tmp_path):
    with service(
        tmp_path, "personalive.cli.main", "serve-jobs", "--model", str(small_model_folder), "--device", "cpu"
    ) as server:
        wanted = {**short_inputs(portrait, tmp_path), "max_frames": 3}
        answer = server.post(wanted).json()
        assert answer["status"] == "succeeded", answer
        assert base64.b64decode(answer["output"].partition(",")[2])[4:8] == b"ftyp"
        assert "done: 3 frames" in answer["logs"]
        assert "seed: 42" in answer["logs"]
        refused = server.post({**wanted, "ref_image": "http://[::1]:1/x.png"}).json()
        assert refused["status"] == "failed", json.dumps(refused)[:300]


def test_without_weights_it_says_so_and_ends(tmp_path):
    (tmp_path / "marks").mkdir()
    (tmp_path / "marks" / "refuse").touch()
    done = subprocess.run(
        [sys.executable, "-m", "personalive.testing.quick_requests", "--marks", str(tmp_path / "marks"), "--port", "0"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=START,
    )
    assert done.returncode != 0 and "there are no weights here" in done.stderr


@contextmanager
def as_application(folder: Path, scale: Scale, queue: int) -> Iterator[Endpoint]:
    """What KubeRay runs, in which the front is a process of the cluster too."""
    from ray import serve

    (folder / "marks").mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {"PERSONALIVE_ALLOW_PRIVATE_URLS": "1", "PYTHONPATH": str(ROOT)}
    ray.init(
        "local",
        num_cpus=3,
        num_gpus=scale.most if scale.on_gpus else 0,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": environment},
    )
    try:
        serve.start(proxy_location="Disabled")
        app = application(JobsOptions(port=port, queue=queue), scale, QuickRequests(folder / "marks"))
        serve.run(app, name="personalive", route_prefix=None)
        server = Endpoint(f"http://127.0.0.1:{port}", None, folder, folder / "log")
        wait_for(lambda: server.status() == "READY", START)
        yield server
    finally:
        serve.shutdown()
        ray.shutdown()


def test_as_an_application_it_finishes_its_jobs_before_it_is_removed(tmp_path):
    from ray import serve

    with as_application(tmp_path, Scale(1, 1, on_gpus=False), queue=5) as server:
        assert server.post(inputs("ok", 5)).json()["status"] == "succeeded"
        with receiver() as web:
            server.put("last", inputs("ok:5"), webhook=f"{web.url}/webhook")
            until(server, "last", "processing")
            serve.delete("personalive")
            assert web.statuses()[-1] == "succeeded"
        assert server.status() == "DOWN"


def test_a_burst_starts_a_second_process_which_ends_when_there_is_work_for_one_only(tmp_path):
    def processes(server):
        return httpx.get(f"{server.url}/health-check", timeout=WAIT).json()["replicas"]

    with as_application(tmp_path, Scale(1, 2, on_gpus=True, idle_seconds=5.0), queue=20) as server:
        wait_for(lambda: processes(server) == 1)
        burst = [f"job{index}" for index in range(12)]
        for seed, name in enumerate(burst):
            assert server.put(name, inputs("ok:8", seed)).status_code == 202
        wait_for(lambda: processes(server) == 2, START)
        server.put("long", inputs("ok:60", 100))
        wait_for(lambda: processes(server) == 1, START)
        for name in (*burst, "long"):
            assert until(server, name, "succeeded", "failed", seconds=START)["status"] == "succeeded"
        assert [marks(server, seed) for seed in (*range(12), 100)] == [1] * 13, "each was made once"
        assert server.post(inputs("ok", 101)).json()["status"] == "succeeded"


def test_ray_serve_reads_the_configuration_for_kuberay():
    from ray import serve
    from ray.serve.schema import ServeDeploySchema

    manifests = yaml.safe_load_all((ROOT / "deploy" / "kuberay" / "rayservice.yaml").read_text())
    (configuration,) = (each["spec"]["serveConfigV2"] for each in manifests if each["kind"] == "RayService")
    (read,) = ServeDeploySchema.model_validate(yaml.safe_load(configuration)).applications
    assert isinstance(build(read.args), serve.Application)
