"""Brings the published files into the hub's cache: only what is missing or damaged, each checked once it is there."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from personalive.config import ModelConfig
from personalive.errors import InputError, WeightsError
from personalive.models import build_network
from personalive.weights.hub import Hub
from personalive.weights.manifest import FileDigest, PublishedFile
from personalive.weights.source import PUBLISHED
from personalive.weights.state_dict import missing_names

logger = logging.getLogger(__name__)

FileState = Literal["present", "missing", "perhaps needed", "not needed"]


@dataclass(frozen=True)
class PlannedFile:
    """One published file, and what a download does or did about it."""

    file: PublishedFile
    name: str
    """The format that is there or that the hub has."""
    size: int | None
    """Bytes."""
    state: FileState
    expected: FileDigest | None = None
    """What the hub says of a file that is not there."""

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
        hub: None: as `HF_ENDPOINT` and `HF_HOME` say.
        config: sizes of the networks; None: the published ones.

    Raises:
        InputError: the source is not one that can be downloaded.
        WeightsError: the hub cannot be reached, lacks a file, offers another than the manifest knows, or sends one
            that does not have its digest; or the disk is too small.
    """
    if source != PUBLISHED:
        raise InputError(f"only {PUBLISHED!r} can be downloaded, not {source!r}")
    hub = hub or Hub()
    plan = _survey(hub, thorough=not dry_run)
    return plan if dry_run else _carry_out(hub, plan, config or ModelConfig())


def complete(hub: Hub, config: ModelConfig) -> None:
    """Download what is missing; what is there is checked only where it changed since it was."""
    _carry_out(hub, _survey(hub, thorough=False), config)


def _survey(hub: Hub, *, thorough: bool) -> list[PlannedFile]:
    listings: dict[str, dict[str, FileDigest]] = {}
    plan = []
    for file in hub.manifest.files:
        found = hub.cached(file)
        if found is not None and _is_sound(hub, file, *found, thorough=thorough):
            plan.append(PlannedFile(file, found[0], found[1].stat().st_size, "present"))
            continue
        if file.repository.name not in listings:
            listings[file.repository.name] = hub.listing(file.repository)
        plan.append(_expect(file, listings[file.repository.name]))
    return plan


def _is_sound(hub: Hub, file: PublishedFile, name: str, path: Path, *, thorough: bool) -> bool:
    try:
        if not hub.check(file, name, path, thorough=thorough):
            logger.warning("%s: nothing is recorded to check %s against", file.label(name), path)
    except WeightsError as error:
        logger.warning("%s", error)
        return False
    return True


def _expect(file: PublishedFile, listing: Mapping[str, FileDigest]) -> PlannedFile:
    """The preferred format that the hub has, and what it must be."""
    for name in file.names:
        listed, known = listing.get(file.hub_path(name)), file.known.get(name)
        if listed is None:
            continue
        if known not in (None, listed):
            raise WeightsError(
                f"the hub offers {file.label(name)} with {listed.size} bytes and digest {listed.digest}, but "
                f"{known.size} bytes and {known.digest} are known: it is not downloaded"
            )
        return PlannedFile(file, name, listed.size, "perhaps needed" if file.kind == "base" else "missing", listed)
    names, repository = " or ".join(map(file.hub_path, file.names)), file.repository
    raise WeightsError(f"the hub has no {names} in {repository.name} at revision {repository.revision}")


def _carry_out(hub: Hub, plan: list[PlannedFile], config: ModelConfig) -> list[PlannedFile]:
    """Download what is missing; the base UNet last, when it is known whether it is needed."""
    missing = [planned for planned in plan if planned.state == "missing"]
    for repository in dict.fromkeys(planned.file.repository for planned in missing):
        logger.info("licence of %s: %s", repository.name, repository.licence)
    hub.require_space(sum(planned.size or 0 for planned in missing))
    plan = [_fetch(hub, planned) if planned.state == "missing" else planned for planned in plan]
    for index, planned in enumerate(plan):
        if planned.state == "perhaps needed":
            if base_needed(hub, config):
                plan[index] = _fetch(hub, planned)
            else:
                logger.info("%s is not needed: the other files hold all its tensors", planned.label)
                plan[index] = replace(planned, state="not needed")
    return plan


def _fetch(hub: Hub, planned: PlannedFile) -> PlannedFile:
    assert planned.expected is not None
    logger.info("downloading %s", planned.label)
    hub.fetch(planned.file, planned.name, planned.expected)
    return replace(planned, state="present")


def base_needed(hub: Hub, config: ModelConfig) -> bool:
    """Whether the other files of the denoising UNet, all in the cache, lack tensors that the base UNet has."""
    source = hub.source(config)
    others = tuple(file for file in source.files["denoising_unet"] if not file.base)
    with torch.device("meta"):
        network = build_network("denoising_unet", config)
    return bool(missing_names(replace(source, files={"denoising_unet": others}), "denoising_unet", network))
