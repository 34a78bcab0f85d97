"""Writes a model once more in this package's own format, so that later starts read less."""

import math
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from personalive.config import ModelConfig
from personalive.models import NETWORKS, build_network
from personalive.weights.download import PUBLISHED
from personalive.weights.folder import Entry, FolderWriter
from personalive.weights.hub import Hub, ProgressCallback
from personalive.weights.load import require_finite, target_dtypes
from personalive.weights.resolution import conversion_folder, resolve
from personalive.weights.source import WeightsSource
from personalive.weights.state_dict import Assembly, assemble

_FILE_SIZE = 500_000_000
"""Bytes of one file; as much, and once more for writing it, is held in memory."""


def convert(
    source: str | Path = PUBLISHED,
    folder: Path | str | None = None,
    dtype: torch.dtype = torch.float16,
    *,
    hub: Hub | None = None,
    config: ModelConfig | None = None,
    progress: ProgressCallback | None = None,
) -> Path:
    """Store a model's weights as safetensors in one dtype. The files that they come from stay.

    Args:
        folder: where to; None: where `resolve("personalive", dtype=dtype)` finds and prefers them.

    Returns:
        The folder.

    Raises:
        WeightsError: as `resolve` and `load_into`; also where a value is too large for the dtype.
        OutputError: the folder can not be written to, or holds something else.
    """
    hub = hub or Hub()
    found = resolve(source, config=config, hub=hub, progress=progress)
    target = conversion_folder(hub, dtype) if folder is None else Path(folder)
    origin = hub.manifest.origin if found.name == PUBLISHED else {}
    with FolderWriter(target, found.config, _FILE_SIZE, origin) as writer:
        for network in NETWORKS:
            _convert_network(found, network, dtype, writer)
    return target


def _convert_network(source: WeightsSource, network: str, dtype: torch.dtype, writer: FolderWriter) -> None:
    with torch.device("meta"):
        module = build_network(network, source.config)
    initial, targets = module.state_dict(), target_dtypes(module, dtype)
    with assemble(source, network, module) as assembly:
        writer.add(
            network,
            [
                Entry(
                    key,
                    math.prod(initial[key].shape) * targets[key].itemsize,
                    partial(_read_finite, assembly, key, initial[key], targets[key]),
                )
                for key in assembly.keys
            ],
        )


def _read_finite(assembly: Assembly, key: str, initial: Tensor, dtype: torch.dtype) -> Tensor:
    tensor = assembly.read(key, initial, dtype, torch.device("cpu"))
    require_finite(assembly.network, {key: tensor})
    return tensor
