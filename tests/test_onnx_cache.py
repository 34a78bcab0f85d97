"""ONNX files and what OpenVINO made of them, in a cache that is damaged, full or somebody else's."""

import errno
import json
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from personalive import weights
from personalive.errors import InputError, MissingExtraError, OutputError
from personalive.extras import missing
from personalive.loading import ModelChoice
from personalive.media.held_folder import HeldFolder
from personalive.onnx.compiled import DIGESTS, compile_kept
from personalive.onnx.export import export
from personalive.onnx.graphs import GraphMaker
from personalive.onnx.manifest import NAME
from personalive.onnx.networks import open_networks
from personalive.onnx.runtimes import OnnxRuntime, OpenVino

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


def compile_like_openvino(folder: Path | None) -> str:
    """What is in the cache it takes unseen; else it computes, and writes it there."""
    if folder is None:
        return "right"
    blob = folder / "1234.blob"
    if not blob.exists():
        blob.write_text("right")
    return blob.read_text()


def flip_a_bit(folder: Path) -> None:
    blob = folder / "1234.blob"
    first, *others = blob.read_bytes()
    blob.write_bytes(bytes([first ^ 1, *others]))


@pytest.mark.parametrize(
    "harm",
    [
        flip_a_bit,
        lambda folder: (folder / "1234.blob").write_text(""),
        lambda folder: (folder / "5678.blob").write_text("of a process that wrote past its digests"),
        lambda folder: (folder / DIGESTS).unlink(),
        lambda folder: (folder / DIGESTS).write_text("[" * 100_000),
        lambda folder: [path.unlink() for path in folder.iterdir()],
        lambda folder: folder.rename(folder.with_name("elsewhere")).joinpath("1234.blob").rename(folder),
    ],
    ids=["bit", "truncated", "unknown", "no digests", "odd digests", "empty", "a file in its place"],
)
def test_what_openvino_compiled_is_compiled_again_if_it_is_damaged(
    harm: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert compile_kept(compile_like_openvino, "a file", (1, 3)) == "right"
    (folder,) = (tmp_path / "personalive" / "openvino").iterdir()
    harm(folder)
    given: list[Path | None] = []

    def compile_and_note(place: Path | None) -> str:
        given.append(place)
        return compile_like_openvino(place)

    assert compile_kept(compile_and_note, "a file", (1, 3)) == "right"
    assert compile_kept(compile_and_note, "a file", (1, 3)) == "right"
    assert given[0] != folder == given[1], "it is kept again, and used then"
    assert sorted(path.name for path in folder.iterdir()) == ["1234.blob", DIGESTS]
    assert compile_kept(compile_and_note, "a file", (1, 4)) == "right" and given[2] != folder


def test_what_openvino_compiled_is_not_kept_where_there_is_no_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "file"))
    assert compile_kept(compile_like_openvino, "a file") == "right"


def test_the_process_that_is_slower_leaves_what_the_other_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))

    def compile_slowly(place: Path | None) -> str:
        assert compile_kept(compile_like_openvino, "a file") == "right"  # another process meanwhile
        return compile_like_openvino(place)

    assert compile_kept(compile_slowly, "a file") == "right"
    (folder,) = (tmp_path / "personalive" / "openvino").iterdir()
    assert compile_kept(lambda place: place, "a file") == folder


@pytest.mark.skipif(bool(missing("openvino")), reason="the extra [openvino] is not installed")
def test_a_changed_bit_in_openvinos_cache_changes_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    layer, x = torch.nn.Linear(64, 64, bias=False), torch.rand(1, 64)
    layer.weight.data = layer.weight.data + layer.weight.data.T  # found in the file, whether it is transposed or not
    torch.onnx.export(layer, (x,), tmp_path / "layer.onnx", input_names=["x"], dynamo=False)
    (expected,) = OpenVino(1).load(tmp_path / "layer.onnx")({"x": x})
    (blob,) = (tmp_path / "cache").rglob("*.blob")
    changed = np.frombuffer(blob.read_bytes(), np.uint8).copy()
    at = changed.tobytes().find(layer.weight.detach().numpy().tobytes())
    assert at > 0
    # The highest bits of the weights' exponents:
    changed[at + 3 : at + 64 * 64 * 4 : 4] ^= 64
    blob.write_bytes(changed.tobytes())
    (found,) = OpenVino(1).load(tmp_path / "layer.onnx")({"x": x})
    assert torch.equal(found, expected)


@pytest.fixture
def quick_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports write the smallest network alone, and that is taken for a whole model."""
    monkeypatch.setattr(GraphMaker, "graphs", GraphMaker.pose_guider)
    monkeypatch.setattr("personalive.onnx.networks.INPUTS", {"pose_guider": {"raster"}})
    monkeypatch.setattr("personalive.onnx.networks.best_runtime", lambda device, rounded: OnnxRuntime(device, 1))


@pytest.fixture
def cached(
    quick_export: None, small_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[weights.WeightsSource, Path]:
    """A model, and the folder of the cache with its files."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    source = weights.resolve(small_model_folder)
    open_networks(source, None, CPU, torch.float32)
    (folder,) = (tmp_path / "cache" / "personalive" / "onnx").iterdir()
    return source, folder


def put_a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("something else")


def put_a_link(folder: Path) -> None:
    """To files of the user's, which are damaged."""
    elsewhere = folder.rename(folder.parents[3] / "elsewhere")
    (elsewhere / "pose_guider.onnx").write_text("mine")
    folder.symlink_to(elsewhere)


def put_a_broken_link(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.symlink_to("nowhere")


def with_values(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Changes what `onnx.json` says."""

    def harm(folder: Path) -> None:
        values = json.loads((folder / NAME).read_text())
        change(values)
        (folder / NAME).write_text(json.dumps(values))

    return harm


ODD = {
    "nested": lambda folder: (folder / NAME).write_text("[" * 100_000),
    "another model": with_values(lambda values: values.update(weights="0000")),
    "another configuration": with_values(lambda values: values["model"].update(name="other")),
    "no configuration": with_values(lambda values: values.update(model={"unknown": 1})),
    "no records": with_values(lambda values: values.update(files=[])),
    "a fixed size": with_values(lambda values: values.update(size=[256, 256])),
    "half a size": with_values(lambda values: values.update(size=[256])),
    "another precision": with_values(lambda values: values.update(precision="fp16")),
    "digests in a list": with_values(lambda values: values["files"][0].update(sha256=["pose_guider.onnx"])),
    "an unknown input": with_values(lambda values: values["files"][0]["inputs"][0].update(name="picture")),
    "a name that is none": with_values(lambda values: values["files"][0]["inputs"][0].update(name=[])),
    "an unknown type": with_values(lambda values: values["files"][0]["inputs"][0].update(dtype="STRING")),
    "a fingerprint in words": with_values(lambda values: values.update(motion_fingerprint=["one"])),
    "an endless fingerprint": with_values(lambda values: values.update(motion_fingerprint=[10**400])),
}
"""What may have become of a folder of files, by name."""


@pytest.mark.parametrize(
    "harm",
    [*ODD.values(), put_a_file, put_a_link, put_a_broken_link],
    ids=[*ODD, "a file", "a link", "a broken link"],
)
def test_whatever_lies_in_the_caches_place_is_written_again_once(
    harm: Callable[[Path], object],
    cached: tuple[weights.WeightsSource, Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    source, folder = cached
    harm(folder)
    for _ in range(2):
        networks, _ = open_networks(source, None, CPU, torch.float32)
        assert networks.guide(torch.zeros(1, 21, 3), 256, 256).shape[0] == 1
    assert caplog.text.count(f"written again, as they were damaged or removed: {folder}") == 1
    assert not folder.is_symlink() and [path.name for path in folder.parent.iterdir()] == [folder.name]
    if harm is put_a_link:
        assert (tmp_path / "elsewhere" / "pose_guider.onnx").read_text() == "mine"


@pytest.mark.parametrize("harm", ODD.values(), ids=ODD)
def test_odd_files_of_the_users_are_refused_and_left_as_they_are(
    harm: Callable[[Path], object], cached: tuple[weights.WeightsSource, Path]
) -> None:
    source, folder = cached
    harm(folder)
    before = (folder / NAME).read_bytes()
    with pytest.raises(InputError, match=re.escape(str(folder))):
        open_networks(source, folder, CPU, torch.float32)
    assert (folder / NAME).read_bytes() == before


@pytest.fixture(params=["full", "a file in its place"])
def no_place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[None]:
    """A cache into which no model goes."""
    if request.param != "full":
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        (tmp_path / "cache").mkdir()
        (tmp_path / "cache" / "personalive").write_text("")
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))  # a write beyond it fails as one to a full disk does
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("quick_export", "no_place")
def test_a_cache_without_room_is_named_to_those_who_asked_for_onnx(
    small_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    with pytest.raises(OutputError, match=r"cannot be kept as ONNX files: .* let HF_HOME name another folder"):
        open_networks(weights.resolve(small_model_folder), None, CPU, torch.float32)
    assert list(tmp_path.rglob("*.onnx")) == []


def test_a_cache_without_room_leaves_pytorch_to_those_who_did_not_ask(
    unasked: ModelChoice, quick_export: None, no_place: None, caplog: pytest.LogCaptureFixture
) -> None:
    assert unasked.load().networks.config.name == "demo"
    assert "the model runs in PyTorch, which is slower here: the model cannot be kept as ONNX files" in caplog.text


def test_an_export_without_room_says_so(quick_export: None, small_model_folder: Path, tmp_path: Path) -> None:
    source = weights.resolve(small_model_folder)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(OutputError, match=r"files cannot be written \(File too large\): make room"):
            list(export(source, tmp_path / "files"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_export_left_is_removed_by_the_next(
    quick_export: None, small_model_folder: Path, tmp_path: Path
) -> None:
    code = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom personalive import weights\n"
        "from personalive.onnx import export as exporting\n"
        "exporting.GraphMaker.graphs = exporting.GraphMaker.pose_guider\n"
        "for _ in exporting.export(weights.resolve(Path(sys.argv[1])), Path(sys.argv[2])):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(small_model_folder), str(tmp_path / "files")])
    assert done.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert (left / "pose_guider.onnx").is_file()
    running = export(weights.resolve(small_model_folder), tmp_path / "others")
    next(running)
    assert not left.exists()
    list(export(weights.resolve(small_model_folder), tmp_path / "files"))
    list(running)  # a running one keeps its own
    assert {path.name for path in tmp_path.iterdir()} == {"files", "others"}


def test_a_folder_is_held_where_the_file_system_has_no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    with HeldFolder("held-", str(tmp_path)) as first, HeldFolder("held-", str(tmp_path)) as second:
        assert first.path.is_dir() and second.path.is_dir()
    assert list(tmp_path.iterdir()) == []
