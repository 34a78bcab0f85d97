"""This package's own format: a folder with `config.json`, safetensors files per network, and their digests.

config.json                                   ModelConfig.to_dict()
<network>.safetensors                         or, where files must stay small:
<network>-00001-of-00003.safetensors ...
weights.json                                  size and sha256 of every file, and where the weights come from
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from huggingface_hub import split_state_dict_into_shards_factory
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from personalive.config import ModelConfig
from personalive.errors import InputError, OutputError, WeightsError
from personalive.models import NETWORKS
from personalive.weights.checksum_cache import digest_of
from personalive.weights.manifest import FileDigest
from personalive.weights.source import WeightsFile, WeightsSource

CONFIG, INDEX = "config.json", "weights.json"
SMALL_FILE = 15_000_000
"""The most bytes in a file of a model in this repository, or of a portable checkpoint."""
_SHARD = re.compile(r"(?P<network>[a-z_]+)-\d{5}-of-(?P<count>\d{5})\.safetensors")


@dataclass(frozen=True)
class Entry:
    """One tensor that is to be written."""

    size: int
    """Bytes."""
    read: Callable[[], Tensor]
    """Returns it, on any device."""


AddNetwork = Callable[[str, Mapping[str, Entry]], None]


def save_folder(
    folder: Path | str,
    config: ModelConfig,
    modules: Mapping[str, nn.Module],
    dtype: torch.dtype,
    *,
    max_file_size: int = SMALL_FILE,
) -> None:
    """Write a whole model; existing files are replaced only once all new ones are written.

    Args:
        modules: every network, by name.
        dtype: floating-point tensors are stored in it, whatever a model computes in.
        max_file_size: bytes from which a network is split over several files.

    Raises:
        InputError: a network is missing or unknown.
        OutputError: the folder cannot be written to, or holds something else.
    """
    if set(modules) != set(NETWORKS):
        raise InputError(f"a model needs the networks {', '.join(NETWORKS)}, not {', '.join(sorted(modules))}")
    with write_folder(Path(folder), config, max_file_size) as add:
        for network in NETWORKS:
            entries = {}
            for key, tensor in modules[network].state_dict().items():
                target = dtype if tensor.is_floating_point() else tensor.dtype
                entries[key] = Entry(tensor.numel() * target.itemsize, partial(tensor.to, target))
            add(network, entries)


@contextmanager
def write_folder(
    folder: Path, config: ModelConfig, max_file_size: int, origin: Mapping[str, str] | None = None
) -> Iterator[AddNetwork]:
    """Write networks one after the other; if there is no error, they replace what is there on leaving.

    Yields:
        A function that writes one network.

    Raises:
        OutputError: the folder cannot be written to, is full, or holds something else.
    """
    if (folder / CONFIG).exists():
        try:
            ModelConfig.load(folder / CONFIG)
        except InputError as error:
            raise OutputError(f"{folder} holds something other than a model, choose another: {error}") from error
    files: dict[str, dict[str, int | str]] = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".unfinished-", dir=folder) as name:
            yield partial(_write_network, Path(name), max_file_size, files)
            index = {"origin": dict(origin or {}), "files": files}
            for file, values in ((CONFIG, config.to_dict()), (INDEX, index)):
                (Path(name) / file).write_text(json.dumps(values, indent=1) + "\n", "utf-8")
            for file in (*files, CONFIG, INDEX):
                (Path(name) / file).replace(folder / file)
        for path in [path for network in NETWORKS for path in _files_of(folder, network)]:
            if path.name not in files:
                path.unlink()
    except (OSError, SafetensorError) as error:
        raise OutputError(f"{folder} cannot be written to: {error}") from error


def _write_network(
    folder: Path, max_file_size: int, files: dict[str, dict[str, int | str]], network: str, entries: Mapping[str, Entry]
) -> None:
    shards = split_state_dict_into_shards_factory(
        dict(entries),
        get_storage_size=lambda entry: entry.size,
        filename_pattern=f"{network}{{suffix}}.safetensors",
        max_shard_size=max_file_size,
    )
    for name, keys in shards.filename_to_tensors.items():
        path = folder / name
        save_file({key: entries[key].read().detach().cpu().contiguous().clone() for key in keys}, path)
        files[name] = {"size": path.stat().st_size, "digest": digest_of(path)}


def open_folder(folder: Path, name: str) -> tuple[WeightsSource, dict[Path, FileDigest]]:
    """Find the files of a model in this package's own format, and what is recorded of them; nothing is read yet.

    Raises:
        WeightsError: a file is missing.
        InputError: `config.json` does not describe a model.
    """
    config = ModelConfig.load(folder / CONFIG)
    origin, recorded = _read_index(folder / INDEX)
    for path in recorded:
        if not path.exists():
            raise WeightsError(f"the weights file {path.name} is missing: {INDEX} lists it, looked in {folder}")
    files = {
        network: tuple(WeightsFile(path, str(path)) for path in _complete(folder, network)) for network in NETWORKS
    }
    source = WeightsSource(name, config, files, published=False, checked=bool(recorded), origin=origin)
    return source, recorded


def _read_index(path: Path) -> tuple[dict[str, str], dict[Path, FileDigest]]:
    if not path.exists():
        return {}, {}
    try:
        index = json.loads(path.read_text("utf-8"))
        origin, files = index["origin"], {name: FileDigest(**entry) for name, entry in index["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path} is damaged: it is not a list of files with sizes and digests ({error})") from error
    for name in files:
        if Path(name).name != name:
            raise WeightsError(f"{path} is refused: it lists {name!r}, which is not a plain file name")
    return origin, {path.with_name(name): digest for name, digest in files.items()}


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
    if match is None:
        if len(files) > 1:
            raise WeightsError(f"{folder} has the {network} twice: {files[0].name} and {files[1].name}")
        return files
    count = int(match["count"])
    expected = [f"{network}-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1)]
    if (names := [path.name for path in files]) != expected:
        absent = ", ".join(sorted(set(expected) - set(names))) or "files of two versions"
        raise WeightsError(f"the {network} is not complete: {absent} in {folder}")
    return files
