"""`personalive benchmark` measures what files are made with on this machine, and names it."""

import json

import pytest

from personalive.benchmark import run as benchmark
from personalive.cli import main as cli
from personalive.loading import ModelChoice
from personalive.pipeline import PersonaLive


@pytest.fixture
def quick(monkeypatch, tmp_path, small_model_folder):
    """As few calls as there can be, with the small model in the place of the demo's."""
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr(benchmark, "CALLS_CPU", 1)
    monkeypatch.setattr(benchmark, "JOB_FRAMES_CPU", 20)

    def load(choice):
        return PersonaLive.from_pretrained(
            small_model_folder, device=choice.device, accelerate=choice.accelerate or "graphs"
        )

    monkeypatch.setattr(ModelChoice, "load", load)


@pytest.mark.parametrize(
    ("without", "expected"),
    [
        ([], {"call, default": "ONNX Runtime", "call, --accelerate graphs": "PyTorch"}),
        (["openvino"], {"call, default": "PyTorch"}),
    ],
    ids=["openvino", "without"],
)
def test_it_measures_what_makes_files_here_and_names_it(quick, monkeypatch, tmp_path, capsys, without, expected):
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr("personalive.loading.missing", lambda extra: without if extra in without else [])
    monkeypatch.setattr("personalive.onnx.networks.missing", lambda extra: [extra])  # ONNX Runtime stands in for it
    output = tmp_path / "figures.json"
    assert cli.main(["benchmark", "--device", "cpu", "-o", str(output)]) == 0
    figures = json.loads(output.read_text())
    assert {name: each["runs in"] for name, each in figures.items() if "runs in" in each} == expected
    assert figures["file to file, frames a second"]["frames"] == 20
    shown = capsys.readouterr().out
    assert all(f"runs in {runtime}" in shown for runtime in expected.values())
