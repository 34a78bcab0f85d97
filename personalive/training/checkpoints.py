"""Checkpoints of training, of two kinds.

A local one holds everything, so that a resumed run continues exactly. A portable one holds the averaged weights in fp16
in a few files of at most 15 MB and the name of the next stage: small enough to keep, and to start from elsewhere; the
optimizer warms up again. Both are written under another name and then renamed, and digests are checked on reading.
"""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from personalive.config import ModelConfig
from personalive.errors import InputError, WeightsError
from personalive.media.content_digest import content_digest
from personalive.models import NETWORKS, build_network
from personalive.training.trainee import Trainee
from personalive.weights import WeightsSource, load_into, save_folder
from personalive.weights.folder import SMALL_FILE

INDEX, LOCAL = "checkpoint.json", "local.pt"


def save_portable(folder: Path, trainee: Trainee, progress: dict[str, Any]) -> None:
    """Write the averaged weights as a portable checkpoint.

    Args:
        progress: what a run needs to know besides the weights, as JSON.
    """
    tensors = {
        f"{name}.{key}": value.detach().to("cpu", torch.float16 if value.is_floating_point() else value.dtype)
        for name in NETWORKS
        for key, value in trainee.average[name].state_dict().items()
    }
    write_portable(folder, trainee.config, tensors, progress)


def write_portable(folder: Path, config: ModelConfig, tensors: dict[str, Tensor], progress: dict[str, Any]) -> None:
    """Write `checkpoint.json` and as many `weights-N.safetensors` as it takes.

    Args:
        tensors: by network and key, "vae.encoder.conv_in.weight".
        progress: what a run needs to know besides the weights, as JSON.
    """
    parts: list[dict[str, Tensor]] = [{}]
    size = 0
    for key, tensor in tensors.items():
        if size + tensor.nbytes > SMALL_FILE and parts[-1]:
            parts.append({})
            size = 0
        parts[-1][key] = tensor.contiguous()
        size += tensor.nbytes
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for number, part in enumerate(parts):
        path = folder / f"weights-{number}.safetensors"
        beside = path.with_suffix(".part")
        save_file(part, str(beside))
        files[path.name] = content_digest(beside)
        os.replace(beside, path)
    _write_json(folder / INDEX, {"config": config.to_dict(), "progress": progress, "files": files})


def load_portable(folder: Path, trainee: Trainee) -> dict[str, Any]:
    """Read a portable checkpoint into the weights and their average.

    Returns:
        The `progress` that was saved.

    Raises:
        WeightsError: a file is missing, damaged, or belongs to another model.
    """
    index = read_index(folder)
    config = _config(folder, index)
    if not same_networks(config, trainee.config):
        raise WeightsError(
            f"the checkpoint {folder} has networks of other sizes ({config.name}) than this run "
            f"({trainee.config.name}): start the run with the same preset or the same --start"
        )
    trainee.set_latent_scale(config.vae.scaling_factor)
    tensors = read_tensors(folder, index)
    for name in NETWORKS:
        own = {key.partition(".")[2]: value for key, value in tensors.items() if key.partition(".")[0] == name}
        for network in (trainee.networks[name], trainee.average[name]):
            missing = network.load_state_dict({key: value.float() for key, value in own.items()}, strict=False)
            if missing.missing_keys or missing.unexpected_keys:
                raise WeightsError(f"the checkpoint {folder} does not fit the network {name}: {missing}")
    progress: dict[str, Any] = index["progress"]
    return progress


def read_index(folder: Path) -> dict[str, Any]:
    """`checkpoint.json` of a portable checkpoint.

    Raises:
        WeightsError: it is missing or damaged.
    """
    try:
        index: dict[str, Any] = json.loads((folder / INDEX).read_text())
        if not {"config", "progress", "files"} <= set(index):
            raise ValueError("it lacks entries")
    except (OSError, ValueError) as error:
        raise WeightsError(f"{folder / INDEX} cannot be read as a checkpoint: {error}") from error
    return index


def read_config(folder: Path) -> ModelConfig:
    """The configuration of a portable checkpoint's networks.

    Raises:
        WeightsError: it is missing or damaged.
    """
    return _config(folder, read_index(folder))


def _config(folder: Path, index: dict[str, Any]) -> ModelConfig:
    try:
        return ModelConfig.from_dict(index["config"])
    except InputError as error:
        raise WeightsError(f"{folder / INDEX} cannot be read as a checkpoint: {error}") from error


def same_networks(a: ModelConfig, b: ModelConfig) -> bool:
    """Whether weights of one fit the other. Names, defaults and the measured scale of latents do not matter."""

    def sizes(config: ModelConfig) -> ModelConfig:
        vae = dataclasses.replace(config.vae, scaling_factor=1.0)
        return dataclasses.replace(config, name="", keyframe_threshold=0.0, vae=vae)

    return sizes(a) == sizes(b)


def read_tensors(folder: Path, index: dict[str, Any]) -> dict[str, Tensor]:
    """All tensors of a portable checkpoint by network and key.

    Raises:
        WeightsError: a file is missing or damaged.
    """
    tensors: dict[str, Tensor] = {}
    for name, digest in index["files"].items():
        path = folder / Path(name).name
        try:
            if content_digest(path) != digest:
                raise WeightsError(f"{path} is damaged: its digest differs from the saved one; use another checkpoint")
            tensors |= load_file(str(path))
        except (OSError, SafetensorError) as error:
            raise WeightsError(f"{path} cannot be read: {error}") from error
    return tensors


def save_local(folder: Path, state: dict[str, Any]) -> None:
    """Write everything of a run: tensors, plain values and containers of them."""
    folder.mkdir(parents=True, exist_ok=True)
    path, beside = folder / LOCAL, folder / f"{LOCAL}.part"
    torch.save(state, beside)
    digest = content_digest(beside)
    os.replace(beside, path)
    _write_json(path.with_suffix(".json"), {"sha256": digest})


def load_local(folder: Path) -> dict[str, Any]:
    """Read what `save_local` wrote, onto the CPU.

    Raises:
        WeightsError: the file is missing or damaged.
    """
    path = folder / LOCAL
    try:
        digest = json.loads(path.with_suffix(".json").read_text())["sha256"]
        if content_digest(path) != digest:
            raise WeightsError(f"{path} is damaged: its digest differs from the saved one; use another checkpoint")
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise WeightsError(f"{path} cannot be read as a checkpoint: {error}") from error
    return state


def export(checkpoint: Path, folder: Path, keyframe_threshold: float | None = None) -> None:
    """Turn a portable checkpoint into a model folder that the program loads.

    Args:
        keyframe_threshold: the model's default; None: as the checkpoint says.

    Raises:
        WeightsError: the checkpoint is damaged.
        OutputError: the folder cannot be written to, or holds something else.
    """
    trainee = Trainee(read_config(checkpoint), torch.device("cpu"), ema=False)
    load_portable(checkpoint, trainee)
    config = trainee.config
    if keyframe_threshold is not None:
        config = dataclasses.replace(config, keyframe_threshold=keyframe_threshold)
    save_folder(folder, config, trainee.networks, torch.float16)


def load_model(source: WeightsSource, trainee: Trainee) -> None:
    """Start from a finished model.

    Args:
        source: as `weights.resolve` found it; the trainee was made with its configuration.

    Raises:
        WeightsError: a file is damaged or does not fit.
    """
    for name in NETWORKS:
        with torch.device("meta"):
            network = build_network(name, source.config)
        load_into(source, name, network, dtype=torch.float32, device=torch.device("cpu"))
        for target in {id(n): n for n in (trainee.networks[name], trainee.average[name])}.values():
            target.load_state_dict(network.state_dict())


def _write_json(path: Path, values: dict[str, Any]) -> None:
    beside = path.with_suffix(".json.part")
    beside.write_text(json.dumps(values, indent=1) + "\n")
    os.replace(beside, path)
