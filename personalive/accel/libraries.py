"""CUDA's libraries, which take a second or two to load at the first product or convolution of a process."""

from contextlib import suppress

import torch
import torch.nn.functional as F


@torch.inference_mode()
def load(device: torch.device, dtype: torch.dtype) -> None:
    """Load cuBLAS and cuDNN, best in a thread while weights are read. What fails here fails again where it matters."""
    with suppress(Exception), torch.cuda.device(device):
        image = torch.zeros(1, 64, 16, 16, device=device, dtype=dtype).to(memory_format=torch.channels_last)
        weight = torch.zeros(64, 64, 3, 3, device=device, dtype=dtype).to(memory_format=torch.channels_last)
        F.conv2d(image, weight, padding=1)
        F.linear(image.permute(0, 2, 3, 1), weight[..., 0, 0].contiguous())
        torch.cuda.synchronize(device)
