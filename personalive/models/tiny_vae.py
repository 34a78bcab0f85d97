"""A tiny decoder in place of the VAE's: much faster, and less exact. TAESD's layers, under diffusers' names."""

import torch.nn.functional as F
from torch import Tensor, nn

from personalive.config import VAEConfig

CHANNELS = 64
BLOCKS = (3, 3, 3, 1)
"""Residual blocks at each resolution."""


class TinyBlock(nn.Module):
    """Three convolutions and their input."""

    def __init__(self) -> None:
        super().__init__()
        first, second, third = (nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1) for _ in range(3))
        self.conv = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third)

    def forward(self, x: Tensor) -> Tensor:
        """Image [n, c, h, w] → the same shape."""
        return F.relu(self.conv(x) + x)


class TinyLayers(nn.Module):
    """Latents as the UNet sees them → image."""

    def __init__(self, latent_channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(latent_channels, CHANNELS, 3, padding=1), nn.ReLU()]
        for count in BLOCKS[:-1]:
            layers += [TinyBlock() for _ in range(count)]
            layers += [nn.Upsample(scale_factor=2), nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False)]
        layers += [*(TinyBlock() for _ in range(BLOCKS[-1])), nn.Conv2d(CHANNELS, 3, 3, padding=1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, latents: Tensor) -> Tensor:
        """Latents [n, c, h, w], limited to ±3 → image [n, 3, 8h, 8w], nominally in [-1, 1]."""
        out: Tensor = self.layers((latents / 3).tanh() * 3)
        return out * 2 - 1


class TinyDecoder(nn.Module):
    """Latents → image, from latents that are divided by the scaling factor, as the VAE's own decoder takes them.

    The tiny one itself takes them as the UNet sees them.
    """

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.scaling_factor = config.scaling_factor
        self.decoder = TinyLayers(config.latent_channels)

    def forward(self, latents: Tensor) -> Tensor:
        """Latents [n, c, h, w], already divided by the scaling factor → image [n, 3, 8h, 8w], nominally in [-1, 1]."""
        out: Tensor = self.decoder(latents * self.scaling_factor)
        return out
