"""This package's own format: a folder with `config.json`, safetensors files per network, and their digests.

config.json                                   ModelConfig.to_dict()
<network>.safetensors                         or, where files must stay small:
<network>-00001-of-00003.safetensors ...
weights.json                                  size and sha256 of every file, and where the weights are from
"""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from personalive.config import ModelConfig
from personalive.errors import InputError, OutputError, WeightsError
from personalive.models import NETWORKS
from personalive.weights.checksum_cache import digest_of
from personalive.weights.manifest import Known
from personalive.weights.source import WeightsFile, WeightsSource

CONFIG, INDEX = "config.json", "weights.json"
SMALL_FILE = 15_000_000
"""Bytes that a file of a shipped model may have."""
_SHARD = re.compile(r"(?P<network>[a-z_]+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.safetensors")


@dataclass(frozen=True)
class Entry:
    """One tensor that is to be written."""

    key: str
    size: int
    """Bytes."""
    read: Callable[[], Tensor]
    """Gives it, on any device."""


def save_folder(
    folder: Path | str,
    config: ModelConfig,
    modules: Mapping[str, nn.Module],
    dtype: torch.dtype,
    *,
    max_file_size: int = SMALL_FILE,
) -> None:
    """Write a whole model; files that are there are replaced only once all new ones are written.

    Args:
        modules: every network, by name.
        dtype: floating-point tensors are stored in it, whatever a model computes in.
        max_file_size: bytes from which a network is split over several files.

    Raises:
        InputError: a network is missing or unknown.
        OutputError: the folder can not be written to, or holds something else.
    """
    if set(modules) != set(NETWORKS):
        raise InputError(f"a model needs the networks {', '.join(NETWORKS)}, not {', '.join(sorted(modules))}")
    with FolderWriter(Path(folder), config, max_file_size) as writer:
        for network in NETWORKS:
            writer.add(network, list(_entries(modules[network], dtype)))


def _entries(module: nn.Module, dtype: torch.dtype) -> Iterator[Entry]:
    for key, tensor in module.state_dict().items():
        target = dtype if tensor.is_floating_point() else tensor.dtype
        yield Entry(key, tensor.numel() * target.itemsize, partial(tensor.to, target))


class FolderWriter:
    """Writes networks one after the other, beside the final names, and renames them on leaving without an error."""

    def __init__(
        self, folder: Path, config: ModelConfig, max_file_size: int, origin: Mapping[str, str] | None = None
    ) -> None:
        self._folder, self._config, self._max_file_size = folder, config, max_file_size
        self._index: dict[str, Any] = {"origin": dict(origin or {}), "files": {}}
        self._written: list[tuple[Path, Path]] = []

    def __enter__(self) -> "FolderWriter":
        config = self._folder / CONFIG
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if config.exists():
                ModelConfig.load(config)
        except OSError as error:
            raise OutputError(f"{self._folder} can not be written to: {error}") from error
        except InputError as error:
            raise OutputError(f"{self._folder} holds something other than a model, choose another: {error}") from error
        return self

    def add(self, network: str, entries: Sequence[Entry]) -> None:
        """Write one network.

        Raises:
            OutputError: the disk is full, or the folder can not be written to.
        """
        shards = split_entries(entries, self._max_file_size)
        for number, shard in enumerate(shards, start=1):
            split = f"-{number:05}-of-{len(shards):05}" if len(shards) > 1 else ""
            self._write(f"{network}{split}.safetensors", shard)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        try:
            if kind is None:
                self._commit()
        finally:
            for partial, _ in self._written:
                partial.unlink(missing_ok=True)

    def _write(self, name: str, shard: Sequence[Entry]) -> None:
        path = self._partial(name)
        try:
            save_file({entry.key: entry.read().detach().cpu().contiguous().clone() for entry in shard}, path)
            self._index["files"][name] = {"size": path.stat().st_size, "digest": digest_of(path)}
        except (OSError, SafetensorError) as error:
            raise OutputError(f"{self._folder / name} can not be written: {error}") from error

    def _partial(self, name: str) -> Path:
        partial = self._folder / f".{name}.{os.getpid()}"
        self._written.append((partial, self._folder / name))
        return partial

    def _commit(self) -> None:
        try:
            self._partial(CONFIG).write_text(json.dumps(self._config.to_dict(), indent=1) + "\n", "utf-8")
            self._partial(INDEX).write_text(json.dumps(self._index, indent=1) + "\n", "utf-8")
            for partial, final in self._written:
                partial.replace(final)
        except OSError as error:
            raise OutputError(f"{self._folder} can not be written to: {error}") from error
        for network in NETWORKS:
            for stale in _files_of(self._folder, network):
                if stale.name not in self._index["files"]:
                    stale.unlink()


def split_entries(entries: Sequence[Entry], max_file_size: int) -> list[list[Entry]]:
    """Files of at most so many bytes, in order; an entry that is larger has one to itself."""
    shards: list[list[Entry]] = [[]]
    size = 0
    for entry in entries:
        if shards[-1] and size + entry.size > max_file_size:
            shards.append([])
            size = 0
        shards[-1].append(entry)
        size += entry.size
    return shards


def open_folder(folder: Path, name: str) -> tuple[WeightsSource, dict[Path, Known]]:
    """Find the files of a model in this package's own format, and what is recorded of them; nothing is read yet.

    Raises:
        WeightsError: a file is missing.
        InputError: `config.json` does not describe a model.
    """
    config = ModelConfig.load(folder / CONFIG)
    recorded = _recorded(folder)
    for file in recorded:
        if not file.exists():
            raise WeightsError(f"the weights file {file.name} is missing: {INDEX} lists it, looked in {folder}")
    files = {
        network: tuple(WeightsFile(path, str(path)) for path in _complete(folder, network)) for network in NETWORKS
    }
    return WeightsSource(name, config, files, published=False, checked=bool(recorded)), recorded


def origin_of(folder: Path) -> dict[str, str]:
    """Revisions of the repositories that a folder was converted from; empty where it was not."""
    origin = _index(folder).get("origin")
    return origin if isinstance(origin, dict) else {}


def _index(folder: Path) -> dict[str, Any]:
    path = folder / INDEX
    if not path.exists():
        return {}
    try:
        index = json.loads(path.read_text("utf-8"))
        return {"origin": index["origin"], "files": {name: Known(**entry) for name, entry in index["files"].items()}}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path} is damaged: it is no list of files with sizes and digests ({error})") from error


def _recorded(folder: Path) -> dict[Path, Known]:
    files: dict[str, Known] = _index(folder).get("files", {})
    for name in files:
        if Path(name).name != name:
            raise WeightsError(f"{folder / INDEX} is refused: it lists {name!r}, which is no plain file name")
    return {folder / name: known for name, known in files.items()}


def _files_of(folder: Path, network: str) -> list[Path]:
    shards = sorted(folder.glob(f"{network}-*-of-*.safetensors"))
    shards = [path for path in shards if (match := _SHARD.fullmatch(path.name)) and match["network"] == network]
    whole = folder / f"{network}.safetensors"
    return [whole, *shards] if whole.exists() else shards


def _complete(folder: Path, network: str) -> list[Path]:
    files = _files_of(folder, network)
    if not files:
        raise WeightsError(f"the {network} is missing: there is no {network}.safetensors in {folder}")
    match = _SHARD.fullmatch(files[0].name)
    count = int(match["count"]) if match else 1
    expected = [f"{network}-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1)] if match else None
    if expected is None and len(files) > 1:
        raise WeightsError(f"{folder} has the {network} twice: {files[0].name} and {files[1].name}")
    if expected is not None and [path.name for path in files] != expected:
        absent = sorted(set(expected) - {path.name for path in files})
        raise WeightsError(f"the {network} is not complete: {', '.join(absent) or 'files of two versions'} in {folder}")
    return files
