"""Brings the published files into the hub's cache: only what is missing or damaged, each checked when it has come."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from personalive.config import ModelConfig
from personalive.errors import InputError, WeightsError
from personalive.models import build_network
from personalive.weights.hub import Hub, ProgressCallback, expected_of, log_progress
from personalive.weights.manifest import Known, PublishedFile
from personalive.weights.source import WeightsFile, WeightsSource
from personalive.weights.state_dict import missing_names

logger = logging.getLogger(__name__)

PUBLISHED = "personalive"
"""The name of the published model as a source."""

FileState = Literal["present", "missing", "perhaps needed", "not needed"]


@dataclass(frozen=True)
class PlannedFile:
    """One published file and what a download does, or did, about it."""

    network: str
    repository: str
    revision: str
    path: str
    """Inside the repository."""
    size: int | None
    """Bytes."""
    state: FileState
    licence: str


@dataclass(frozen=True)
class _Step:
    file: PublishedFile
    name: str
    known: Known | None
    """What the hub says; None for a file that is there."""
    state: FileState
    damaged: bool = False


def download(
    source: str = PUBLISHED,
    *,
    dry_run: bool = False,
    progress: ProgressCallback | None = None,
    hub: Hub | None = None,
    config: ModelConfig | None = None,
) -> list[PlannedFile]:
    """Download what is missing and check everything, byte for byte.

    An interrupted download goes on where it stopped. A damaged file is fetched anew. The base UNet (3.4 GB) is fetched
    only if the other files do not hold all its tensors.

    Args:
        dry_run: only say what would be done.
        progress: told every few seconds how far a file is; None: bars on a terminal, lines in the log elsewhere.
        hub: None: as `HF_ENDPOINT` and `HF_HOME` say.
        config: sizes of the networks; None: the published ones.

    Raises:
        InputError: the source is not one that can be downloaded.
        WeightsError: the hub can not be reached, lacks a file, offers another than the manifest knows, or sends one
            that does not have its digest; or the disk is too small.
    """
    if source != PUBLISHED:
        raise InputError(f"only {PUBLISHED!r} can be downloaded, not {source!r}")
    hub = hub or Hub()
    steps = _survey(hub, thorough=not dry_run)
    if not dry_run:
        steps = fetch_missing(hub, steps, config or ModelConfig(), progress or log_progress())
    return [_planned(hub, step) for step in steps]


def complete(hub: Hub, config: ModelConfig, progress: ProgressCallback | None) -> None:
    """Download what is missing; what is there is checked only where it changed since it was."""
    fetch_missing(hub, _survey(hub, thorough=False), config, progress or log_progress())


def fetch_missing(hub: Hub, steps: list[_Step], config: ModelConfig, progress: ProgressCallback) -> list[_Step]:
    """Carry out the steps; the base UNet last, when it is known whether it is needed."""
    for repository in dict.fromkeys(step.file.repository for step in steps if step.state == "missing"):
        logger.info("licence of %s: %s", repository.name, repository.licence)
    hub.require_space(sum(step.known.size or 0 for step in steps if step.known and step.state == "missing"))
    steps = [step if step.file.kind == "base" else _carry_out(hub, step, progress) for step in steps]
    return [_carry_out_base(hub, config, step, progress) if step.file.kind == "base" else step for step in steps]


def _survey(hub: Hub, *, thorough: bool) -> list[_Step]:
    listed: dict[str, dict[str, Known]] = {}
    steps = []
    for file in hub.manifest.files:
        found = hub.cached(file)
        damaged = found is not None and not _is_sound(hub, file, *found, thorough=thorough)
        if found is not None and not damaged:
            steps.append(_Step(file, found[0], None, "present"))
            continue
        if file.repository.name not in listed:
            listed[file.repository.name] = hub.listing(file.repository)
        expected = expected_of(file, listed[file.repository.name])
        if expected is None:
            raise WeightsError(
                f"the hub has no {' or '.join(map(file.hub_path, file.names))} in {file.repository.name} "
                f"at revision {file.repository.revision}"
            )
        state: FileState = "perhaps needed" if file.kind == "base" else "missing"
        steps.append(_Step(file, *expected, state, damaged))
    return steps


def _is_sound(hub: Hub, file: PublishedFile, name: str, path: Path, *, thorough: bool) -> bool:
    try:
        if not hub.check(file, name, path, None, thorough=thorough):
            logger.warning("%s: nothing is recorded to check %s against", file.label(name), path)
    except WeightsError as error:
        logger.warning("%s", error)
        return False
    return True


def _carry_out(hub: Hub, step: _Step, progress: ProgressCallback) -> _Step:
    if step.known is None:
        return step
    logger.info("downloading %s", step.file.label(step.name))
    hub.fetch(step.file, step.name, step.known, progress, anew=step.damaged)
    return replace(step, known=None, state="present")


def _carry_out_base(hub: Hub, config: ModelConfig, step: _Step, progress: ProgressCallback) -> _Step:
    if step.known is None or base_needed(hub, config):
        return _carry_out(hub, step, progress)
    logger.info("%s is not needed: the other files hold all its tensors", step.file.label(step.name))
    return replace(step, state="not needed")


def base_needed(hub: Hub, config: ModelConfig) -> bool:
    """Whether the other files of the denoising UNet, all in the cache, lack tensors that the base UNet has."""
    source = cached_source(hub, config, check=lambda file, name, path: True)
    others = tuple(file for file in source.files["denoising_unet"] if not file.base)
    with torch.device("meta"):
        network = build_network("denoising_unet", config)
    return bool(missing_names(replace(source, files={"denoising_unet": others}), "denoising_unet", network))


def cached_source(hub: Hub, config: ModelConfig, check: Callable[[PublishedFile, str, Path], bool]) -> WeightsSource:
    """The files with tensors that the cache has.

    Args:
        check: compares a file with what is known of it; False where nothing is.
    """
    files: dict[str, tuple[WeightsFile, ...]] = {}
    checked, absent_base = True, ""
    for file in hub.manifest.files:
        found = hub.cached(file)
        if found is None:
            if file.kind == "base":
                absent_base = file.label(file.names[-1])
            continue
        name, path = found
        checked &= check(file, name, path)
        if file.kind != "config":
            entry = WeightsFile(path, file.label(name), file.kind == "base")
            files[file.network] = (*files.get(file.network, ()), entry)
    return WeightsSource(PUBLISHED, config, files, published=True, checked=checked, absent_base=absent_base)


def _planned(hub: Hub, step: _Step) -> PlannedFile:
    found = hub.cached(step.file)
    size = step.known.size if step.known else found[1].stat().st_size if found else None
    repository = step.file.repository
    return PlannedFile(
        network=step.file.network,
        repository=repository.name,
        revision=repository.revision,
        path=step.file.hub_path(step.name),
        size=size,
        state=step.state,
        licence=repository.licence,
    )
