"""The package's own format: one folder that holds a whole model."""

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from personalive import weights
from personalive.config import ModelConfig
from personalive.errors import InputError, OutputError
from personalive.models import NETWORKS, build_network
from tests.published_layout import SMALL, State
from tests.weights.support import assert_holds, load, refused

SHARD = 500_000


@pytest.fixture(scope="module")
def modules(states: dict[str, State]) -> dict[str, nn.Module]:
    modules = {network: build_network(network, SMALL) for network in NETWORKS}
    for network, module in modules.items():
        module.load_state_dict(states[network])
    return modules


@pytest.fixture
def folder(modules: dict[str, nn.Module], tmp_path: Path) -> Path:
    weights.save_folder(tmp_path / "model", SMALL, modules, torch.float32, max_file_size=SHARD)
    return tmp_path / "model"


def test_what_is_written_is_read(folder: Path, states: dict[str, State]) -> None:
    source = weights.resolve(folder)
    assert source.config == SMALL and source.checked
    assert_holds(source, states)


def test_files_stay_below_the_size_asked_for(folder: Path) -> None:
    files = sorted(folder.glob("*.safetensors"))
    assert [file.name for file in files if file.name.startswith("motion_encoder")][:1] == [
        "motion_encoder-00001-of-00006.safetensors"
    ]
    assert (folder / "pose_guider.safetensors").exists()
    header = 150_000  # names and places of the tensors
    assert max(file.stat().st_size for file in files) < SHARD + header


def test_shipped_files_stay_small_by_default(modules: dict[str, nn.Module], tmp_path: Path) -> None:
    weights.save_folder(tmp_path, SMALL, modules, torch.float16)
    assert all(file.stat().st_size < 16_000_000 for file in tmp_path.iterdir())


def test_half_precision_is_stored_for_what_computes_in_fp32_too(modules: dict[str, nn.Module], tmp_path: Path) -> None:
    weights.save_folder(tmp_path, SMALL, modules, torch.float16)
    module, _ = load(weights.resolve(tmp_path), "motion_extractor", torch.float16)
    norm = modules["motion_extractor"].detector.stages[0][0].norm.weight
    loaded = module.detector.stages[0][0].norm.weight
    assert loaded.dtype == torch.float32
    assert torch.equal(loaded, norm.half().float())


def test_writing_again_replaces_and_leaves_the_rest(
    folder: Path, modules: dict[str, nn.Module], states: dict[str, State]
) -> None:
    (folder / "README.md").write_text("mine")
    weights.save_folder(folder, SMALL, modules, torch.float32)
    assert not list(folder.glob("*-of-*"))
    assert (folder / "README.md").read_text() == "mine"
    assert_holds(weights.resolve(folder), states)


def test_a_failed_write_leaves_the_old_model(
    folder: Path, modules: dict[str, nn.Module], states: dict[str, State]
) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    broken = modules | {"vae": build_meta("vae")}
    with pytest.raises(NotImplementedError):
        weights.save_folder(folder, SMALL, broken, torch.float32)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def build_meta(network: str) -> nn.Module:
    with torch.device("meta"):
        return build_network(network, SMALL)


def test_a_folder_with_something_else_is_left_alone(modules: dict[str, nn.Module], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"editor": "vi"}')
    with pytest.raises(OutputError, match=r"holds something other than a model.*unknown names: editor"):
        weights.save_folder(tmp_path, SMALL, modules, torch.float32)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_a_file_where_the_folder_should_be(modules: dict[str, nn.Module], tmp_path: Path) -> None:
    (tmp_path / "model").write_text("")
    with pytest.raises(OutputError, match="cannot be written to"):
        weights.save_folder(tmp_path / "model", SMALL, modules, torch.float32)


def test_a_model_is_written_whole_or_not_at_all(modules: dict[str, nn.Module], tmp_path: Path) -> None:
    without = {network: module for network, module in modules.items() if network != "vae"}
    with pytest.raises(InputError, match="a model needs the networks"):
        weights.save_folder(tmp_path / "model", SMALL, without, torch.float32)
    assert not (tmp_path / "model").exists()


def test_folder_without_records_is_used_with_one_warning(
    folder: Path, states: dict[str, State], caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "weights.json").unlink()
    with caplog.at_level(logging.WARNING):
        source = weights.resolve(folder)
        assert_holds(source, states)
    assert not source.checked and len(caplog.records) == 1


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


SHARDED = "motion_encoder-00002-of-00006.safetensors"
WHOLE = "pose_guider.safetensors"


@pytest.mark.parametrize("name", [SHARDED, WHOLE])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip, "damaged or was changed"),
        (lambda path: os.truncate(path, 100), "has 100 bytes where"),
        (Path.unlink, "is missing"),
    ],
)
def test_damaged_file_is_refused(folder: Path, name: str, damage: Callable[[Path], None], message: str) -> None:
    damage(folder / name)
    with refused(name, message):
        weights.resolve(folder)


@pytest.mark.parametrize(("name", "message"), [(SHARDED, "is not complete"), (WHOLE, "pose_guider is missing")])
def test_missing_file_is_named_without_records_too(folder: Path, name: str, message: str) -> None:
    (folder / "weights.json").unlink()
    (folder / name).unlink()
    with refused(message, name):
        weights.resolve(folder)


def test_network_that_is_there_twice_is_refused(folder: Path) -> None:
    (folder / "weights.json").unlink()
    (folder / "motion_encoder.safetensors").write_bytes(b"")
    with refused("has the motion_encoder twice", "motion_encoder.safetensors"):
        weights.resolve(folder)


@pytest.mark.parametrize(
    "text", ["", "[]", '{"files": {}}', '{"origin": {}, "files": {"a": 1}}', '{"origin": {}, "files": {"a": {"x": 1}}}']
)
def test_damaged_records_are_refused(folder: Path, text: str) -> None:
    (folder / "weights.json").write_text(text)
    with refused("weights.json is damaged"):
        weights.resolve(folder)


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd"])
def test_records_can_not_point_outside(folder: Path, name: str) -> None:
    index = json.loads((folder / "weights.json").read_text())
    index["files"][name] = {"size": 1, "digest": "0" * 64}
    (folder / "weights.json").write_text(json.dumps(index))
    with refused("weights.json is refused", name):
        weights.resolve(folder)


@pytest.mark.parametrize("text", ["{", "[]", '{"unet": {"width": 3}}', '{"size": "large"}'])
def test_damaged_configuration_is_refused(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    (folder / "weights.json").unlink()
    with pytest.raises(InputError, match="config"):
        weights.resolve(folder)


def test_configuration_of_another_size_is_refused(folder: Path) -> None:
    values = SMALL.to_dict()
    values["vae"]["layers_per_block"] = 2
    (folder / "config.json").write_text(json.dumps(ModelConfig.from_dict(values).to_dict()))
    (folder / "weights.json").unlink()
    with refused("vae", "keys are missing"):
        load(weights.resolve(folder), "vae")
