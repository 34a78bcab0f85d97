"""Loads weights into a network, one tensor at a time."""

import logging
import time
from collections import Counter
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from personalive.errors import DeviceMemoryError, WeightsError
from personalive.models import stored_dtype
from personalive.weights.source import LoadReport, WeightsSource
from personalive.weights.state_dict import FLOATS, merge_state_dict

logger = logging.getLogger(__name__)


def load_into(
    source: WeightsSource, network: str, module: nn.Module, *, dtype: torch.dtype, device: torch.device
) -> LoadReport:
    """Load a network's weights, in the requested dtype unless it stays in fp32 (`models.stored_dtype`).

    Host memory stays below the largest file and a few tensors: a tensor is converted and moved before the next is read.

    Args:
        module: built for `source.config`; its parameters may lie on the meta device.

    Raises:
        WeightsError: a file is damaged, a key is missing or unknown, a shape differs, a value is not finite.
        DeviceMemoryError: the device is full.
    """
    begin = time.monotonic()
    with merge_state_dict(source, network, module) as merged:
        targets = target_dtypes(module, dtype)
        try:
            initial = module.state_dict()
            state = {key: merged.read(key, initial[key], targets[key], device) for key in merged.keys}
            require_finite(network, state)
            module.load_state_dict(state, assign=True)
            _move_tables(module, set(state), stored_dtype(module, dtype), device)
        except torch.OutOfMemoryError as error:
            raise DeviceMemoryError(f"{device} has too little memory for the {network}: {error}") from error
        report = LoadReport(
            network=network,
            suppliers=Counter(file.label for file, _ in merged.suppliers.values()),
            computed=merged.absent,
            ignored=merged.ignored,
            seconds=time.monotonic() - begin,
        )
    logger.debug("%s", report)
    return report


def target_dtypes(module: nn.Module, dtype: torch.dtype) -> dict[str, torch.dtype]:
    """The dtype that each entry of the state dict has in a model of the given dtype."""
    dtype = stored_dtype(module, dtype)
    return {key: dtype if tensor.is_floating_point() else tensor.dtype for key, tensor in module.state_dict().items()}


def require_finite(network: str, state: Mapping[str, Tensor]) -> None:
    """Refuse values that are not numbers, or too large for the dtype.

    Raises:
        WeightsError: a tensor holds infinities or NaN.
    """
    floats = {key: tensor for key, tensor in state.items() if tensor.dtype in FLOATS and tensor.numel()}
    if not floats:
        return
    # The extremes are finite only if everything between them is; the device is asked once for all tensors.
    ends = [torch.stack(tensor.aminmax()).isfinite().all() for tensor in floats.values()]
    bad = [key for key, good in zip(floats, torch.stack(ends).tolist(), strict=True) if not good]
    if bad:
        raise WeightsError(
            f"{network}: {len(bad)} tensors hold values that are not finite in {state[bad[0]].dtype}, first {bad[0]}"
        )


def _move_tables(module: nn.Module, loaded: set[str], dtype: torch.dtype, device: torch.device) -> None:
    """Tables outside the state dict were computed when the network was built: they only change device and dtype."""
    for key, table in list(module.named_buffers()):
        if key not in loaded:
            owner, _, name = key.rpartition(".")
            wanted = dtype if table.is_floating_point() else table.dtype
            module.get_submodule(owner).register_buffer(name, table.to(device, wanted), persistent=False)
