"""Copies between the host and a device that do not make the host wait for the device's other work."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on `device`; what is there already is not copied.

    The copy to a GPU goes through page-locked memory, which PyTorch keeps for the next copy.
    """
    if device.type != "cuda" or tensor.device.type != "cpu" or tensor.dtype == torch.bfloat16:
        return tensor.to(device)
    staged = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    # NumPy copies in this thread: waking PyTorch's threads takes longer where other processes have the cores.
    np.copyto(staged.numpy(), tensor.detach().numpy())
    return staged.to(device, non_blocking=True)


def download(tensor: Tensor) -> npt.NDArray[np.uint8]:
    """A tensor's values on the host, which waits for them; in memory that only the caller has."""
    if tensor.device.type != "cuda":
        values: npt.NDArray[np.uint8] = tensor.numpy()
        return values
    staged = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    staged.copy_(tensor, non_blocking=True)
    torch.cuda.current_stream(tensor.device).synchronize()
    copied: npt.NDArray[np.uint8] = staged.numpy().copy()
    return copied
