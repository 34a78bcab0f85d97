"""Other places than the Hugging Face hub, and other revisions than the pinned ones, against servers on loopback."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from personalive import weights
from personalive.errors import InputError
from personalive.weights import Hub
from personalive.weights.manifest import FileDigest, Manifest
from tests.hub_stand_in import HubStandIn
from tests.published_layout import SMALL, State, as_repositories
from tests.weights.support import CLIENT_BLOCK, assert_holds, edit, load, refused, start

PERSONALIVE = "huaichang/PersonaLive"
PINNED = "b247581c0361b8bee0aa7232eea6e3fdd6e38e60"
INSIDE = "pretrained_weights/personalive"
BIG = f"{INSIDE}/denoising_unet.pth"


def resolve(hub: Hub, **options: Any) -> weights.WeightsSource:
    return weights.resolve("personalive", hub=hub, config=SMALL, **options)


def move(server: HubStandIn, revision: str) -> Path:
    """Let the hub forget the pinned commit and have this one; returns the repository's folder."""
    stored = server.repositories[PERSONALIVE]
    server.repositories[PERSONALIVE] = replace(stored, revision=revision)
    return stored.folder


def lack(path: Path, key: str) -> None:
    edit(path, lambda state: {name: value for name, value in state.items() if name != key})


class TestRevision:
    """A pinned commit that the hub no longer has."""

    def test_the_message_says_so_and_what_to_do(self, server: HubStandIn, hub: Hub) -> None:
        move(server, "1" * 40)
        with refused("does not have revision", PINNED, PERSONALIVE, "--revision REV", "PERSONALIVE_REVISION"):
            resolve(hub)
        assert not server.fetched(".bin"), "refused before anything is downloaded"

    @pytest.mark.parametrize("revision", ["main", pytest.param("1" * 40, marks=pytest.mark.slow)])
    @pytest.mark.slow
    def test_another_is_taken_and_held_to(
        self, server: HubStandIn, hub: Hub, states: dict[str, State], revision: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        move(server, "1" * 40)
        plan = weights.download(hub=replace(hub, revision=revision), config=SMALL)
        assert {file.file.repository.revision for file in plan if file.file.repository.name == PERSONALIVE} == {
            "1" * 40
        }
        move(server, "2" * 40)  # the branch continues
        with caplog.at_level(logging.INFO):
            source = resolve(hub)
        assert f"{PERSONALIVE} is held to revision {'1' * 40}" in caplog.text
        assert source.checked and f"{PERSONALIVE}@{'1' * 8}/" in source.files["pose_guider"][0].label
        assert_holds(source, states)
        assert resolve(replace(hub, revision=revision)).files == source.files, "asked for again: held to all the same"
        server.stop()
        assert resolve(hub).files == source.files

    @pytest.mark.slow
    def test_the_other_repositories_stay_at_their_commits(self, server: HubStandIn, hub: Hub) -> None:
        move(server, "1" * 40)
        plan = weights.download(hub=replace(hub, revision="main"), config=SMALL)
        pinned = {repository.name: repository.revision for repository in hub.manifest.repositories}
        for file in plan:
            name, revision = file.file.repository.name, file.file.repository.revision
            assert revision == ("1" * 40 if name == PERSONALIVE else pinned[name])

    def test_changed_file_is_refused(self, server: HubStandIn, hub: Hub) -> None:
        move(server, "1" * 40)
        resolve(replace(hub, revision="main"))
        (path,) = hub.cache.glob("models--*/snapshots/*/*/*/pose_guider.pth")
        content = path.read_bytes()
        path.resolve().write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with refused("pose_guider.pth", "damaged or was changed"):
            resolve(hub)
        weights.download(hub=hub, config=SMALL)
        assert path.read_bytes() == content

    @pytest.mark.slow
    def test_files_of_another_model_are_refused_and_not_recorded(self, server: HubStandIn, hub: Hub) -> None:
        lack(move(server, "1" * 40) / INSIDE / "pose_guider.pth", "conv_in.bias")
        with refused(f"{PERSONALIVE}@11111111 do not make this model", "not recorded", "conv_in.bias"):
            resolve(replace(hub, revision="main"))
        with refused("does not have revision", PINNED):
            resolve(hub)

    @pytest.mark.slow
    def test_digests_of_the_pinned_commit_do_not_count(self, server: HubStandIn, hub: Hub) -> None:
        known = FileDigest(1, "0" * 64)
        files = (replace(file, known=dict.fromkeys(file.names, known)) for file in hub.manifest.files)
        files = (file if file.repository.name == PERSONALIVE else replace(file, known={}) for file in files)
        hub = replace(hub, manifest=Manifest(tuple(files)))
        move(server, "1" * 40)
        assert resolve(replace(hub, revision="main")).checked
        assert resolve(hub).checked

    def test_one_that_is_not_there_either(self, server: HubStandIn, hub: Hub) -> None:
        move(server, "1" * 40)
        with refused(PINNED, "does not have revision nowhere", "--revision REV"):
            resolve(replace(hub, revision="nowhere"))

    def test_where_the_pinned_ones_are_there_it_is_not_used(
        self, server: HubStandIn, hub: Hub, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.INFO):
            weights.download(hub=replace(hub, revision="main"), config=SMALL)
        assert "every pinned commit is there, so revision main is not used" in caplog.text
        assert not list(hub.cache.glob("*/personalive-revision.json"))

    @pytest.mark.slow
    def test_a_later_request_replaces_the_record(self, server: HubStandIn, hub: Hub, states: dict[str, State]) -> None:
        folder = move(server, "1" * 40)
        resolve(replace(hub, revision="main"))
        edit(folder / INSIDE / "pose_guider.pth", lambda state: state | {"conv_in.bias": torch.zeros(8)})
        move(server, "2" * 40)
        resolve(replace(hub, revision="2" * 40))
        module, _ = load(resolve(hub), "pose_guider")
        assert not module.conv_in.bias.any()

    @pytest.mark.slow
    def test_conversions_are_of_the_revision(
        self, server: HubStandIn, filled: Hub, caplog: pytest.LogCaptureFixture
    ) -> None:
        (folder,) = filled.cache.glob("models--huaichang--PersonaLive/snapshots/*")
        (folder / BIG).unlink()
        move(server, "1" * 40)
        hub = replace(filled, address=server.url, revision="main")
        for link in folder.rglob("*.pth"):
            link.unlink()
        assert resolve(hub).published
        with caplog.at_level(logging.WARNING):
            assert resolve(hub, dtype=torch.float16).published
        assert "converted from other weights" in caplog.text
        weights.convert(hub=hub, config=SMALL)
        assert not resolve(hub, dtype=torch.float16).published

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"revision": "../x", "pinned": "a", "hub": "", "asked": ""}'])
    def test_a_damaged_record_is_named(self, filled: Hub, text: str) -> None:
        path = filled.cache / "models--huaichang--PersonaLive" / "personalive-revision.json"
        path.write_text(text)
        with refused(str(path), "damaged", "delete it"):
            resolve(filled)

    def test_the_record_of_a_package_with_other_pins_is_left(self, filled: Hub) -> None:
        path = filled.cache / "models--huaichang--PersonaLive" / "personalive-revision.json"
        path.write_text(json.dumps({"revision": "1" * 40, "pinned": "2" * 40, "hub": "", "asked": "main"}))
        assert resolve(filled).origin[PERSONALIVE] == PINNED


class TestFileServer:
    """A mirror that has the files and nothing that vouches for them."""

    @pytest.fixture
    def server(self, server: HubStandIn) -> HubStandIn:
        server.faults.kind = "files"
        return server

    def test_files_are_taken_with_a_warning_and_held_to(
        self, server: HubStandIn, hub: Hub, states: dict[str, State], caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.WARNING):
            source = resolve(hub)
        (warning,) = [record.message for record in caplog.records if "no digest is known of" in record.message]
        assert "pose_guider.pth" in warning and "only their structure is checked" in warning
        assert source.checked
        assert_holds(source, states)
        assert not list(hub.cache.glob(f"*/snapshots/{PINNED}")), "no program may take them for the hub's"
        server.stop()
        later = Hub(home=hub.home)
        assert resolve(later).files == source.files
        path = source.files["pose_guider"][0].path
        path.write_bytes(path.read_bytes()[:-1] + b"!")
        with refused("pose_guider.pth", "damaged or was changed"):
            resolve(later)

    def test_pinned_digest_counts(self, server: HubStandIn, hub: Hub) -> None:
        size = (server.repositories[PERSONALIVE].folder / INSIDE / "pose_guider.pth").stat().st_size
        known = FileDigest(size, "0" * 64)
        files = (
            replace(file, known=dict.fromkeys(file.names, known)) if file.network == "pose_guider" else file
            for file in hub.manifest.files
        )
        with refused("pose_guider.pth", "damaged or was changed", "expected " + "0" * 64):
            resolve(replace(hub, manifest=Manifest(tuple(files))))

    def test_pinned_size_counts_before_the_download(self, server: HubStandIn, hub: Hub) -> None:
        known = FileDigest(1, "0" * 64)
        files = (
            replace(file, known=dict.fromkeys(file.names, known)) if file.network == "pose_guider" else file
            for file in hub.manifest.files
        )
        with refused("pose_guider.pth", "are known", "not downloaded"):
            resolve(replace(hub, manifest=Manifest(tuple(files))))

    @pytest.mark.slow
    def test_broken_connection_continues_where_it_stopped(
        self, server: HubStandIn, hub: Hub, states: dict[str, State]
    ) -> None:
        edit(server.repositories[PERSONALIVE].folder / BIG, lambda s: s | {"unknown": torch.zeros(5_000_000)})
        server.faults.cuts, server.faults.cut_path = [CLIENT_BLOCK + 1000], BIG
        assert torch.equal(
            load(resolve(hub), "denoising_unet")[0].conv_in.bias, states["denoising_unet"]["conv_in.bias"]
        )
        assert [request.start for request in server.fetched(BIG)] == [0, CLIENT_BLOCK]

    @pytest.mark.slow
    def test_files_of_another_model_leave_nothing(self, server: HubStandIn, hub: Hub) -> None:
        path = server.repositories[PERSONALIVE].folder / INSIDE / "pose_guider.pth"
        whole = torch.load(path, weights_only=True)
        lack(path, "conv_in.bias")
        with refused("do not make this model", "not recorded", "conv_in.bias"):
            resolve(hub)
        edit(path, lambda _: whole)
        assert not load(resolve(hub), "pose_guider")[1].computed

    def test_a_page_instead_of_a_file(self, server: HubStandIn, hub: Hub) -> None:
        path = server.repositories[PERSONALIVE].folder / INSIDE / "motion_encoder.pth"
        path.unlink()
        path.write_text("<html>log in first</html>")
        with refused("do not make this model", "motion_encoder.pth"):
            resolve(hub)

    def test_no_such_revision(self, server: HubStandIn, hub: Hub) -> None:
        move(server, "1" * 40)
        with refused(f"{server.url} has nothing of {PERSONALIVE} at revision {PINNED}", "--revision REV"):
            resolve(hub)
        assert resolve(replace(hub, revision="main")).origin[PERSONALIVE].startswith("main@")


class TestModelScope:
    """The paths and answers that ModelScope's published client expects."""

    @pytest.fixture
    def server(self, server: HubStandIn, monkeypatch: pytest.MonkeyPatch) -> HubStandIn:
        server.faults.kind = "modelscope"
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", server.url)
        for name, stored in server.repositories.items():
            server.repositories[name] = replace(stored, branches=("master", "v1.0"))
        return server

    @pytest.fixture
    def hub(self, server: HubStandIn, tmp_path: Path) -> Hub:
        return Hub("modelscope", home=tmp_path / "home")

    @pytest.mark.slow
    def test_files_are_checked_and_held_to(self, server: HubStandIn, hub: Hub, states: dict[str, State]) -> None:
        source = resolve(hub)
        assert source.checked
        assert_holds(source, states)
        assert not list(hub.cache.glob(f"*/snapshots/{PINNED}")), "no program may take them for the Hugging Face hub's"
        edit(
            server.repositories[PERSONALIVE].folder / INSIDE / "pose_guider.pth",
            lambda s: s | {"conv_in.bias": torch.zeros(8)},
        )
        assert resolve(hub).files == source.files
        server.stop()
        assert resolve(Hub(home=hub.home)).files == source.files

    def test_wrong_content_is_refused(self, server: HubStandIn, hub: Hub) -> None:
        server.faults.corrupt.add(BIG)
        with refused("denoising_unet.pth", "damaged or was changed", "expected"):
            resolve(hub)

    def test_pinned_digest_counts(self, server: HubStandIn, hub: Hub) -> None:
        files = (
            replace(file, known=dict.fromkeys(file.names, FileDigest(None, "0" * 64)))
            if file.network == "vae"
            else file
            for file in hub.manifest.files
        )
        with refused("ModelScope offers", "sd-vae-ft-mse", "0" * 64, "not downloaded"):
            resolve(replace(hub, manifest=Manifest(tuple(files))))

    @pytest.mark.parametrize("digest", ["../../outside", None, 5])
    def test_digest_that_is_none_is_refused(self, server: HubStandIn, hub: Hub, digest: object) -> None:
        server.faults.claim[BIG] = {"Sha256": digest}
        with refused("denoising_unet.pth", repr(digest)):
            resolve(hub)

    def test_a_revision_of_its_own(self, server: HubStandIn, hub: Hub) -> None:
        source = resolve(replace(hub, revision="v1.0"))
        assert source.origin[PERSONALIVE].startswith("v1.0@modelscope-")
        with refused("ModelScope does not have revision v2.0", "--revision REV"):
            resolve(replace(hub, revision="v2.0"))

    @pytest.mark.slow
    def test_what_it_no_longer_has_needs_a_word_of_the_user(self, server: HubStandIn, hub: Hub) -> None:
        source = resolve(hub)
        path = server.repositories[PERSONALIVE].folder / INSIDE / "pose_guider.pth"
        edit(path, lambda state: state | {"conv_in.bias": torch.zeros(8)})
        source.files["pose_guider"][0].path.unlink()
        with refused("ModelScope does not have revision master@modelscope-", "--revision REV"):
            resolve(hub)
        module, _ = load(resolve(replace(hub, revision="master")), "pose_guider")
        assert not module.conv_in.bias.any()

    @pytest.mark.slow
    def test_repositories_that_it_lacks_come_from_the_hugging_face_hub(
        self, server: HubStandIn, hub: Hub, pristine: Path, tmp_path: Path
    ) -> None:
        with HubStandIn(as_repositories(pristine, tmp_path / "hugging face")) as other:
            del server.repositories["stabilityai/sd-vae-ft-mse"]
            environment = {"HF_HOME": str(tmp_path / "elsewhere"), "HF_ENDPOINT": other.url}
            result = start("-c", PROGRAM, **environment, PERSONALIVE_HUB="modelscope")
            assert result.returncode == 0, result.stderr
            assert "sd-vae-ft-mse@31f26fde/" in result.stdout and "PersonaLive@master@modelscope-" in result.stdout
            assert {
                request.path.split("/resolve/")[0] for request in other.requests if "/resolve/" in request.path
            } == {"/stabilityai/sd-vae-ft-mse"}


PROGRAM = (
    "from personalive import weights; from tests.published_layout import SMALL;"
    " print(weights.resolve(config=SMALL).files)"
)


class TestUsersWord:
    @pytest.mark.slow
    def test_environment_names_mirror_and_revision(self, server: HubStandIn, tmp_path: Path) -> None:
        """As for a service, which has no options of its own for it."""
        move(server, "1" * 40)
        result = start(
            "-c",
            PROGRAM,
            HF_HOME=str(tmp_path / "elsewhere"),
            HF_TOKEN="hf_secret",
            PERSONALIVE_HUB=server.url,
            PERSONALIVE_REVISION="main",
        )
        assert f"PersonaLive@{'1' * 8}/" in result.stdout, result.stderr
        assert {request.authorization for request in server.requests} == {None}, "a mirror is not sent the user's token"

    @pytest.mark.slow
    def test_options_of_the_command(self, server: HubStandIn, tmp_path: Path) -> None:
        move(server, "1" * 40)
        command = ("-m", "personalive.cli.main", "download", "--hub", server.url, "--revision", "main", "--dry_run")
        result = start(*command, HF_HOME=str(tmp_path / "elsewhere"))
        assert f"PersonaLive@{'1' * 8}/{BIG}" in result.stdout, result.stderr

    @pytest.mark.parametrize(
        "address", ["nowhere", "ftp://host/", "http://", "https://me:secret@host", "http://host/?a=1"]
    )
    def test_what_is_no_hub_is_refused(self, hub: Hub, address: str) -> None:
        with pytest.raises(InputError, match="it must be huggingface, modelscope, or the address of a mirror"):
            resolve(replace(hub, address=address))

    def test_the_hub_by_name_leads_back_to_the_pinned_commit(self, filled: Hub) -> None:
        path = filled.cache / "models--huaichang--PersonaLive" / "personalive-revision.json"
        path.write_text(json.dumps({"revision": "1" * 40, "pinned": PINNED, "hub": "modelscope", "asked": ""}))
        hub = Hub(home=filled.home)
        with refused("missing"):
            resolve(hub, download=False)
        assert resolve(replace(hub, address="huggingface"), download=False).origin[PERSONALIVE] == PINNED
