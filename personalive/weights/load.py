"""From files to a network: which file supplies which key, then one tensor after the other.

Nothing is ever half loaded: what a network lacks or has in another shape is found before the first tensor is read.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from personalive.errors import DeviceMemoryError, WeightsError
from personalive.models.motion_extractor import Float32LayerNorm
from personalive.weights.source import DOWNLOAD_HINT, LoadReport, WeightsSource
from personalive.weights.tensors import TensorFile, open_tensors

logger = logging.getLogger(__name__)

_STRICT = frozenset({"reference_unet", "motion_encoder", "pose_guider"})
"""Networks whose published file holds exactly the network's keys (spec/weights.md section 3)."""
_LEGACY_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""How old VAE files call the parts of the middle attention (spec/weights.md section 5)."""
_FLOATS = frozenset({torch.float64, torch.float32, torch.float16, torch.bfloat16})


@dataclass(frozen=True)
class Assembly:
    """Which open file has each key of a network under which name."""

    suppliers: dict[str, tuple[TensorFile, str]]
    absent: tuple[str, ...]
    """Keys that no file needs to have."""
    ignored: tuple[str, ...]


def load_into(
    source: WeightsSource, network: str, module: nn.Module, *, dtype: torch.dtype, device: torch.device
) -> LoadReport:
    """Give a network its weights, in the dtype asked for but for what stays in fp32 (spec/model.md section 12).

    Host memory stays below the largest file and a few tensors: a tensor is converted and moved before the next is read.

    Args:
        module: built for `source.config`; its parameters may lie on the meta device.

    Raises:
        WeightsError: a file is damaged, a key is missing or unknown, a shape differs, a value is not finite.
        DeviceMemoryError: the device is full.
    """
    begin = time.monotonic()
    with assemble(source, network, module) as assembly:
        targets = target_dtypes(module, dtype)
        try:
            state = {
                key: read(assembly, network, key, initial, targets[key], device)
                for key, initial in module.state_dict().items()
            }
            require_finite(network, state)
            module.load_state_dict(state, assign=True)
            _move_tables(module, set(state), dtype, device)
        except torch.OutOfMemoryError as error:
            raise DeviceMemoryError(f"{device} has too little memory for the {network}: {error}") from error
        report = LoadReport(
            network=network,
            suppliers=Counter(file.label for file, _ in assembly.suppliers.values()),
            computed=assembly.absent,
            ignored=assembly.ignored,
            seconds=time.monotonic() - begin,
        )
    logger.info("%s", report)
    return report


def target_dtypes(module: nn.Module, dtype: torch.dtype) -> dict[str, torch.dtype]:
    """The dtype that each entry of the state dict has in a model of the given dtype."""
    float32 = {
        f"{prefix}.{name}" if prefix else name
        for prefix, part in module.named_modules()
        if isinstance(part, Float32LayerNorm)
        for name, _ in part.named_parameters(recurse=False)
    }
    return {
        key: torch.float32 if key in float32 else dtype if tensor.is_floating_point() else tensor.dtype
        for key, tensor in module.state_dict().items()
    }


def read(
    assembly: Assembly, network: str, key: str, initial: Tensor, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """One tensor of a network, as a copy that no longer refers to the file.

    Args:
        initial: what the network was built with: the value of a table that no file has.
    """
    if key in assembly.suppliers:
        file, name = assembly.suppliers[key]
        stored = file.read(name)
        if dtype.is_floating_point and stored.dtype not in _FLOATS:
            raise WeightsError(f"{network}: {name} holds {stored.dtype} in {file.label}, not floating-point numbers")
        # Moved first: a device converts faster than the host.
        same = device.type == "cpu" and stored.dtype == dtype
        return stored.to(device).to(dtype, copy=same).contiguous()
    if initial.is_meta:  # the absent weights that no output depends on
        return torch.zeros(initial.shape, dtype=dtype, device=device)
    return initial.to(device).to(dtype, copy=True)


@contextmanager
def assemble(source: WeightsSource, network: str, module: nn.Module) -> Iterator[Assembly]:
    """Open a network's files and decide which supplies what; later files win.

    Raises:
        WeightsError: as `load_into`, but for values.
    """
    with ExitStack() as stack:
        files = [stack.enter_context(open_tensors(file)) for file in source.files[network]]
        assembly, shapes = _union(source, network, module, files)
        missing = [key for key in shapes if key not in assembly.suppliers and key not in assembly.absent]
        if missing:
            raise WeightsError(_missing_message(source, network, missing, files))
        _check_ignored(source, network, assembly.ignored)
        yield assembly


def _union(
    source: WeightsSource, network: str, module: nn.Module, files: Sequence[TensorFile]
) -> tuple[Assembly, dict[str, tuple[int, ...]]]:
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
    if wrong:
        more = f" (and {len(wrong) - 3} more)" if len(wrong) > 3 else ""
        raise WeightsError(f"{network}: {'; '.join(wrong[:3])}{more}. Is this the right file and model size?")
    absent = tuple(key for key in shapes if key not in suppliers and source.published and _may_be_absent(key))
    return Assembly(suppliers, absent, tuple(ignored)), shapes


def missing_names(source: WeightsSource, network: str, module: nn.Module) -> list[str]:
    """Keys that the files of a network must have and do not, whatever the shapes."""
    found: set[str] = set()
    rename = _renaming(network)
    for weights in source.files[network]:
        with open_tensors(weights) as file:
            found.update(map(rename, file.shapes()))
    return [key for key in module.state_dict() if key not in found and not _may_be_absent(key)]


def _may_be_absent(key: str) -> bool:
    """Tables that are computed, and the head that is never evaluated (spec/weights.md sections 4 and 6)."""
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


def require_finite(network: str, state: Mapping[str, Tensor]) -> None:
    """Refuse values that are no numbers, or too large for the dtype.

    Raises:
        WeightsError: a tensor holds infinities or NaN.
    """
    floats = {key: tensor for key, tensor in state.items() if tensor.dtype in _FLOATS}
    # A sum is finite only where all its terms are; the device is asked once.
    sums = [tensor.sum(dtype=torch.float32) for tensor in floats.values()]
    finite = torch.stack(sums).isfinite().tolist() if sums else []
    bad = [key for key, good in zip(floats, finite, strict=True) if not good]
    if bad:
        raise WeightsError(
            f"{network}: {len(bad)} tensors hold values that are not finite in {state[bad[0]].dtype}, first {bad[0]}"
        )


def _move_tables(module: nn.Module, loaded: set[str], dtype: torch.dtype, device: torch.device) -> None:
    """Tables that are in no state dict were computed when the network was built: they only change place and dtype."""
    for key, table in list(module.named_buffers()):
        if key not in loaded:
            owner, _, name = key.rpartition(".")
            wanted = dtype if table.is_floating_point() else table.dtype
            module.get_submodule(owner).register_buffer(name, table.to(device, wanted), persistent=False)
