"""What the package does if the packages of an extra are not installed."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from personalive.animate.job import animate
from personalive.errors import MissingExtraError
from personalive.extras import MODULES, importing, missing, require
from personalive.media.faces import FaceTracker
from personalive.pipeline import PersonaLive
from personalive.settings import AnimateOptions

EXTRAS = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]["optional-dependencies"]
WITHOUT_AIORTC = "import sys; sys.modules['aiortc'] = None; "


APART = {"camera", "onnx", "openvino", "scale"}
"""Extras that are not installed with the others: one is under another licence, the others are large."""


@pytest.mark.parametrize("extra", MODULES)
def test_every_module_is_installed_by_its_extra(extra: str) -> None:
    packages = {canonicalize_name(Requirement(text).name).removesuffix("-python") for text in EXTRAS[extra]}
    assert {canonicalize_name(module) for module in MODULES[extra]} <= packages
    if extra not in APART:
        assert missing(extra) == []
        require(extra)


def test_an_empty_folder_is_no_installed_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "leftover").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(MODULES, "more", ("leftover",))
    assert missing("more") == ["leftover"]


def test_a_broken_package_is_named_with_what_it_raises(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "half.py").write_text("raise RuntimeError('no plugin')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(MODULES, "more", ("half",))
    said = r"installed half cannot be used \(RuntimeError: no plugin\): install"
    with pytest.raises(MissingExtraError, match=said), importing("more"):
        __import__("half")


def test_all_holds_every_other_extra_but_those_apart() -> None:
    (everything,) = (Requirement(text) for text in EXTRAS["all"])
    assert everything.extras == EXTRAS.keys() - {"all"} - APART


def test_the_core_imports_no_package_of_an_extra() -> None:
    """In a fresh process. httpx and what it needs come with the hub's client, which downloads weights."""
    core = "accel.accelerator, animate.job, cli.main, engine.stream, loading, pipeline, weights"
    imports = "; ".join(f"import personalive.{name}" for name in core.split(", "))
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {imports}; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    of_extras = {module for modules in MODULES.values() for module in modules} - {"httpx"}
    assert not of_extras & set(done.stdout.split())


def test_the_transports_name_their_extra() -> None:
    code = f"{WITHOUT_AIORTC}import personalive.live.transport.webrtc"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert 'MissingExtraError: not installed: aiortc. Install the extra: pip install "personalive[live]"' in done.stderr


def test_the_command_names_the_extra_in_one_line() -> None:
    code = f"{WITHOUT_AIORTC}from personalive.cli.main import main; sys.exit(main(['serve']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == 'ERROR: not installed: aiortc. Install the extra: pip install "personalive[live]"\n'


def test_faces_name_their_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    with pytest.raises(MissingExtraError, match=r'pip install "personalive\[faces\]"'):
        FaceTracker()


def test_without_faces_keypoints_are_taken_and_it_is_said(
    monkeypatch: pytest.MonkeyPatch, small_model: PersonaLive, portrait: Path, driver: Path, tmp_path: Path
) -> None:
    asked = AnimateOptions(max_frames=4)
    explicit = AnimateOptions(max_frames=4, face_boxes="keypoints", crop="center")
    expected = list(animate(small_model, portrait, driver, tmp_path / "expected.mp4", explicit))
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    steps = list(animate(small_model, portrait, driver, tmp_path / "result.mp4", asked))
    assert [step.message for step in steps if "personalive[faces]" in step.message] == [steps[1].message]
    assert steps[1].message.endswith(expected[1].message)
    assert (tmp_path / "result.mp4").read_bytes() == (tmp_path / "expected.mp4").read_bytes()
