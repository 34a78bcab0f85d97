"""A folder in the published layout: what is read from it, and what is refused."""

import json
import logging
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from personalive import weights
from personalive.config import ModelConfig
from personalive.weights import WeightsSource
from tests.published_layout import SMALL, State
from tests.weights.support import assert_holds, edit, load, refused

MINE, VARIATIONS, VAE = "personalive", "sd-image-variations-diffusers", "sd-vae-ft-mse"


def resolve(layout: Path) -> WeightsSource:
    return weights.resolve(layout, config=SMALL)


class Exploit:
    """What a pickle may hold: reading it calls a function."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.marker),)


def test_every_network_loads(layout: Path, states: dict[str, State]) -> None:
    assert_holds(resolve(layout), states)


def test_folder_around_pretrained_weights_is_taken(layout: Path, tmp_path: Path, states: dict[str, State]) -> None:
    (tmp_path / "project").mkdir()
    layout.rename(tmp_path / "project" / "pretrained_weights")
    assert_holds(resolve(tmp_path / "project"), states)


def test_one_warning_as_nothing_is_recorded(layout: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        source = resolve(layout)
        for network in weights.NETWORKS:
            load(source, network)
    assert [record.message for record in caplog.records] == [
        f"nothing is recorded to check the weights in {layout} against: only their structure is checked"
    ]
    assert not source.checked


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_dtype_of_a_loaded_network(layout: Path, states: dict[str, State], dtype: torch.dtype) -> None:
    extractor, _ = load(resolve(layout), "motion_extractor", dtype)
    assert {tensor.dtype for tensor in extractor.state_dict().values()} == {torch.float32}
    encoder, _ = load(resolve(layout), "motion_encoder", dtype)
    key = "final_proj.weight"
    assert torch.equal(encoder.state_dict()[key], states["motion_encoder"][key].to(dtype))
    assert {table.dtype for table in encoder.buffers()} == {dtype, torch.int64}


def test_half_precision_files_are_taken(layout: Path, states: dict[str, State]) -> None:
    edit(layout / MINE / "motion_extractor.pth", lambda state: {key: value.half() for key, value in state.items()})
    module, _ = load(resolve(layout), "motion_extractor")
    key = "detector.stages.0.0.norm.weight"
    assert torch.equal(module.state_dict()[key], states["motion_extractor"][key].half().float())


def test_loaded_weights_do_not_hang_on_the_file(layout: Path) -> None:
    module, _ = load(resolve(layout), "pose_guider")
    before = module.conv_in.weight.clone()
    path = layout / MINE / "pose_guider.pth"
    path.write_bytes(bytes(path.stat().st_size))
    assert torch.equal(module.conv_in.weight, before)


def test_files_of_before_zip_archives_are_taken(layout: Path, states: dict[str, State]) -> None:
    path = layout / VARIATIONS / "image_encoder" / "pytorch_model.bin"
    torch.save(states["image_encoder"], path, _use_new_zipfile_serialization=False)
    assert_holds(resolve(layout), states)


class TestDenoisingUNet:
    """Three files, whose union counts."""

    @pytest.mark.parametrize("part", ["temporal_modules", "motion_modules", "attentions", "conv_in"])
    def test_any_partition_is_taken(self, layout: Path, states: dict[str, State], part: str) -> None:
        unet = states["denoising_unet"]
        edit(layout / MINE / "denoising_unet.pth", lambda _: {key: unet[key] for key in unet if part not in key})
        edit(layout / MINE / "temporal_module.pth", lambda _: {key: unet[key] for key in unet if part in key})
        module, _ = load(resolve(layout), "denoising_unet")
        assert all(torch.equal(value, unet[key]) for key, value in module.state_dict().items())

    def test_later_files_win(self, layout: Path, states: dict[str, State]) -> None:
        bias = torch.arange(32.0)
        edit(layout / MINE / "temporal_module.pth", lambda state: state | {"conv_in.bias": bias})
        module, report = load(resolve(layout), "denoising_unet")
        assert torch.equal(module.conv_in.bias, bias)
        temporal = [key for key in states["denoising_unet"] if "temporal_modules" in key] + ["conv_in.bias"]
        ours = len(states["denoising_unet"]) - len(temporal)
        assert list(report.suppliers.values()) == [ours, len(temporal)], "base 0, then ours, then temporal"

    def test_base_fills_gaps_and_the_report_says_so(self, layout: Path, states: dict[str, State]) -> None:
        edit(
            layout / MINE / "denoising_unet.pth", lambda state: {k: v for k, v in state.items() if k != "conv_in.bias"}
        )
        module, report = load(resolve(layout), "denoising_unet")
        assert torch.equal(module.conv_in.bias, states["denoising_unet"]["conv_in.bias"] + 1)
        assert "1 tensors from" in str(report) and "diffusion_pytorch_model.bin" in str(report)

    def test_base_may_be_absent(self, layout: Path, states: dict[str, State]) -> None:
        (layout / VARIATIONS / "unet" / "diffusion_pytorch_model.bin").unlink()
        assert_holds(resolve(layout), states)

    def test_gap_is_refused_and_the_absent_base_named(self, layout: Path) -> None:
        (layout / VARIATIONS / "unet" / "diffusion_pytorch_model.bin").unlink()
        edit(
            layout / MINE / "denoising_unet.pth", lambda state: {k: v for k, v in state.items() if k != "conv_in.bias"}
        )
        with refused(
            "denoising_unet", "1 keys are missing", "conv_in.bias", "base UNet", "diffusion_pytorch_model.bin"
        ):
            load(resolve(layout), "denoising_unet")

    def test_tables_are_computed_where_no_file_has_them(self, layout: Path, states: dict[str, State]) -> None:
        edit(layout / MINE / "temporal_module.pth", lambda s: {k: v for k, v in s.items() if not k.endswith(".pe")})
        module, report = load(resolve(layout), "denoising_unet")
        tables = {key: value for key, value in module.state_dict().items() if key.endswith(".pe")}
        assert len(report.computed) == len(tables) > 20
        assert all(torch.equal(value, states["denoising_unet"][key]) for key, value in tables.items())

    def test_unknown_keys_are_told_and_ignored(self, layout: Path, caplog: pytest.LogCaptureFixture) -> None:
        edit(layout / MINE / "denoising_unet.pth", lambda state: state | {"class_embedding.weight": torch.ones(3)})
        source = resolve(layout)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            _, report = load(source, "denoising_unet")
        assert report.ignored == ("class_embedding.weight",)
        assert "denoising_unet: 1 keys of the files are unknown, first class_embedding.weight" in caplog.text

    def test_contradicting_facts_are_refused(self, layout: Path) -> None:
        path = layout / VARIATIONS / "unet" / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"cross_attention_dim": 1024}))
        with refused("denoising_unet", "cross_attention_dim is 1024", "needs 32"):
            resolve(layout)


def test_head_that_is_never_evaluated_may_be_absent(layout: Path) -> None:
    keep = lambda state: {key: value for key, value in state.items() if "fc_exp" not in key and key != "idx_tensor"}  # noqa: E731
    edit(layout / MINE / "motion_extractor.pth", keep)
    module, report = load(resolve(layout), "motion_extractor")
    assert set(report.computed) == {"idx_tensor", "detector.fc_exp.weight", "detector.fc_exp.bias"}
    assert module.detector.fc_exp.weight.eq(0).all()
    assert module.idx_tensor.tolist() == list(range(66))


def test_new_names_of_the_vae_are_taken(layout: Path, states: dict[str, State]) -> None:
    save_file(states["vae"], layout / VAE / "diffusion_pytorch_model.safetensors")
    (layout / VAE / "diffusion_pytorch_model.bin").unlink()
    assert_holds(resolve(layout), states)


def test_safetensors_are_preferred(layout: Path) -> None:
    state = torch.load(layout / MINE / "pose_guider.pth", weights_only=True)
    save_file({key: value + 1 for key, value in state.items()}, layout / MINE / "pose_guider.safetensors")
    module, report = load(resolve(layout), "pose_guider")
    assert torch.equal(module.conv_in.bias, state["conv_in.bias"] + 1)
    assert list(report.suppliers) == [str(layout / MINE / "pose_guider.safetensors")]


class TestRefused:
    @pytest.mark.parametrize(
        "path",
        [f"{MINE}/{name}.pth" for name in ("reference_unet", "denoising_unet", "temporal_module", "pose_guider")]
        + [f"{VAE}/diffusion_pytorch_model.bin", f"{VARIATIONS}/image_encoder/pytorch_model.bin"],
    )
    def test_missing_file(self, layout: Path, path: str) -> None:
        (layout / path).unlink()
        with refused("1 weights file is missing", str(layout), str(layout / path), "`personalive download`"):
            resolve(layout)

    def test_folder_without_weights(self, tmp_path: Path) -> None:
        with refused("8 weights files are missing", str(tmp_path), "published layout"):
            resolve(tmp_path)

    @pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.999])
    def test_truncated_file(self, layout: Path, share: float) -> None:
        path = layout / MINE / "motion_encoder.pth"
        os.truncate(path, int(path.stat().st_size * share))
        with refused("motion_encoder.pth", "cannot be read" if share else "damaged"):
            load(resolve(layout), "motion_encoder")

    @pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.999])
    def test_truncated_safetensors(self, layout: Path, states: dict[str, State], share: float) -> None:
        path = layout / MINE / "motion_encoder.safetensors"
        save_file(states["motion_encoder"], path)
        os.truncate(path, int(path.stat().st_size * share))
        with refused("motion_encoder.safetensors is damaged"):
            load(resolve(layout), "motion_encoder")

    @pytest.mark.parametrize("content", [b"\0" * 5000, b"<html>not found</html>", b"\x80\x04K\x01."])
    def test_something_else(self, layout: Path, content: bytes) -> None:
        (layout / MINE / "pose_guider.pth").write_bytes(content)
        with refused("pose_guider.pth"):
            load(resolve(layout), "pose_guider")

    def test_code_in_a_pickle(self, layout: Path, tmp_path: Path) -> None:
        torch.save({"conv_in.weight": Exploit(tmp_path / "ran")}, layout / MINE / "pose_guider.pth")
        with refused("pose_guider.pth is refused", "could run code"):
            load(resolve(layout), "pose_guider")
        assert not (tmp_path / "ran").exists()

    def test_code_in_a_bare_pickle(self, layout: Path, tmp_path: Path) -> None:
        (layout / MINE / "pose_guider.pth").write_bytes(pickle.dumps(Exploit(tmp_path / "ran")))
        with refused("pose_guider.pth"):
            load(resolve(layout), "pose_guider")
        assert not (tmp_path / "ran").exists()

    def test_wrapped_state_dict(self, layout: Path) -> None:
        edit(layout / MINE / "pose_guider.pth", lambda state: {"state_dict": state})
        with refused("pose_guider.pth is not a flat dictionary of tensors", "'state_dict' is dict"):
            load(resolve(layout), "pose_guider")

    def test_bare_tensor(self, layout: Path) -> None:
        torch.save(torch.ones(3), layout / MINE / "pose_guider.pth")
        with refused("pose_guider.pth holds Tensor, not a dictionary"):
            load(resolve(layout), "pose_guider")

    @pytest.mark.parametrize(
        ("file", "network", "key"),
        [
            ("reference_unet", "reference_unet", "mid_block.attentions.0.proj_in.weight"),
            ("denoising_unet", "denoising_unet", "mid_block.motion_modules.0.temporal_transformer.norm.weight"),
            ("motion_encoder", "motion_encoder", "model.bn1.running_mean"),
            ("motion_extractor", "motion_extractor", "detector.fc_kp.weight"),
            ("pose_guider", "pose_guider", "conv_out_modify.bias"),
        ],
    )
    def test_missing_and_wrong_keys(self, layout: Path, file: str, network: str, key: str) -> None:
        path = layout / MINE / f"{file}.pth"
        original = torch.load(path, weights_only=True)
        edit(path, lambda state: {name: value for name, value in state.items() if name != key})
        with refused(network, "1 keys are missing", key, str(path)):
            load(resolve(layout), network)
        edit(path, lambda _: {f"{name}.wrong" if name == key else name: value for name, value in original.items()})
        with refused(network, key):
            load(resolve(layout), network)

    def test_wrong_shape(self, layout: Path) -> None:
        edit(layout / MINE / "motion_encoder.pth", lambda state: state | {"final_proj.weight": torch.ones(64, 32)})
        with refused("motion_encoder", "final_proj.weight", "[64, 32]", "motion_encoder.pth", "[64, 64]"):
            load(resolve(layout), "motion_encoder")

    def test_weights_of_another_size(self, layout: Path) -> None:
        with refused("pose_guider", "conv_in.weight", "[8, 3, 3, 3]", "needs [16, 3, 3, 3]", "(and "):
            load(WeightsSource("x", ModelConfig(), resolve(layout).files, published=True, checked=False), "pose_guider")

    @pytest.mark.parametrize(
        ("network", "key"),
        [
            ("reference_unet", "conv_out.weight"),
            ("motion_encoder", "model.conv9.weight"),
            ("pose_guider", "module.conv_in.bias"),
        ],
    )
    def test_unknown_key_where_files_hold_exactly_the_network(self, layout: Path, network: str, key: str) -> None:
        edit(layout / MINE / f"{network}.pth", lambda state: state | {key: torch.ones(3)})
        with refused(network, "1 keys of the files are unknown", key):
            load(resolve(layout), network)

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_values_that_are_no_numbers(self, layout: Path, value: float) -> None:
        edit(layout / MINE / "pose_guider.pth", lambda state: state["conv_in.weight"].view(-1)[5].fill_(value) and None)
        with refused("pose_guider", "not finite", "conv_in.weight"):
            load(resolve(layout), "pose_guider")

    def test_integers_for_weights(self, layout: Path) -> None:
        edit(layout / MINE / "pose_guider.pth", lambda state: {key: value.char() for key, value in state.items()})
        with refused("pose_guider", "torch.int8"):
            load(resolve(layout), "pose_guider")

    def test_nothing_is_changed_when_a_network_is_refused(self, layout: Path) -> None:
        from personalive.models import build_network

        edit(layout / MINE / "pose_guider.pth", lambda s: {k: v for k, v in s.items() if k != "conv_out_modify.bias"})
        module = build_network("pose_guider", SMALL)
        before = {key: value.clone() for key, value in module.state_dict().items()}
        with refused("conv_out_modify.bias"):
            weights.load_into(resolve(layout), "pose_guider", module, dtype=torch.float32, device=torch.device("cpu"))
        assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
