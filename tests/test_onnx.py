"""Networks as ONNX files: what is written, what is refused, and the same pictures as without."""

import json
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from personalive import weights
from personalive.accel.ops import onednn
from personalive.errors import InputError, MissingExtraError, OutputError, PersonaLiveError, WeightsError
from personalive.extras import missing
from personalive.loading import ModelChoice
from personalive.media.content_digest import content_digest
from personalive.models import build_network
from personalive.onnx import export as exporting
from personalive.onnx.export import export, write_file
from personalive.onnx.graphs import Case, Graph, GraphMaker
from personalive.onnx.manifest import NAME, Manifest, Port, digest_of_weights
from personalive.onnx.networks import OnnxNetworks, open_networks
from personalive.onnx.runtimes import CUDA, OnnxRuntime, OpenVino, Runtime
from personalive.pipeline import PersonaLive
from personalive.testing import weight_rule
from personalive.testing.pictures import moving_face, photograph
from personalive.testing.small_model import SMALL

CPU = torch.device("cpu")
FILES = {
    "denoising_unet",
    "image_encoder",
    "motion_encoder",
    "motion_extractor",
    "pose_guider",
    "reference_unet",
    "vae_decoder",
    "vae_encoder",
}
WITHOUT_OPENVINO = pytest.mark.skipif(bool(missing("openvino")), reason="the extra [openvino] is not installed")
RUNTIMES = pytest.mark.parametrize(
    "make",
    [
        pytest.param(partial(OnnxRuntime, CPU, 1), id="onnxruntime"),
        pytest.param(partial(OpenVino, 1), id="openvino", marks=WITHOUT_OPENVINO),
    ],
)


def load(name: str) -> nn.Module:
    """A network of the small model."""
    network = build_network(name, SMALL)
    weight_rule.fill(network, name)
    return network.requires_grad_(False)


@pytest.fixture(scope="module")
def one_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the smallest network, of free size."""
    folder = tmp_path_factory.mktemp("one_file")
    with torch.no_grad():
        (graph,) = GraphMaker(SMALL, load, None).pose_guider()
        record = write_file(graph, folder, "fp32")
    Manifest(SMALL, "weights", (0.5, 0.25), "fp32", None, (record,)).write(folder)
    return folder


@RUNTIMES
def test_a_file_of_free_size_computes_what_the_network_does(one_file: Path, make: Callable[[], Runtime]) -> None:
    raster = torch.rand((2, 3, 320, 448), generator=torch.Generator().manual_seed(1))  # not a size of the export
    (found,) = make().load(one_file / "pose_guider.onnx")({"raster": raster})
    with torch.no_grad():
        expected = load("pose_guider")(raster)
    assert found.shape == expected.shape == (2, 16, 20, 28)
    assert (found - expected).norm() <= 1e-5 * expected.norm()


def test_a_manifest_says_what_a_file_takes_and_notices_damage(one_file: Path, tmp_path: Path) -> None:
    (record,) = Manifest.read(one_file).files
    assert record.inputs == (Port("raster", "FLOAT", ("frames", 3, "height", "width")),)
    assert record.outputs == (Port("pose", "FLOAT", ("frames", 16, "latent_height", "latent_width")),)
    assert record.error <= 1e-4
    for path in one_file.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "pose_guider.onnx").write_bytes(b"something else")
    with pytest.raises(WeightsError, match=r"pose_guider\.onnx is damaged"):
        Manifest.read(tmp_path)
    values = json.loads((one_file / NAME).read_text())
    (tmp_path / NAME).write_text(json.dumps({**values, "format": 99}))
    with pytest.raises(InputError, match="format 99"):
        Manifest.read(tmp_path)
    for name in ("../pose_guider.onnx", "another.onnx"):  # elsewhere; without a digest
        (tmp_path / NAME).write_text(json.dumps({**values, "files": [{**values["files"][0], "file": name}]}))
        with pytest.raises(InputError, match="no folder with a model in ONNX"):
            Manifest.read(tmp_path)
    (tmp_path / NAME).unlink()
    with pytest.raises(InputError, match="no folder with a model in ONNX"):
        Manifest.read(tmp_path)


def test_a_file_is_read_for_its_digest_again_only_if_it_has_changed(
    one_file: Path, small_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    files = shutil.copytree(one_file, tmp_path / "files")
    source = weights.resolve(small_model_folder)
    read: list[Path] = []

    def counted(path: Path) -> str:
        read.append(path)
        return content_digest(path)

    monkeypatch.setattr("personalive.weights.checksum_cache.digest_of", counted)
    digests = []
    for _ in range(2):
        digests.append((Manifest.read(files), digest_of_weights(source)))
    assert digests[0] == digests[1]
    weights_files = [file.path for network in source.files.values() for file in network]
    assert sorted(read) == sorted([files / "pose_guider.onnx", *weights_files])
    data = (files / "pose_guider.onnx").read_bytes()
    (files / "pose_guider.onnx").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))  # of the same size
    with pytest.raises(WeightsError, match=r"pose_guider\.onnx is damaged"):
        Manifest.read(files)


def test_files_that_do_not_fit_are_refused(one_file: Path, small_model_folder: Path) -> None:
    source = weights.resolve(small_model_folder)
    with pytest.raises(InputError, match="holds another model"):
        open_networks(source, one_file, CPU, torch.float32)
    with pytest.raises(InputError, match="in fp32 or fp16, not in torch"):
        open_networks(source, one_file, CPU, torch.bfloat16)
    with pytest.raises(InputError, match="leave out attention, quantize"):
        PersonaLive.from_pretrained(small_model_folder, device="cpu", accelerate="onnx", quantize="fp8")
    with pytest.raises(InputError, match="choose accelerate onnx"):
        PersonaLive.from_pretrained(small_model_folder, device="cpu", onnx=one_file)


def test_a_file_that_computes_something_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(exporting.MAX_ERROR, "fp32", 0.0)
    with torch.no_grad(), pytest.raises(PersonaLiveError, match=r"pose_guider\.onnx computes something else"):
        (graph,) = GraphMaker(SMALL, load, (256, 256)).pose_guider()
        write_file(graph, tmp_path, "fp32")


def test_a_file_whose_results_are_no_numbers_is_refused(tmp_path: Path) -> None:
    """Also where only the last result of the last example is none."""

    class Root(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x + 1, x.sqrt()

    one, less = torch.ones(1), -torch.ones(1)
    cases = Case({"x": one}, (2 * one, one)), Case({"x": less}, (0 * one, one))
    with torch.no_grad(), pytest.raises(PersonaLiveError, match="its relative error is nan, and at most"):
        write_file(Graph("root", "root", Root(), ("y", "z"), cases, {}), tmp_path, "fp32")


@pytest.fixture(scope="module")
def exported(small_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model with free sizes."""
    folder = tmp_path_factory.mktemp("onnx") / "files"
    list(export(weights.resolve(small_model_folder), folder))
    return folder


def frames_of(model: PersonaLive, width: int = 256, height: int = 256, **options: Any) -> np.ndarray:
    """Sixteen frames that are driven by a moving face."""
    stream = model.stream(seed=7, width=width, height=height, **options)
    prepare = stream.preprocessor
    stream.set_reference(prepare.reference(photograph(), face_box=None))
    pictures = np.stack(moving_face(16))
    pushed = [stream.push(prepare.driving(pictures[at : at + 4], face_boxes=None)) for at in range(0, 16, 4)]
    return np.concatenate([*pushed, stream.flush()])


@pytest.mark.slow
def test_a_folder_holds_every_network_and_says_what_they_take(exported: Path) -> None:
    manifest = Manifest.read(exported)
    assert {Path(record.file).stem for record in manifest.files} == FILES
    assert {path.name for path in exported.iterdir()} == {f"{name}.onnx" for name in FILES} | {NAME}
    assert all(record.error <= 1e-4 for record in manifest.files)
    (unet,) = (record for record in manifest.files if record.network == "denoising_unet")
    assert [(port.name, port.dtype) for port in unet.inputs[:4]] == [
        ("latents", "FLOAT"),
        ("timesteps", "INT64"),
        ("motion", "FLOAT"),
        ("pose", "FLOAT"),
    ]
    assert unet.inputs[0].shape[:2] == (16, 4) and all(isinstance(side, str) for side in unet.inputs[0].shape[2:])
    assert exported.stat().st_mode & 0o777 == 0o755


@pytest.mark.slow
@RUNTIMES
def test_the_pictures_are_those_of_the_plain_networks(
    exported: Path, small_model: PersonaLive, make: Callable[[], Runtime]
) -> None:
    # Every frame becomes a keyframe as soon as it may, and the picture is not square.
    options: dict[str, Any] = {"width": 320, "height": 256, "keyframe_threshold": 0.0}
    expected, networks = frames_of(small_model, **options), OnnxNetworks(exported, Manifest.read(exported), CPU, make())
    assert networks.encode_image(torch.zeros(2, 3, 256, 256)).shape == (2, 4, 16, 16)  # files take one image
    found = frames_of(PersonaLive(networks), **options)
    assert found.shape == expected.shape == (16, 256, 320, 3)
    difference = np.abs(found.astype(int) - expected)
    assert difference.mean() < 0.05 and difference.max() <= 3
    assert expected.std() > 5


@pytest.mark.slow
def test_half_precision_and_fixed_sizes_have_a_file_for_each_number_of_keyframes(
    small_model_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "files"
    list(export(weights.resolve(small_model_folder), folder, "fp16", (256, 320)))
    manifest = Manifest.read(folder)
    unets = [record for record in manifest.files if record.network == "denoising_unet"]
    assert [record.keyframes for record in unets] == [0, 1, 2, 3]
    assert all(isinstance(side, int) for record in manifest.files for port in record.inputs for side in port.shape)
    assert {port.dtype for record in unets for port in record.inputs} == {"FLOAT16", "INT64"}
    (extractor,) = (record for record in manifest.files if record.network == "motion_extractor")
    assert {port.dtype for port in extractor.inputs} == {"FLOAT"}
    with pytest.raises(InputError, match="fixed to 256 × 320"):
        open_networks(weights.resolve(small_model_folder), folder, CPU, torch.float16)


def test_what_can_be_refused_early_is(small_model_folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    source = weights.resolve(small_model_folder)
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        next(export(source, tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(OutputError, match="there is no folder"):
        next(export(source, tmp_path / "a" / "b"))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"personalive\[onnx\]"):
        next(export(source, tmp_path / "files"))
    with pytest.raises(MissingExtraError, match=r"personalive\[onnx\]"):
        OnnxRuntime(CPU, 1)
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtraError, match=r"personalive\[openvino\]"):
        OpenVino(1)


def test_a_gpu_that_the_runtime_cannot_use_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(InputError, match="install onnxruntime-gpu"):
        OnnxRuntime(torch.device("cuda", 0), 1)


def test_a_gpu_whose_libraries_are_missing_is_refused(one_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime would warn and take the processor, as it does here."""
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: [CUDA, "CPUExecutionProvider"])
    runtime = OnnxRuntime(torch.device("cuda", 0), 1)
    with pytest.raises(InputError, match="cannot load CUDA's libraries"):
        runtime.load(one_file / "pose_guider.onnx")


@pytest.mark.slow
def test_weights_of_more_than_two_gibibytes_lie_in_one_file_beside_it(tmp_path: Path) -> None:
    """As those of both published UNets do. Takes 9 GB of memory."""

    class TwoLayers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(8192, 66_000, bias=False), nn.Linear(66_000, 4)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
            return (self.last(self.first(x)),)

    with torch.no_grad():
        module, x = TwoLayers(), torch.rand(1, 8192)
        graph = Graph("large", "large", module, ("y",), (Case({"x": x}, module(x)),), {})
        record = write_file(graph, tmp_path, "fp32")
    assert record.bytes > 2**31
    assert set(record.sha256) == {each.name for each in tmp_path.iterdir()} == {"large.onnx", "large.onnx.data"}
    assert record.error <= 1e-5


@pytest.mark.slow
def test_a_model_runs_from_files(exported: Path, small_model_folder: Path) -> None:
    model = PersonaLive.from_pretrained(small_model_folder, device="cpu", accelerate="onnx", onnx=exported)
    plain = PersonaLive.from_pretrained(small_model_folder, device="cpu")
    assert model.motion_fingerprint == plain.motion_fingerprint and model.config == plain.config
    with pytest.raises(InputError, match="in fp32, not fp16"):
        open_networks(weights.resolve(small_model_folder), exported, CPU, torch.float16)


@pytest.mark.slow
@WITHOUT_OPENVINO
@pytest.mark.parametrize(
    ("dtype", "multiplies", "rounds"), [(None, True, True), (None, False, False), (torch.float32, True, False)]
)
def test_openvino_rounds_where_nothing_was_said_and_the_processor_is_made_for_it(
    exported: Path,
    small_model_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    dtype: torch.dtype | None,
    multiplies: bool,
    rounds: bool,
) -> None:
    """Only what computes pictures: poses that are rounded move keypoints by whole pixels."""
    rounds &= onednn.multiplies_bf16()  # where it does not, OpenVINO computes in fp32 all the same
    monkeypatch.setattr("personalive.onnx.networks.multiplies_bf16", lambda: multiplies)
    files, plain = (
        PersonaLive.from_pretrained(small_model_folder, device="cpu", dtype=each, **choice).networks
        for each, choice in ((dtype, {"accelerate": "onnx", "onnx": exported}), (torch.float32, {}))
    )
    images, latents = torch.rand(1, 3, 256, 256), torch.randn(1, 4, 32, 32)
    with torch.inference_mode():
        poses = [networks.extract_pose(images).canonical for networks in (files, plain)]
        pictures = [networks.decode(latents) for networks in (files, plain)]
    torch.testing.assert_close(*poses, rtol=1e-4, atol=1e-5)
    error = float((pictures[0] - pictures[1]).norm() / pictures[1].norm())
    assert error < 3e-2 and (error > 1e-4) == rounds


@pytest.mark.slow
def test_a_model_is_written_into_the_cache_once_and_again_if_damaged(
    small_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    PersonaLive.from_pretrained(small_model_folder, device="cpu", accelerate="onnx")
    (folder,) = (tmp_path / "personalive" / "onnx").iterdir()
    assert {path.stem for path in folder.glob("*.onnx")} == FILES
    damaged = folder / "pose_guider.onnx"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    PersonaLive.from_pretrained(small_model_folder, device="cpu", accelerate="onnx")
    assert f"written again, as they were damaged or removed: {folder}" in caplog.text
    monkeypatch.setattr(exporting, "write_file", None)
    PersonaLive.from_pretrained(small_model_folder, device="cpu", accelerate="onnx")


def test_a_failed_export_leaves_nothing(
    small_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GraphMaker, "graphs", GraphMaker.pose_guider)  # the quickest
    monkeypatch.setattr(exporting, "MAX_ERROR", {"fp32": 0.0})
    with pytest.raises(PersonaLiveError, match="computes something else"):
        list(export(weights.resolve(small_model_folder), tmp_path / "files"))
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_a_choice_is_the_same_for_processes_that_start_elsewhere():
    choice = ModelChoice(model="demo", accelerate="onnx", onnx=Path("files")).elsewhere("demo")
    assert choice.onnx == Path("files").absolute()


@pytest.mark.parametrize(
    ("choice", "installed", "machine", "expected"),
    [
        ({}, True, "x86_64", "onnx"),
        ({"model": "demo", "device": "cpu"}, True, "AMD64", "onnx"),
        ({}, False, "x86_64", None),
        ({}, True, "aarch64", None),
        ({"model": "personalive"}, True, "x86_64", None),
        ({"accelerate": "graphs"}, True, "x86_64", "graphs"),
        ({"dtype": "fp32"}, True, "x86_64", None),
    ],
)
def test_files_run_in_openvino_where_that_was_measured_to_be_faster(
    choice: dict[str, Any],
    installed: bool,
    machine: str,
    expected: str | None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr("personalive.loading.missing", lambda extra: [] if installed else ["openvino"])
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert ModelChoice(**choice).for_files().accelerate == expected
    monkeypatch.setenv("HF_HOME", str(Path(__file__) / "no folder"))
    assert ModelChoice(**choice).for_files() == ModelChoice(**choice), "there is no place for the files"
