"""Brings the published files into the hub's cache: only what is missing or damaged, each checked once it is there."""

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from personalive.config import ModelConfig
from personalive.errors import InputError, WeightsError
from personalive.models import NETWORKS, build_network
from personalive.weights.hf_config_check import check_hf_config
from personalive.weights.hub import REVISION_VARIABLE, Hub
from personalive.weights.manifest import FileDigest, Held, PublishedFile, Repository
from personalive.weights.remotes import (
    Listing,
    Remote,
    RepositoryAbsentError,
    RevisionGoneError,
    open_remotes,
)
from personalive.weights.source import PUBLISHED
from personalive.weights.state_dict import merge_state_dict, missing_names

logger = logging.getLogger(__name__)

_OTHER_REVISION = (
    f"`personalive download --revision REV` (or {REVISION_VARIABLE}=REV) takes another revision, for example main: its "
    "files are checked for structure, recorded, and held to from then on."
)
FileState = Literal["present", "missing", "perhaps needed", "not needed"]


@dataclass(frozen=True)
class PlannedFile:
    """One published file, and what a download does or did about it."""

    file: PublishedFile
    name: str
    """The format that is there or that the remote has."""
    size: int | None
    """Bytes."""
    state: FileState
    remote: Remote | None = None
    """Where a file that is not there comes from."""
    expected: FileDigest | None = None
    """What the remote or the manifest says of it."""

    @property
    def label(self) -> str:
        """Repository, revision and path."""
        return self.file.label(self.name)


def download(
    source: str = PUBLISHED, *, dry_run: bool = False, hub: Hub | None = None, config: ModelConfig | None = None
) -> list[PlannedFile]:
    """Download what is missing and check everything, byte for byte.

    An interrupted download continues where it stopped. A damaged file is fetched again. The base UNet (3.4 GB) is
    fetched only if the other files do not hold all its tensors.

    Args:
        dry_run: only say what would be done.
        hub: None: as the environment says (see `Hub`).
        config: sizes of the networks; None: the published ones.

    Raises:
        InputError: the source is not one that can be downloaded, or the hub is none.
        WeightsError: the hub cannot be reached, lacks a file or a pinned commit, offers another file than the manifest
            knows, or sends one that does not have its digest; or the disk is too small.
    """
    if source != PUBLISHED:
        raise InputError(f"only {PUBLISHED!r} can be downloaded, not {source!r}")
    hub, plan = _survey((hub or Hub()).held(), thorough=not dry_run)
    if hub.revision and not any(repository.held for repository in hub.manifest.repositories):
        logger.info("every pinned commit is there, so revision %s is not used", hub.revision)
    return plan if dry_run else _carry_out(hub, plan, config or ModelConfig())


def complete(hub: Hub, config: ModelConfig) -> Hub:
    """Download what is missing; cached files are checked again only if they have changed.

    Returns:
        The hub at the revisions that are now there.
    """
    hub, plan = _survey(hub, thorough=False)
    _carry_out(hub, plan, config)
    return hub


def _survey(hub: Hub, *, thorough: bool) -> tuple[Hub, list[PlannedFile]]:
    """Which files are cached, and which revisions the remotes offer for the others."""
    plan: list[PlannedFile] = []
    for repository in hub.manifest.repositories:
        found = _present(hub, repository, thorough=thorough)
        if None in found:
            located, listing = _locate(hub, repository)
            if located != repository:
                hub = replace(hub, manifest=hub.manifest.at(located))
                found = _present(hub, located, thorough=thorough)
            files = hub.manifest.of(located)
            plan += [there or _expect(file, listing) for file, there in zip(files, found, strict=True)]
        else:
            plan += filter(None, found)
    return hub, plan


def _present(hub: Hub, repository: Repository, *, thorough: bool) -> list[PlannedFile | None]:
    """A repository's files that are in the cache and sound, None for the others."""
    plan: list[PlannedFile | None] = []
    for file in hub.manifest.of(repository):
        found = hub.cached(file)
        if found is not None and _is_sound(hub, file, *found, thorough=thorough):
            plan.append(PlannedFile(file, found[0], found[1].stat().st_size, "present"))
        else:
            plan.append(None)
    return plan


def _is_sound(hub: Hub, file: PublishedFile, name: str, path: Path, *, thorough: bool) -> bool:
    try:
        if not hub.check(file, name, path, thorough=thorough):
            logger.warning("%s: nothing is recorded to check %s against", file.label(name), path)
    except WeightsError as error:
        logger.warning("%s", error)
        return False
    return True


def _locate(hub: Hub, repository: Repository) -> tuple[Repository, Listing]:
    """Which remote has a repository, and at which revision: the current one, or else the user's."""
    paths = [file.hub_path(name) for file in hub.manifest.of(repository) for name in file.names]
    held, asked = repository.held, hub.wanted_revision
    address = hub.wanted_address or (held.hub if held else "")
    remotes = open_remotes(address)
    for remote in remotes:
        first = repository.revision if held or remote.branch is None else asked or remote.branch
        try:
            revision, listing = _list(remote, repository.name, (first, asked), paths)
            break
        except RepositoryAbsentError as error:
            if remote is remotes[-1]:
                raise
            logger.warning("%s", error)
    pinned = held.pinned if held else repository.revision
    if listing.revision == pinned:
        return replace(repository, revision=pinned, held=None), listing
    if listing.revision == repository.revision:
        return repository, listing
    reason = Held(pinned, address, asked or "" if revision == asked else "")
    return replace(repository, revision=listing.revision, held=reason), listing


def _list(
    remote: Remote, repository: str, revisions: Sequence[str | None], paths: Sequence[str]
) -> tuple[str, Listing]:
    """The first of these revisions that the remote has, and its listing."""
    gone: dict[str, None] = {}
    for revision in filter(None, revisions):
        try:
            return revision, remote.listing(repository, revision, paths)
        except RevisionGoneError as error:
            gone[str(error)] = None
    raise WeightsError(f"{'; '.join(gone)}. {_OTHER_REVISION}")


def _expect(file: PublishedFile, listing: Listing) -> PlannedFile:
    """The preferred format that the remote has, and what it must be."""
    for name in file.names:
        listed, known = listing.files.get(file.hub_path(name)), file.known.get(name)
        if listed is None:
            continue
        if known is not None and known.contradicts(listed):
            raise WeightsError(
                f"{listing.remote.name} offers {file.label(name)} with {listed.size} bytes and digest {listed.digest}, "
                f"but {known.size} bytes and {known.digest} are known: it is not downloaded"
            )
        state: FileState = "perhaps needed" if file.kind == "base" else "missing"
        return PlannedFile(file, name, listed.size, state, listing.remote, known or listed)
    names, repository = " or ".join(map(file.hub_path, file.names)), file.repository
    raise WeightsError(f"{listing.remote.name} has no {names} in {repository.name} at revision {repository.revision}")


def _carry_out(hub: Hub, plan: list[PlannedFile], config: ModelConfig) -> list[PlannedFile]:
    """Download what is missing; the base UNet last, when it is known whether it is needed."""
    missing = [planned for planned in plan if planned.state == "missing"]
    for repository in dict.fromkeys(planned.file.repository for planned in missing):
        logger.info("licence of %s: %s", repository.name, repository.licence)
    unvouched = [planned.label for planned in missing if planned.expected and planned.expected.digest is None]
    if unvouched:
        logger.warning("no digest is known of %s: only their structure is checked", ", ".join(unvouched))
    hub.require_space(sum(planned.size or 0 for planned in missing))
    plan = [_fetch(hub, planned) if planned.state == "missing" else planned for planned in plan]
    for index, planned in enumerate(plan):
        if planned.state == "perhaps needed":
            if base_needed(hub, config):
                plan[index] = _fetch(hub, planned)
            else:
                logger.info("%s is not needed: the other files hold all its tensors", planned.label)
                plan[index] = replace(planned, state="not needed")
    _hold(hub, config)
    return plan


def _fetch(hub: Hub, planned: PlannedFile) -> PlannedFile:
    assert planned.remote is not None and planned.expected is not None
    logger.info("downloading %s from %s", planned.label, planned.remote.name)
    hub.fetch(planned.remote, planned.file, planned.name, planned.expected)
    return replace(planned, state="present")


def base_needed(hub: Hub, config: ModelConfig) -> bool:
    """Whether the other files of the denoising UNet, all in the cache, lack tensors that the base UNet has."""
    source = hub.source(config)
    others = tuple(file for file in source.files["denoising_unet"] if not file.base)
    with torch.device("meta"):
        network = build_network("denoising_unet", config)
    return bool(missing_names(replace(source, files={"denoising_unet": others}), "denoising_unet", network))


def _hold(hub: Hub, config: ModelConfig) -> None:
    """Record revisions that are not the pinned ones, once their files make a model."""
    changed = [repository for repository in hub.manifest.repositories if not hub.is_recorded(repository)]
    moved = [repository for repository in changed if repository.held]
    try:
        if moved:
            _check_structure(hub, config)
    except WeightsError as error:
        for repository in moved:
            if "@" in repository.revision:  # no other program has a use for them
                shutil.rmtree(hub.folder(repository) / "snapshots" / repository.revision)
        labels = ", ".join(repository.label for repository in moved)
        raise WeightsError(f"the files of {labels} do not make this model, and are not recorded: {error}") from error
    for repository in changed:
        hub.hold(repository)


def _check_structure(hub: Hub, config: ModelConfig) -> None:
    source = hub.source(config)
    for file in hub.manifest.files:
        if file.kind == "config" and (found := hub.cached(file)) is not None:
            check_hf_config(file.network, found[1], config)
    for network in NETWORKS:
        with torch.device("meta"):
            module = build_network(network, config)
        with merge_state_dict(source, network, module):
            pass
