"""Random patterns in space, made once and looked up from then on."""

import torch
import torch.nn.functional as F
from torch import Tensor

SIDE, SEED = 64, 2024


def make_volume(device: torch.device) -> Tensor:
    """Smooth noise that repeats, `[1, 2, 64, 64, 64]`, mean 0 and variance about 1: one fine and one coarse pattern."""
    generator = torch.Generator().manual_seed(SEED)
    fine = torch.randn(1, 1, SIDE, SIDE, SIDE, generator=generator)
    coarse = torch.randn(1, 1, SIDE // 4, SIDE // 4, SIDE // 4, generator=generator)
    coarse = F.interpolate(F.pad(coarse, (2,) * 6, mode="circular"), scale_factor=4, mode="trilinear")
    coarse = coarse[..., 8:-8, 8:-8, 8:-8]
    return torch.cat([part / part.std() for part in (fine, coarse)], dim=1).to(device)


def smooth_noise(volume: Tensor, places: Tensor) -> Tensor:
    """Noise `[B, H, W, 2]` at places `[B, H, W, 3]`, in periods of the volume."""
    count, _height, _width = places.shape[:3]
    grid = (places - places.floor()) * (2 * (SIDE - 1) / SIDE) - 1
    found = F.grid_sample(
        volume.expand(count, -1, -1, -1, -1), grid[:, None], mode="bilinear", padding_mode="border", align_corners=False
    )
    return found[:, :, 0].permute(0, 2, 3, 1)


def cell_noise(volume: Tensor, places: Tensor) -> Tensor:
    """The fine pattern in cells, uniform in [0, 1], `[n]`, at places `[n, 3]`, in periods of the volume."""
    index = ((places - places.floor()) * SIDE).long().clamp(0, SIDE - 1)
    flat = volume[0, 0].flatten()
    value = flat[(index[:, 2] * SIDE + index[:, 1]) * SIDE + index[:, 0]]
    uniform: Tensor = torch.special.ndtr(value)
    return uniform
