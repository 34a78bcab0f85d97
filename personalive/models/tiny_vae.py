"""A tiny decoder in place of the VAE's: much faster, and less exact. TAESD's layout, as in diffusers."""

from typing import Any

from torch import Tensor, nn

from personalive.config import VAEConfig
from personalive.models.libraries import libraries


class TinyDecoder(nn.Module):
    """Latents → image, from latents that are divided by the scaling factor, as the VAE's own decoder takes them.

    The tiny one itself takes them as the UNet sees them.
    """

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        diffusers = libraries()[0]
        self.scaling_factor = config.scaling_factor
        self.decoder: Any = diffusers.AutoencoderTiny(latent_channels=config.latent_channels).decoder

    def forward(self, latents: Tensor) -> Tensor:
        """Latents [n, c, h, w], already divided by the scaling factor → image [n, 3, 8h, 8w], nominally in [-1, 1]."""
        out: Tensor = self.decoder(latents * self.scaling_factor)
        return out
