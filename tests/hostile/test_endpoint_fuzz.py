"""The described interface under random requests, with every check that schemathesis has."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.endpoint_support import endpoint, receiver

HOOKS = "tests.hostile.schemathesis_hooks"
PHASES = "examples,coverage,fuzzing,stateful"


@pytest.fixture(scope="module")
def server(small_model_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz") / "temporary"
    with endpoint(small_model_folder, folder, PERSONALIVE_ALLOW_PRIVATE_URLS="1") as running:
        running.wait_until_loaded()
        yield running


def fuzz(server, examples, phases, folder):
    """Send what the description allows and what it forbids, alone and in sequences."""
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{server.url}/openapi.json"]
    command += ["--mode", "all", "--checks", "all", "--phases", phases, "--max-examples", str(examples)]
    command += ["--continue-on-failure", "--generation-deterministic", "--no-color", "--request-timeout", "60"]
    with receiver() as web:
        environment = os.environ | {"SCHEMATHESIS_HOOKS": HOOKS, "FUZZ_WEBHOOK": f"{web.url}/webhook"}
        environment["PYTHONPATH"] = str(Path(__file__).parents[2])
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert server.status() == "READY"


def test_random_requests_are_answered_as_described(server, tmp_path):
    fuzz(server, 3, "fuzzing,stateful", tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_many_random_requests_are_answered_as_described(server, tmp_path):
    fuzz(server, 100, PHASES, tmp_path)
