"""Finds the weights of a model: in the hub's cache, in a conversion of it, in a folder, in the repository."""

import logging
from dataclasses import replace
from pathlib import Path

import torch

from personalive.config import ModelConfig
from personalive.errors import InputError, WeightsError
from personalive.weights.checksum_cache import ChecksumCache, check_file
from personalive.weights.downloads import base_needed, complete
from personalive.weights.folder import CONFIG, open_folder
from personalive.weights.hf_config_check import check_hf_config
from personalive.weights.hub import Hub
from personalive.weights.manifest import PublishedFile, published
from personalive.weights.source import DOWNLOAD_HINT, PUBLISHED, WeightsFile, WeightsSource, model_folder

logger = logging.getLogger(__name__)


def resolve(
    source: str | Path = PUBLISHED,
    *,
    download: bool = True,
    dtype: torch.dtype | None = None,
    config: ModelConfig | None = None,
    hub: Hub | None = None,
) -> WeightsSource:
    """Find and check the weights of every network; no tensor is read yet.

    Args:
        source: "personalive" (the published weights), "demo" (the small model of the repository), or a folder: one in
            the published layout (docs/reference/weights.md section 1), or one that `save_folder` or `convert` wrote.
        download: fetch missing published files; otherwise they are an error.
        dtype: of the model that is to be loaded. A conversion of the published weights to it is preferred.
        config: sizes of the networks in files of the published layout; None: the published sizes. A folder in this
            package's own format has its own.
        hub: None: as the environment says (see `Hub`).

    Raises:
        WeightsError: a file is missing, cannot be downloaded, is damaged, or belongs to another model.
        InputError: a configuration cannot be read.
    """
    if str(source) == PUBLISHED:
        return _from_hub((hub or Hub()).held(), config or ModelConfig(), dtype, download)
    folder = model_folder(source)
    if (folder / CONFIG).exists():
        return _from_own_format(folder, str(source))
    return _from_published_layout(folder, config or ModelConfig())


def conversion_folder(hub: Hub, dtype: torch.dtype) -> Path:
    """Where the published weights are once they have been converted to a dtype."""
    return hub.conversions / str(dtype).removeprefix("torch.")


def _from_hub(hub: Hub, config: ModelConfig, dtype: torch.dtype | None, download: bool) -> WeightsSource:
    converted = _converted(hub, config, dtype) if dtype is not None else None
    if converted is not None:
        return converted
    absent = _absent(hub, config)
    if absent and not download:
        looked = "; ".join(f"{file.label(file.names[-1])} in {hub.folder(file.repository)}" for file in absent)
        raise WeightsError(f"{len(absent)} weights files are missing, looked for {looked}. {DOWNLOAD_HINT}.")
    if absent:
        hub = complete(hub, config)
    checked = True
    for file in hub.manifest.files:
        if (found := hub.cached(file)) is not None:
            checked &= hub.check(file, *found)
            if file.kind == "config":
                check_hf_config(file.network, found[1], config)
    if not checked:
        logger.warning("no digests are recorded for the files in %s: only their structure was checked", hub.cache)
    return replace(hub.source(config), checked=checked)


def _absent(hub: Hub, config: ModelConfig) -> list[PublishedFile]:
    absent = [file for file in hub.manifest.files if hub.cached(file) is None]
    if absent and all(file.kind == "base" for file in absent) and not base_needed(hub, config):
        return []
    return absent


def _converted(hub: Hub, config: ModelConfig, dtype: torch.dtype) -> WeightsSource | None:
    folder = conversion_folder(hub, dtype)
    if not (folder / CONFIG).exists():
        return None
    try:
        source, recorded = open_folder(folder, PUBLISHED)
    except (InputError, WeightsError) as error:
        logger.warning("the conversion of the weights is not used: %s", error)
        return None
    if source.origin != hub.manifest.origin or source.config != config:
        logger.warning("%s was converted from other weights and is not used; convert them again", folder)
        return None
    checksums = ChecksumCache(folder / "verified.json")
    for path, expected in recorded.items():
        remedy = f"Delete {folder}, or convert again."
        checksums.check(path.name, path, str(path), expected, remedy=remedy)
    return source


def _from_own_format(folder: Path, name: str) -> WeightsSource:
    source, recorded = open_folder(folder, name)
    for path, expected in recorded.items():
        check_file(path, path.name, expected, "Copy the folder again from its source.")
    if not recorded:
        _warn_unrecorded(folder)
    return source


def _from_published_layout(folder: Path, config: ModelConfig) -> WeightsSource:
    root = folder / "pretrained_weights" if (folder / "pretrained_weights").is_dir() else folder
    files: dict[str, tuple[WeightsFile, ...]] = {}
    absent: list[Path] = []
    absent_base = ""
    for file in published().files:
        candidates = [root / file.repository.folder / name for name in file.names]
        found = next((path for path in candidates if path.is_file()), None)
        if found is not None and file.kind == "config":
            check_hf_config(file.network, found, config)
        elif found is not None:
            files[file.network] = (*files.get(file.network, ()), WeightsFile(found, str(found), file.kind == "base"))
        elif file.kind == "weights":
            absent.append(candidates[-1])
        elif file.kind == "base":
            absent_base = str(candidates[-1])
    if absent:
        raise WeightsError(_absent_message(folder, absent))
    _warn_unrecorded(folder)
    return WeightsSource(str(folder), config, files, published=True, checked=False, absent_base=absent_base)


def _absent_message(folder: Path, absent: list[Path]) -> str:
    count = "1 weights file is" if len(absent) == 1 else f"{len(absent)} weights files are"
    names = ", ".join(map(str, absent))
    return (
        f"{count} missing in {folder}, looked for {names} (or the same as .safetensors). {DOWNLOAD_HINT} into the "
        f"hub's cache, which '{PUBLISHED}' reads; a folder needs the published layout, or a {CONFIG} of this package."
    )


def _warn_unrecorded(folder: Path) -> None:
    logger.warning("nothing is recorded to check the weights in %s against: only their structure is checked", folder)
