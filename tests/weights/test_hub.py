"""Download and cache, against a hub on loopback."""

import errno
import hashlib
import io
import json
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.utils import WeakFileLock

from personalive import weights
from personalive.errors import InputError, WeightsError
from personalive.weights import Hub
from personalive.weights.manifest import FileDigest, Manifest
from personalive.weights.source import format_size
from personalive.weights.transfer import NETWORK_ERRORS, network_errors
from tests.hub_stand_in import HubStandIn
from tests.live_support import until
from tests.published_layout import SMALL, State
from tests.weights.support import CLIENT_BLOCK, assert_holds, edit, load, refused, start

BASE = "unet/diffusion_pytorch_model.bin"
BIG = "pretrained_weights/personalive/denoising_unet.pth"


def resolve(hub: Hub, **options: Any) -> weights.WeightsSource:
    return weights.resolve("personalive", hub=hub, config=SMALL, **options)


def cached(hub: Hub, name: str) -> Path:
    """The file behind the cache's link."""
    (link,) = hub.cache.glob(f"models--*/snapshots/*/{name}")
    return link.resolve()


def grow(server: HubStandIn) -> None:
    """Make the file as large as three blocks of the client, with a tensor that nobody knows."""
    path = server.repositories["huaichang/PersonaLive"].folder / BIG
    edit(path, lambda state: state | {"unknown": torch.zeros(5_000_000)})


def flip_last_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_first_start_downloads_and_loads(server: HubStandIn, hub: Hub, states: dict[str, State]) -> None:
    source = resolve(hub)
    assert source.checked
    assert_holds(source, states)
    assert [file.path.name for file in source.files["denoising_unet"]] == ["denoising_unet.pth", "temporal_module.pth"]
    assert not server.fetched(BASE), "3.4 GB for nothing: the other files hold every key"


def test_later_start_needs_no_network(filled: Hub, states: dict[str, State]) -> None:
    source = resolve(filled)
    assert source.checked
    assert_holds(source, states)


@pytest.mark.slow
def test_base_is_fetched_where_it_is_needed(server: HubStandIn, hub: Hub, layout: Path) -> None:
    path = server.repositories["huaichang/PersonaLive"].folder / BIG
    edit(path, lambda state: {key: value for key, value in state.items() if not key.startswith("conv_in")})
    source = resolve(hub)
    assert server.fetched(BASE)
    _, report = load(source, "denoising_unet")
    assert [count for label, count in report.suppliers.items() if label.endswith(BASE)] == [2]
    server.stop()
    assert resolve(hub).files == source.files


def test_broken_connection_goes_on_where_it_stopped(server: HubStandIn, hub: Hub, states: dict[str, State]) -> None:
    grow(server)
    server.faults.cuts, server.faults.cut_path = [CLIENT_BLOCK + 1000] * 2, BIG
    assert_holds(resolve(hub), states, "denoising_unet")
    assert [request.start for request in server.fetched(BIG)] == [0, CLIENT_BLOCK, 2 * CLIENT_BLOCK]


@pytest.mark.slow
def test_interrupted_download_goes_on_at_the_next_start(server: HubStandIn, hub: Hub, states: dict[str, State]) -> None:
    grow(server)
    server.faults.cuts, server.faults.cut_path = [CLIENT_BLOCK + 1000, *[0] * 30], BIG  # newer clients try more often
    with refused("denoising_unet.pth", "stopped at 10.5 MB of", "Run `personalive download` again"):
        resolve(hub)
    server.faults.cuts.clear()
    already = len(server.fetched(BIG))
    assert_holds(resolve(hub), states, "denoising_unet")
    assert [request.start for request in server.fetched(BIG)[already:]] == [CLIENT_BLOCK]


def test_what_another_program_brings_is_waited_for_and_continued(
    server: HubStandIn,
    hub: Hub,
    states: dict[str, State],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Of any with this cache: they use the hub client, which locks a file in this way and begins it at this place."""
    monkeypatch.setattr(constants, "FILELOCK_LOG_EVERY_SECONDS", 0.05)
    content = (server.repositories["huaichang/PersonaLive"].folder / BIG).read_bytes()
    digest, name, half = hashlib.sha256(content).hexdigest(), "models--huaichang--PersonaLive", len(content) // 2
    lock, partial = hub.cache / ".locks" / name / f"{digest}.lock", hub.cache / name / "blobs" / f"{digest}.incomplete"
    for path in (lock, partial):
        path.parent.mkdir(parents=True)
    with ThreadPoolExecutor(1) as pool, caplog.at_level(logging.INFO, logger="huggingface_hub"):
        with WeakFileLock(lock), partial.open("wb") as file:
            ours = pool.submit(resolve, hub)
            until(lambda: ours.done() or f"Still waiting to acquire lock on {lock}" in caplog.text)
            file.write(content[:half])
        assert_holds(ours.result(), states, "denoising_unet")
    assert [request.start for request in server.fetched(BIG)] == [half]


@pytest.mark.filterwarnings("ignore:flock not supported")
def test_it_downloads_where_files_cannot_be_locked(
    hub: Hub, states: dict[str, State], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", refuse)
    assert_holds(resolve(hub), states, "denoising_unet")


@pytest.mark.parametrize("extra", [b"", b"more"])
def test_what_is_there_in_full_and_yet_is_not_the_file_is_dropped(
    server: HubStandIn, hub: Hub, states: dict[str, State], extra: bytes
) -> None:
    content = (server.repositories["huaichang/PersonaLive"].folder / BIG).read_bytes()
    blobs = hub.cache / "models--huaichang--PersonaLive" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{hashlib.sha256(content).hexdigest()}.incomplete").write_bytes(bytes(len(content)) + extra)
    assert_holds(resolve(hub), states, "denoising_unet")
    assert [request.start for request in server.fetched(BIG)] == [0]


def test_a_defect_of_ours_never_counts_as_a_broken_connection() -> None:
    class LibraryError(Exception):
        pass

    class ClientError(LibraryError, ValueError):
        pass

    errors = network_errors(ClientError)
    assert issubclass(LibraryError, errors) and issubclass(ConnectionError, errors)
    for defect in (TypeError, KeyError, ValueError):
        assert not issubclass(defect, errors) and not issubclass(defect, NETWORK_ERRORS)


def test_file_with_wrong_content_is_refused_then_fetched_again(
    server: HubStandIn, hub: Hub, states: dict[str, State]
) -> None:
    server.faults.corrupt.add(BIG)
    with refused("denoising_unet.pth", "damaged or was changed", "expected"):
        resolve(hub)
    with refused("denoising_unet.pth", "damaged or was changed"):
        weights.download(hub=hub, config=SMALL)
    server.faults.corrupt.clear()
    assert {file.state for file in weights.download(hub=hub, config=SMALL)} == {"present", "not needed"}
    assert_holds(resolve(hub), states, "denoising_unet")


def test_changed_cached_file_is_refused(server: HubStandIn, filled: Hub, states: dict[str, State]) -> None:
    resolve(filled)
    path = cached(filled, "pretrained_weights/personalive/motion_encoder.pth")
    times = path.stat()
    flip_last_byte(path)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    with refused("motion_encoder.pth", "damaged or was changed", "Run `personalive download`"):
        resolve(filled)
    weights.download(hub=replace(filled, address=server.url), config=SMALL)
    assert len(server.fetched(".pth")) == 1
    assert_holds(resolve(filled), states, "motion_encoder")


def test_truncated_cached_file_is_refused(filled: Hub) -> None:
    path = cached(filled, "diffusion_pytorch_model.bin")
    os.truncate(path, 1000)
    with refused("sd-vae-ft-mse", "diffusion_pytorch_model.bin is damaged", "1000 bytes where", "were published"):
        resolve(filled)


def test_cache_of_another_program_is_checked_by_its_names(filled: Hub) -> None:
    for records in filled.cache.glob("*/personalive-verified.json"):
        records.unlink()
    assert resolve(filled).checked
    for records in filled.cache.glob("*/personalive-verified.json"):
        records.unlink()
    flip_last_byte(cached(filled, "pretrained_weights/personalive/pose_guider.pth"))
    with refused("pose_guider.pth", "damaged or was changed"):
        resolve(filled)


def test_cache_without_any_record_is_used_with_one_warning(filled: Hub, caplog: pytest.LogCaptureFixture) -> None:
    """As on file systems without links, where nothing tells a file's digest."""
    for records in filled.cache.glob("*/personalive-verified.json"):
        records.unlink()
    for link in [path for path in filled.cache.glob("*/snapshots/**/*") if path.is_symlink()]:
        link.resolve().rename(moved := link.with_name(".moved"))
        moved.replace(link)
    with caplog.at_level(logging.WARNING):
        source = resolve(filled)
    assert not source.checked and len(caplog.records) == 1
    load(source, "pose_guider")


def test_missing_file_without_download(server: HubStandIn, hub: Hub) -> None:
    with refused("denoising_unet.pth", str(hub.cache), "`personalive download`"):
        resolve(hub, download=False)
    assert not server.requests


def test_file_that_the_hub_lacks(server: HubStandIn, hub: Hub) -> None:
    (server.repositories["huaichang/PersonaLive"].folder / BIG).unlink()
    with refused("has no", "denoising_unet.safetensors", "denoising_unet.pth", "huaichang/PersonaLive"):
        resolve(hub)
    assert not server.fetched("reference_unet.pth"), "refused before anything is downloaded"


def test_answer_for_another_revision_is_refused(server: HubStandIn, hub: Hub) -> None:
    server.faults.claim_revision = "0" * 40
    with refused("revision " + "0" * 40, "b247581c0361b8bee0aa7232eea6e3fdd6e38e60", "nothing is downloaded"):
        resolve(hub)


def test_file_of_another_revision_is_refused(server: HubStandIn, hub: Hub) -> None:
    server.faults.claim_commit = "0" * 40
    with refused("reference_unet.pth", "another revision", "0" * 40):
        resolve(hub)


def test_digest_that_is_none_is_refused(server: HubStandIn, hub: Hub) -> None:
    server.faults.claim[BIG] = {"sha256": "../../outside"}
    with refused("denoising_unet.pth", "'../../outside'"):
        resolve(hub)


def test_no_network_at_all(server: HubStandIn, hub: Hub) -> None:
    server.stop()
    with refused("cannot be read from", "HF_ENDPOINT", "--hub modelscope"):
        resolve(hub)


def test_manifest_outranks_the_hub(server: HubStandIn, hub: Hub) -> None:
    wanted = FileDigest(334643276, "a1d993488569e928462932c8c38a0760b874d166399b14414135bd9c42df5815")
    files = tuple(
        replace(file, known=dict.fromkeys(file.names, wanted))
        if (file.network, file.kind) == ("vae", "weights")
        else file
        for file in hub.manifest.files
    )
    with refused("sd-vae-ft-mse", "334643276 bytes", "are known", "not downloaded"):
        resolve(replace(hub, manifest=Manifest(files)))


def test_safetensors_are_preferred(server: HubStandIn, hub: Hub, states: dict[str, State]) -> None:
    from safetensors.torch import save_file

    folder = server.repositories["huaichang/PersonaLive"].folder / "pretrained_weights/personalive"
    save_file(states["pose_guider"], folder / "pose_guider.safetensors")
    assert_holds(resolve(hub), states, "pose_guider")
    assert server.fetched("pose_guider.safetensors") and not server.fetched("pose_guider.pth")


def test_dry_run_says_what_would_be_done(server: HubStandIn, hub: Hub) -> None:
    planned = weights.download(hub=hub, config=SMALL, dry_run=True)
    by_path = {file.file.hub_path(file.name): file for file in planned}
    sizes = {
        name: path.stat().st_size for store in server.repositories.values() for name, path in store.files().items()
    }
    assert all(file.size == sizes[path] for path, file in by_path.items())
    assert by_path[BIG].state == "missing" and by_path[BASE].state == "perhaps needed"
    assert not server.fetched(BIG) and not hub.cache.exists()


def test_full_disk_is_noticed_before_the_download(server: HubStandIn, hub: Hub) -> None:
    server.faults.claim[BIG] = {"size": 10**18}
    with refused("needs 1000000000.0 GB", "free at", "HF_HOME"):
        resolve(hub)
    assert not any(request.path.startswith("/blobs/") for request in server.requests)


def test_folder_that_cannot_be_made_is_named(server: HubStandIn, hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")
    with refused(str(hub.cache), "cannot be made", "HF_HOME"):
        resolve(hub)


@pytest.mark.slow
def test_progress_is_logged_where_there_is_no_terminal(
    server: HubStandIn, hub: Hub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    grow(server)
    monkeypatch.setattr("personalive.weights.transfer._LOG_SECONDS", 0)
    monkeypatch.setattr("sys.stderr", io.StringIO())
    with caplog.at_level(logging.INFO):
        resolve(hub)
    size = format_size(cached(hub, BIG).stat().st_size)
    assert f"denoising_unet.pth: 10.5 MB of {size}" in caplog.text


def test_other_sources_can_not_be_downloaded() -> None:
    with pytest.raises(InputError, match="only 'personalive' can be downloaded, not 'demo'"):
        weights.download("demo")


def test_configuration_that_contradicts_is_refused(server: HubStandIn, hub: Hub) -> None:
    path = server.repositories["lambdalabs/sd-image-variations-diffusers"].folder / "unet" / "config.json"
    facts = json.loads(path.read_text()) | {"attention_head_dim": 5}
    path.unlink()
    path.write_text(json.dumps(facts))
    with refused("denoising_unet", "attention_head_dim is 5", "the model needs 8"):
        resolve(hub)


class TestConversion:
    @pytest.mark.slow
    def test_it_is_preferred_for_its_dtype(self, filled: Hub, states: dict[str, State]) -> None:
        source = resolve(filled, dtype=torch.float16)
        folders = {file.path.parent for files in source.files.values() for file in files}
        assert source.checked and len(folders) == 1 and filled.cache not in folders.pop().parents
        assert_holds(resolve(filled, dtype=torch.float32), states)
        module, _ = load(source, "motion_encoder", torch.float16)
        assert torch.equal(module.final_proj.weight, states["motion_encoder"]["final_proj.weight"].half())
        extractor, _ = load(source, "motion_extractor", torch.float16)  # is stored, and stays, in full precision
        assert torch.equal(extractor.detector.fc_kp.weight, states["motion_extractor"]["detector.fc_kp.weight"])

    def test_it_loads_what_the_published_files_load(self, filled: Hub) -> None:
        published, converted = resolve(filled), resolve(filled, dtype=torch.float16)
        for network in weights.NETWORKS:
            once, _ = load(published, network, torch.float16)
            twice, report = load(converted, network, torch.float16)
            assert not report.computed
            for (key, left), right in zip(once.state_dict().items(), twice.state_dict().values(), strict=True):
                assert left.dtype == right.dtype and torch.equal(left, right), f"{network}: {key}"

    def test_it_does_not_need_the_originals(self, filled: Hub) -> None:
        for blob in filled.cache.glob("*/blobs/*"):
            blob.unlink()
        load(resolve(filled, dtype=torch.float16), "pose_guider", torch.float16)

    def test_it_is_not_used_for_other_revisions(self, filled: Hub, caplog: pytest.LogCaptureFixture) -> None:
        path = filled.conversions / "float16" / "weights.json"
        index = json.loads(path.read_text())
        index["origin"]["huaichang/PersonaLive"] = "2" * 40
        path.write_text(json.dumps(index))
        with caplog.at_level(logging.WARNING):
            assert resolve(filled, dtype=torch.float16).published
        assert "converted from other weights" in caplog.text

    @pytest.mark.parametrize("name", ["pose_guider.safetensors", "config.json", "weights.json"])
    def test_it_is_not_used_where_it_is_not_complete(
        self, filled: Hub, name: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = filled.conversions / "float16" / name
        os.truncate(path, 1) if path.suffix == ".json" else path.unlink()
        with caplog.at_level(logging.WARNING):
            assert resolve(filled, dtype=torch.float16).published
        assert "conversion of the weights is not used" in caplog.text and name in caplog.text

    def test_changed_file_is_refused(self, filled: Hub) -> None:
        resolve(filled, dtype=torch.float16)
        flip_last_byte(filled.conversions / "float16" / "pose_guider.safetensors")
        with refused("pose_guider.safetensors", "damaged or was changed", "convert again"):
            resolve(filled, dtype=torch.float16)

    def test_values_that_do_not_fit_are_refused(self, layout: Path, tmp_path: Path) -> None:
        edit(
            layout / "personalive" / "pose_guider.pth",
            lambda state: state | {"conv_in.bias": torch.full((8,), 1e6)},
        )
        with refused("pose_guider", "not finite in torch.float16", "conv_in.bias"):
            weights.convert(layout, tmp_path / "converted", config=SMALL)
        assert not list((tmp_path / "converted").iterdir()), "nothing half written is left"

    @pytest.mark.slow
    def test_a_folder_is_converted_to_where_the_user_says(
        self, layout: Path, tmp_path: Path, states: dict[str, State]
    ) -> None:
        folder = weights.convert(layout, tmp_path / "converted", torch.float32, config=SMALL)
        assert folder == tmp_path / "converted"
        assert_holds(weights.resolve(folder), states)


@pytest.mark.slow
def test_environment_decides_where_from_and_where_to(server: HubStandIn, tmp_path: Path) -> None:
    program = (
        "from personalive import weights; from tests.published_layout import SMALL;print(weights.resolve(config=SMALL))"
    )
    environment = {"HF_HOME": str(tmp_path / "elsewhere"), "HF_ENDPOINT": server.url, "HF_TOKEN": "hf_secret"}
    first = start("-c", program, **environment)
    assert first.returncode == 0, first.stderr
    assert "Bearer hf_secret" in {request.authorization for request in server.requests}
    assert "checked=True" in first.stdout
    assert (tmp_path / "elsewhere" / "hub" / "models--huaichang--PersonaLive").is_dir()
    server.stop()
    second = start("-c", program, **environment, HF_HUB_OFFLINE="1")
    assert second.stdout == first.stdout, second.stderr


@pytest.mark.slow
def test_command_line_downloads_and_converts(server: HubStandIn, tmp_path: Path) -> None:
    """The conversion then finds that these are not the published sizes, which only it looks at."""
    environment = {"HF_HOME": str(tmp_path / "elsewhere"), "HF_ENDPOINT": server.url}
    result = start("-m", "personalive.cli.main", "download", "--convert", "float16", **environment)
    assert result.returncode != 0
    assert "present" in result.stdout and BIG in result.stdout
    assert "block_out_channels is [32, 32, 32, 32]" in result.stderr and "Traceback" not in result.stderr


def test_error_is_one_that_doors_show() -> None:
    with pytest.raises(WeightsError, match=r"there is no folder .*nowhere.*`personalive download`"):
        weights.resolve("nowhere")
