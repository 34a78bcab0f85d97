"""ONNX files and what OpenVINO made of them, in a cache that is damaged, full or somebody else's."""

import sys
from pathlib import Path

import pytest
import torch

from personalive import weights
from personalive.errors import MissingExtraError
from personalive.loading import ModelChoice
from personalive.onnx.networks import open_networks

CPU = torch.device("cpu")


@pytest.fixture
def broken_openvino(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An OpenVINO that cannot be imported, in the place of one that is installed."""
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "openvino.py").write_text("raise ImportError('libopenvino.so: cannot open')")
    monkeypatch.syspath_prepend(tmp_path / "lib")
    monkeypatch.setitem(sys.modules, "openvino", None)  # so that what was there comes back
    del sys.modules["openvino"]


@pytest.fixture
def unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelChoice:
    """The demo model as files are made with it, where OpenVINO seems to be installed."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr("personalive.loading.missing", lambda extra: [])
    choice = ModelChoice(model="demo", device="cpu").for_files()
    assert choice.runs_onnx
    return choice


@pytest.mark.usefixtures("broken_openvino")
def test_a_broken_openvino_that_nobody_asked_for_leaves_pytorch(
    unasked: ModelChoice, caplog: pytest.LogCaptureFixture
) -> None:
    assert unasked.load().networks.config.name == "demo"
    assert "the model runs in PyTorch, which is slower here: the installed openvino cannot be used" in caplog.text


@pytest.mark.usefixtures("broken_openvino")
def test_a_broken_openvino_is_named_to_those_who_asked_for_onnx() -> None:
    with pytest.raises(MissingExtraError, match=r"openvino cannot be used \(ImportError: libopenvino\.so"):
        open_networks(weights.resolve("demo"), None, CPU, torch.float32)
