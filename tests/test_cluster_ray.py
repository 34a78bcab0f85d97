"""Joining a cluster, with a real Ray of this machine alone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("ray", reason='needs pip install "personalive[scale]", 750 MB')
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[1]
JOIN = """
import json, os, sys
from personalive.cluster import Cluster
from personalive.errors import InputError
from personalive.loading import ModelChoice
address, device = sys.argv[1:]
try:
    Cluster.join(address, ModelChoice(device=device), 1)
except InputError as error:
    sys.exit(str(error))
import ray, ray._common.usage.usage_lib as usage
(node,) = ray.nodes()
found = {"address": node["NodeManagerAddress"], "reports": usage.usage_stats_enabled()}
print(json.dumps({**found, "auth": os.environ["RAY_AUTH_MODE"]}))
"""


def join(home: Path, address: str, device: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Join in a process of its own, as Ray reads some variables when it is first imported."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return subprocess.run(
        [sys.executable, "-c", JOIN, address, device],
        env=kept | {"PYTHONPATH": str(ROOT), "HOME": str(home), "CUDA_VISIBLE_DEVICES": "", **environment},
        capture_output=True,
        text=True,
    )


def test_local_is_for_this_machine_alone(tmp_path):
    joined = join(tmp_path, "local", "cpu")
    assert joined.returncode == 0, joined.stderr
    assert json.loads(joined.stdout.splitlines()[-1]) == {"address": "127.0.0.1", "reports": False, "auth": "token"}


@pytest.mark.parametrize(
    ("address", "device", "environment", "message"),
    [
        ("local", "cuda", {}, "the cluster has no GPU; give --device cpu, or add a node"),
        ("127.0.0.1:1", "cpu", {"RAY_AUTH_MODE": "token"}, "that cluster cannot be joined (Token authentication"),
    ],
)
def test_why_a_cluster_cannot_be_joined_is_said(tmp_path, address, device, environment, message):
    refused = join(tmp_path, address, device, **environment)
    assert refused.returncode == 1 and message in refused.stderr.splitlines()[-1], refused.stderr
