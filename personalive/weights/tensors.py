"""Reading tensors out of one file, lazily and without ever running code from it (spec/weights.md section 7)."""

import pickle
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from personalive.errors import WeightsError
from personalive.weights.source import WeightsFile

_ZIP_MAGIC = b"PK\x03\x04"


class TensorFile(ABC):
    """An open file of named tensors. What `read` gives may be a view of the file: copy it to keep it."""

    def __init__(self, label: str) -> None:
        self.label = label

    @abstractmethod
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor, without reading any."""

    @abstractmethod
    def read(self, name: str) -> Tensor:
        """One tensor on the CPU."""


class _SafetensorsFile(TensorFile):
    def __init__(self, label: str, file: Any) -> None:
        super().__init__(label)
        self._file = file

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(self._file.get_slice(name).get_shape()) for name in self._file.keys()}  # noqa: SIM118

    def read(self, name: str) -> Tensor:
        tensor: Tensor = self._file.get_tensor(name)
        return tensor


class _PickleFile(TensorFile):
    def __init__(self, label: str, tensors: dict[str, Tensor]) -> None:
        super().__init__(label)
        self._tensors = tensors

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(tensor.shape) for name, tensor in self._tensors.items()}

    def read(self, name: str) -> Tensor:
        return self._tensors[name].detach()


@contextmanager
def open_tensors(file: WeightsFile) -> Iterator[TensorFile]:
    """Open a `.safetensors`, `.pth` or `.bin` file for reading.

    Raises:
        WeightsError: the file can not be read, is damaged, holds code, or is no flat dictionary of tensors.
    """
    if file.path.suffix == ".safetensors":
        try:
            opened = safe_open(file.path, framework="pt", device="cpu")
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"{file.label} is damaged: {file.path} is no safetensors file ({error})") from error
        with opened as handle:
            yield _SafetensorsFile(file.label, handle)
    else:
        yield _PickleFile(file.label, _load_pickle(file))


def _load_pickle(file: WeightsFile) -> dict[str, Tensor]:
    try:
        with file.path.open("rb") as opened:
            # Files of before torch 1.6 are no zip archives: they can not be mapped and are read as a whole.
            mapped = opened.read(len(_ZIP_MAGIC)) == _ZIP_MAGIC
        values = torch.load(file.path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        reason = _first_line(error)
        raise WeightsError(
            f"{file.label} is refused: {file.path} is damaged or holds something other than tensors, which could run "
            f"code ({reason})"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise WeightsError(f"{file.label} is damaged: {file.path} can not be read ({_first_line(error)})") from error
    if not isinstance(values, dict):
        raise WeightsError(f"{file.label} holds {type(values).__name__}, not a dictionary of tensors: {file.path}")
    for name, value in values.items():
        if not isinstance(name, str) or not isinstance(value, Tensor) or value.layout != torch.strided:
            raise WeightsError(
                f"{file.label} is no flat dictionary of tensors: its entry {name!r} is {type(value).__name__} "
                f"in {file.path}"
            )
    return values


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
