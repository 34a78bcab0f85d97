"""Reads tensors out of one file, lazily, and never runs code from it (docs/reference/weights.md section 7)."""

import pickle
from abc import ABC, abstractmethod
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from personalive.errors import WeightsError, first_line
from personalive.weights.source import WeightsFile

_ZIP_MAGIC = b"PK\x03\x04"


class TensorFile(ABC):
    """A file of named tensors. It is mapped into memory when it is first read, until it is released."""

    def __init__(self, file: WeightsFile) -> None:
        self.label = file.label
        self._file = file

    @abstractmethod
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor, without reading any."""

    @abstractmethod
    def read(self, name: str) -> Tensor:
        """One tensor on the CPU, perhaps a view of the file: copy it to keep it."""

    @abstractmethod
    def release(self) -> None:
        """Unmap the file; reading maps it again."""


class _SafetensorsFile(TensorFile):
    _opened: Any = None

    def shapes(self) -> dict[str, tuple[int, ...]]:
        opened = self._open()
        return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118

    def read(self, name: str) -> Tensor:
        tensor: Tensor = self._open().get_tensor(name)
        return tensor

    def release(self) -> None:
        self._opened = None

    def _open(self) -> Any:
        if self._opened is None:
            path = self._file.path
            try:
                self._opened = safe_open(path, framework="pt", device="cpu")
            except (SafetensorError, OSError) as error:
                raise WeightsError(f"{self.label} is damaged: {path} is not a safetensors file ({error})") from error
        return self._opened


class _PickleFile(TensorFile):
    _tensors: dict[str, Tensor] | None = None

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(tensor.shape) for name, tensor in self._load().items()}

    def read(self, name: str) -> Tensor:
        return self._load()[name].detach()

    def release(self) -> None:
        self._tensors = None

    def _load(self) -> dict[str, Tensor]:
        if self._tensors is None:
            self._tensors = _load_pickle(self._file)
        return self._tensors


def open_tensors(file: WeightsFile) -> TensorFile:
    """Open a `.safetensors`, `.pth` or `.bin` file for reading.

    Its methods raise `WeightsError` if the file cannot be read, is damaged, holds code, or is not a flat dictionary of
    tensors.
    """
    return _SafetensorsFile(file) if file.path.suffix == ".safetensors" else _PickleFile(file)


def _load_pickle(file: WeightsFile) -> dict[str, Tensor]:
    try:
        with file.path.open("rb") as opened:
            # Files from before torch 1.6 are not zip archives: they cannot be mapped, and are read as a whole.
            mapped = opened.read(len(_ZIP_MAGIC)) == _ZIP_MAGIC
        values = torch.load(file.path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        reason = first_line(error)
        raise WeightsError(
            f"{file.label} is refused: {file.path} is damaged or holds something other than tensors, which could run "
            f"code ({reason})"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise WeightsError(f"{file.label} is damaged: {file.path} cannot be read ({first_line(error)})") from error
    if not isinstance(values, dict):
        raise WeightsError(f"{file.label} holds {type(values).__name__}, not a dictionary of tensors: {file.path}")
    for name, value in values.items():
        if not isinstance(name, str) or not isinstance(value, Tensor) or value.layout != torch.strided:
            raise WeightsError(
                f"{file.label} is not a flat dictionary of tensors: its entry {name!r} is {type(value).__name__} "
                f"in {file.path}"
            )
    return values
