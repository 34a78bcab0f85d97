"""What is in deploy/: checked by the programs that read it, as far as they are installed, and against what it names."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import pytest
import yaml
from prometheus_client import generate_latest
from prometheus_client.registry import CollectorRegistry

from personalive.cli.arguments import read_settings
from personalive.cli.main import build_parser, serve_options
from personalive.gateway.openapi import inputs_of, own_schema
from personalive.jobs.figures import QueueCollector
from personalive.jobs.options import JobsOptions
from personalive.jobs.queue import JobQueue
from personalive.live.front.metrics import front_registry
from personalive.live.http import metrics as live_metrics
from personalive.loading import ModelChoice
from personalive.net.waiting import WaitingRoom
from tests.live_support import live_server

DEPLOY = Path(__file__).parents[1] / "deploy"
COMPOSE, KUBERAY = DEPLOY / "compose", DEPLOY / "kuberay"
SETS = [
    ["one-gpu.yaml"],
    ["four-gpus.yaml"],
    ["one-gpu.yaml", "tls.yaml"],
    ["four-gpus.yaml", "tls.yaml", "turn.yaml", "monitoring.yaml"],
    ["four-gpus.yaml", "monitoring.yaml"],
]
"""Files that are used together."""
VARIABLES = {
    "DOMAIN": "live.example.org",
    "PERSONALIVE_TOKEN": "a-token",
    "TURN_PASSWORD": "a-password",
    "PUBLIC_ADDRESS": "203.0.113.10",
    "GRAFANA_PASSWORD": "another",
}
METRIC = re.compile(r"\b(?:personalive|process)_[a-z_]+\b")


def run(program, *arguments, folder=COMPOSE, **environment):
    """Its output; the test is skipped where it is not installed."""
    if shutil.which(program) is None:
        pytest.skip(f"needs {program}")
    done = subprocess.run(
        [program, *arguments], cwd=folder, env=os.environ | environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def served():
    """The names of all samples that servers answer with."""
    makers = SimpleNamespace(status="READY", running=1, limit=1)
    with live_server() as server, server.client() as http, pytest.MonkeyPatch.context() as patch:
        cuda = SimpleNamespace(is_available=lambda: True, memory_reserved=lambda: 0)
        patch.setattr(live_metrics, "torch", SimpleNamespace(cuda=cuda))
        texts = [http.get("/metrics").text]
        texts.append(generate_latest(front_registry(SimpleNamespace(up=[], deaths=0), WaitingRoom())).decode())
        registry = CollectorRegistry()
        queue = server.call(JobQueue, makers, None, None, inputs_of(own_schema()), 1, None)
        registry.register(QueueCollector(queue, makers))
        texts.append(generate_latest(registry).decode())
    return {re.split(r"[{ ]", line)[0] for text in texts for line in text.splitlines() if not line.startswith("#")}


def expressions():
    board = json.loads((COMPOSE / "grafana" / "personalive.json").read_text())
    for panel in board["panels"]:
        for target in panel.get("targets", []):
            yield target["expr"]
    for group in yaml.safe_load((COMPOSE / "alerts.yml").read_text())["groups"]:
        for rule in group["rules"]:
            yield rule["expr"]


def test_every_figure_of_the_board_and_the_alerts_is_served(served):
    used = {name for expression in expressions() for name in METRIC.findall(expression)}
    assert len(used) > 20
    assert used <= served, used - served


def test_panels_of_the_board_do_not_cover_each_other():
    board = json.loads((COMPOSE / "grafana" / "personalive.json").read_text())
    taken = [
        (x, y)
        for place in (panel["gridPos"] for panel in board["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(taken) == len(set(taken)) and max(x for x, _ in taken) < 24
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


def test_prometheus_reads_its_files_and_alerts_come_when_they_should(tmp_path):
    for path in COMPOSE.glob("*.yml"):
        shutil.copy(path, tmp_path)
    (tmp_path / "token").write_text("a-token")
    run("promtool", "check", "config", "prometheus.yml", folder=tmp_path)
    run("promtool", "test", "rules", "alerts_test.yml", folder=tmp_path)


def test_caddy_reads_its_file():
    run("caddy", "validate", "--adapter", "caddyfile", "--config", "Caddyfile", **VARIABLES)
    assert json.loads(run("caddy", "adapt", "--adapter", "caddyfile", "--config", "Caddyfile", **VARIABLES))


@pytest.mark.parametrize("files", SETS, ids=lambda files: "+".join(Path(name).stem for name in files))
def test_compose_reads_its_files(files):
    options = [option for name in files for option in ("-f", name)]
    read = yaml.safe_load(run("docker-compose", *options, "config", **VARIABLES))
    for service in read["services"].values():
        for volume in service.get("volumes", []):
            source = str(volume).partition(":")[0]
            if source.startswith(str(COMPOSE)) and not source.endswith(("/cache", "/token")):
                assert Path(source).exists(), f"{source} is mounted, but not there"


def commands():
    """By service: every command of the image, with the variables filled in."""
    for path in sorted(COMPOSE.glob("*.yaml")):
        for name, service in yaml.safe_load(path.read_text())["services"].items():
            command = service.get("command", [])
            if command[:1] == ["personalive"]:
                filled = [re.sub(r"\$\{(\w+)[^}]*\}", lambda match: VARIABLES[match[1]], each) for each in command]
                yield pytest.param(filled[1:], id=f"{path.stem}-{name}")


@pytest.mark.parametrize("command", [*commands()])
def test_commands_in_compose_files_are_ones_that_there_are(command):
    options = build_parser().parse_args(command)
    if options.verb == "serve":
        assert serve_options(options).media_host == "0.0.0.0"
    else:
        read_settings(options, JobsOptions)


def manifests():
    return list(yaml.safe_load_all((KUBERAY / "rayservice.yaml").read_text()))


def test_the_ray_service_has_the_documented_fields():
    (service,) = (each for each in manifests() if each["kind"] == "RayService")
    jsonschema.validate(service, json.loads((KUBERAY / "rayservice.schema.json").read_text()))
    cluster = service["spec"]["rayClusterConfig"]
    (application,) = yaml.safe_load(service["spec"]["serveConfigV2"])["applications"]
    arguments = application["args"]
    names = {each.name for each in JobsOptions.declared()}
    options = JobsOptions(**{name: value for name, value in arguments.items() if name in names})
    ModelChoice(**{name: value for name, value in arguments.items() if name not in names})
    assert application["import_path"] == "personalive.jobs.application:build"
    (workers,) = cluster["workerGroupSpecs"]
    assert options.replicas == workers["maxReplicas"], "a GPU for each process"
    (head,) = cluster["headGroupSpec"]["template"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in head["ports"]}
    (front,) = (each for each in manifests() if each["kind"] == "Service")
    assert ports[front["spec"]["ports"][0]["targetPort"]] == options.port


def test_kubernetes_takes_the_other_objects_and_the_pods():
    validate = pytest.importorskip("kubernetes_validate")
    for each in manifests():
        if each["kind"] != "RayService":
            validate.validate(each, "1.32", strict=True)
            continue
        cluster = each["spec"]["rayClusterConfig"]
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": group["template"]["spec"]}
            validate.validate(pod, "1.32", strict=True)


def test_the_clusters_image_has_what_the_extra_says():
    text = (DEPLOY / "scale.Dockerfile").read_text()
    project = (DEPLOY.parent / "pyproject.toml").read_text()
    for requirement in re.findall(r'"((?:ray|pyarrow)[^"]*)"', text):
        assert f'"{requirement}"' in project
