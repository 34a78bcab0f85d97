"""`onnx.json`: what a folder of ONNX files holds, and whether it is still that."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from personalive.config import ModelConfig
from personalive.errors import InputError, WeightsError
from personalive.user_cache import cache_folder
from personalive.weights import WeightsSource
from personalive.weights.checksum_cache import ChecksumCache

NAME = "onnx.json"
FORMAT = 1
"""Counts up when files of before can no longer be used."""
Precision = Literal["fp32", "fp16"]
DTYPES = {"FLOAT": torch.float32, "FLOAT16": torch.float16, "INT64": torch.int64}
UNREADABLE = (OSError, ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError)
"""What is raised by files of any other content."""


@dataclass(frozen=True)
class Port:
    """An input or output of a file."""

    name: str
    dtype: str
    """As in ONNX: FLOAT, FLOAT16 or INT64."""
    shape: tuple[int | str, ...]
    """Text is the name of what is free."""


@dataclass(frozen=True)
class FileRecord:
    """One ONNX file."""

    file: str
    network: str
    keyframes: int | None
    """The number of keyframes that it takes, if it is fixed; None for all files but those of a denoising UNet."""
    bytes: int
    """With those of the weights beside it."""
    sha256: Mapping[str, str]
    """By file: of this one, and of the one with its weights if there is one."""
    error: float
    """Relative L2 distance of ONNX Runtime's results from plain PyTorch's in fp32, the largest of all outputs."""
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


@dataclass(frozen=True)
class Manifest:
    """A folder of files."""

    model: ModelConfig
    weights: str
    """`digest_of_weights` of the model."""
    motion_fingerprint: tuple[float, ...]
    """See `models.fingerprint`, of the networks that read motion."""
    precision: Precision
    size: tuple[int, int] | None
    """Width and height in pixels; None: they are free."""
    files: tuple[FileRecord, ...]

    def write(self, folder: Path) -> None:
        """Write it into the folder that it describes."""
        values = {"format": FORMAT, **dataclasses.asdict(self)}
        (folder / NAME).write_text(json.dumps(values, indent=1) + "\n", "utf-8")

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """That of a folder, whose files are checked.

        Raises:
            InputError: there is none, or it is not one of ours.
            WeightsError: a file is missing or damaged.
        """
        try:
            values = json.loads((folder / NAME).read_text("utf-8"))
            found = values.pop("format")
            if found != FORMAT:
                raise InputError(f"{folder} has ONNX files of format {found}, not {FORMAT}: export them again")
            manifest = _manifest(values)
            if any(name != Path(name).name for record in manifest.files for name in (record.file, *record.sha256)):
                raise ValueError("a file is elsewhere")
            if any(record.file not in record.sha256 for record in manifest.files):
                raise ValueError("a file without a digest")
        except UNREADABLE as error:
            raise InputError(
                f"{folder} is no folder with a model in ONNX ({NAME} is missing or damaged): "
                "make one with `personalive export`"
            ) from error
        for record in manifest.files:
            for name, digest in record.sha256.items():
                _check(folder / name, digest)
        return manifest


def precision_of(dtype: torch.dtype) -> Precision:
    """The precision of files for a model in this data type.

    Raises:
        InputError: there is none.
    """
    precisions: dict[torch.dtype, Precision] = {torch.float32: "fp32", torch.float16: "fp16"}
    if dtype not in precisions:
        raise InputError(f"accelerate onnx computes in fp32 or fp16, not in {dtype}")
    return precisions[dtype]


def _manifest(values: dict[str, Any]) -> Manifest:
    files = tuple(_record(record) for record in values.pop("files"))
    size = values.pop("size")
    try:
        model = ModelConfig.from_dict(values.pop("model"))
    except InputError as error:
        raise ValueError(str(error)) from error
    return Manifest(
        model=model,
        motion_fingerprint=tuple(float(value) for value in values.pop("motion_fingerprint")),
        size=None if size is None else (size[0], size[1]),
        files=files,
        **values,
    )


def _record(values: dict[str, Any]) -> FileRecord:
    ports = {key: tuple(_port(port) for port in values[key]) for key in ("inputs", "outputs")}
    return FileRecord(**{**values, **ports, "sha256": dict(values["sha256"])})


def _port(values: dict[str, Any]) -> Port:
    if values["dtype"] not in DTYPES or not isinstance(values["name"], str):
        raise ValueError("an input or output that no file has")
    return Port(values["name"], values["dtype"], tuple(values["shape"]))


def _check(path: Path, digest: str) -> None:
    if not path.is_file():
        raise WeightsError(f"{path} is missing: export the model again, with `personalive export`")
    try:
        found = _checksums().digest(path)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror}): export the model again") from error
    if found != digest:
        raise WeightsError(f"{path} is damaged or was changed: export the model again, with `personalive export`")


def digest_of_weights(source: WeightsSource) -> str:
    """One digest of all weights files of a model, by which its ONNX files are told from another model's."""
    checksums = _checksums()
    digests = [checksums.digest(file.path) for network in sorted(source.files) for file in source.files[network]]
    return "-".join(digest[:8] for digest in digests)


def _checksums() -> ChecksumCache:
    """Remembers what was hashed: at published size, that is 20 GB at every start."""
    return ChecksumCache(cache_folder("checksums") / "onnx.json")
