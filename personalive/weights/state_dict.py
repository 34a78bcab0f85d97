"""Merges the files of a network: later ones win, and together they must have every key.

What a network lacks or has in another shape is found before the first tensor is read, so nothing is ever half loaded.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from personalive.errors import WeightsError
from personalive.weights.checkpoint_io import TensorFile, open_tensors
from personalive.weights.source import DOWNLOAD_HINT, WeightsSource

logger = logging.getLogger(__name__)

FLOATS = frozenset({torch.float64, torch.float32, torch.float16, torch.bfloat16})
"""What weights may be stored in."""

_STRICT = frozenset({"reference_unet", "motion_encoder", "pose_guider"})
"""Networks whose published file holds exactly the network's keys (docs/reference/weights.md section 3)."""
_LEGACY_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""What old VAE files call the parts of the middle attention (docs/reference/weights.md section 5)."""


class MergedStateDict:
    """The tensors of one network, over all its files. One file at a time is mapped into memory."""

    def __init__(
        self,
        network: str,
        suppliers: Mapping[str, tuple[TensorFile, str]],
        absent: tuple[str, ...],
        ignored: tuple[str, ...],
    ) -> None:
        self.network = network
        self.suppliers = suppliers
        """File and name in it, by key; the keys of one file are together."""
        self.absent = absent
        """Keys that no file needs to have."""
        self.ignored = ignored
        """Names in the files that the network does not know."""
        self._mapped: TensorFile | None = None

    @property
    def keys(self) -> tuple[str, ...]:
        """All keys of the network, in the order in which they are best read."""
        return (*self.suppliers, *self.absent)

    def read(self, key: str, initial: Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
        """One tensor, as a copy that no longer refers to a file.

        Args:
            initial: what the network was built with: the value of a table that is in no file.

        Raises:
            WeightsError: the file has no floating-point numbers where they are needed.
        """
        if key not in self.suppliers:
            if initial.is_meta:  # the absent weights that no output depends on
                return torch.zeros(initial.shape, dtype=dtype, device=device)
            return initial.to(device).to(dtype, copy=True)
        file, name = self.suppliers[key]
        if file is not self._mapped:
            self.release()
            self._mapped = file
        stored = file.read(name)
        if dtype.is_floating_point and stored.dtype not in FLOATS:
            raise WeightsError(
                f"{self.network}: {name} holds {stored.dtype} in {file.label}, not floating-point numbers"
            )
        # Moved first: a device converts faster than the host.
        same = device.type == "cpu" and stored.dtype == dtype
        return stored.to(device).to(dtype, copy=same).contiguous()

    def release(self) -> None:
        """Unmap the current file."""
        if self._mapped is not None:
            self._mapped.release()
            self._mapped = None


@contextmanager
def merge_state_dict(source: WeightsSource, network: str, module: nn.Module) -> Iterator[MergedStateDict]:
    """Look into a network's files and decide which of them supplies what.

    Raises:
        WeightsError: a file is damaged, a key is missing or unknown, a shape differs.
    """
    files = [open_tensors(file) for file in source.files[network]]
    merged, shapes = _union(source, network, module, files)
    missing = [key for key in shapes if key not in merged.suppliers and key not in merged.absent]
    if missing:
        raise WeightsError(_missing_message(source, network, missing, files))
    _check_ignored(source, network, merged.ignored)
    try:
        yield merged
    finally:
        merged.release()


def _union(
    source: WeightsSource, network: str, module: nn.Module, files: Sequence[TensorFile]
) -> tuple[MergedStateDict, dict[str, tuple[int, ...]]]:
    shapes = {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
    rename = _renaming(network) if source.published else (lambda name: name)
    suppliers: dict[str, tuple[TensorFile, str]] = {}
    ignored: dict[str, None] = {}
    wrong: list[str] = []
    for file in files:
        for name, shape in file.shapes().items():
            key = rename(name)
            if key not in shapes:
                ignored[name] = None
            elif shape != shapes[key]:
                wrong.append(f"{name} has shape {list(shape)} in {file.label}, the network needs {list(shapes[key])}")
            else:
                suppliers[key] = (file, name)
        if len(files) > 1:  # an old file that is not a zip archive is in memory as a whole
            file.release()
    if wrong:
        more = f" (and {len(wrong) - 3} more)" if len(wrong) > 3 else ""
        raise WeightsError(f"{network}: {'; '.join(wrong[:3])}{more}. Is this the right file and model size?")
    absent = tuple(key for key in shapes if key not in suppliers and source.published and _may_be_absent(key))
    ordered = {key: suppliers[key] for key in sorted(suppliers, key=lambda key: files.index(suppliers[key][0]))}
    return MergedStateDict(network, ordered, absent, tuple(ignored)), shapes


def missing_names(source: WeightsSource, network: str, module: nn.Module) -> list[str]:
    """Keys that the files of a network must have and do not, whatever the shapes."""
    found: set[str] = set()
    rename = _renaming(network)
    for weights in source.files[network]:
        file = open_tensors(weights)
        found.update(map(rename, file.shapes()))
        file.release()
    return [key for key in module.state_dict() if key not in found and not _may_be_absent(key)]


def _may_be_absent(key: str) -> bool:
    """Tables that are computed, and the head that is never evaluated (docs/reference/weights.md sections 4 and 6)."""
    return key.rpartition(".")[2] in ("pe", "idx_tensor") or key.startswith("detector.fc_exp.")


def _renaming(network: str) -> Callable[[str], str]:
    if network != "vae":
        return lambda name: name

    def rename(name: str) -> str:
        prefix, middle, rest = name.partition(".mid_block.attentions.0.")
        part, _, leaf = rest.rpartition(".")
        return f"{prefix}{middle}{_LEGACY_ATTENTION[part]}.{leaf}" if part in _LEGACY_ATTENTION else name

    return rename


def _missing_message(source: WeightsSource, network: str, missing: Sequence[str], files: Sequence[TensorFile]) -> str:
    looked = ", ".join(file.label for file in files)
    message = f"{network}: {len(missing)} keys are missing, first {', '.join(missing[:3])}; looked in {looked}."
    if network == "denoising_unet" and source.absent_base:
        message += f" The base UNet, which may hold them, is not there: {source.absent_base}. {DOWNLOAD_HINT}."
    return message


def _check_ignored(source: WeightsSource, network: str, ignored: Sequence[str]) -> None:
    unknown = [name for name in ignored if not name.endswith(".position_ids")]
    if not unknown:
        return
    message = f"{network}: {len(unknown)} keys of the files are unknown, first {', '.join(unknown[:3])}"
    if network in _STRICT or not source.published:
        raise WeightsError(f"{message}. The files belong to another network or version.")
    logger.warning("%s; they are ignored", message)
