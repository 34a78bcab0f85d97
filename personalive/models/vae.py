"""The image autoencoder, diffusers' AutoencoderKL, under its published names (docs/reference/weights.md)."""

from torch import Tensor, nn

from personalive.config import VAEConfig
from personalive.models.blocks import dense
from personalive.models.libraries import libraries


class VAE(nn.Module):
    """Image ↔ latents, which are not scaled here."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        levels = len(config.block_channels)
        published = libraries()[0].AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=config.block_channels,
            layers_per_block=config.layers_per_block,
            latent_channels=config.latent_channels,
            norm_num_groups=config.norm_groups,
            scaling_factor=config.scaling_factor,
        )
        self.encoder: nn.Module = published.encoder
        self.quant_conv: nn.Module = published.quant_conv
        self.post_quant_conv: nn.Module = published.post_quant_conv
        self.decoder: nn.Module = published.decoder

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images [n, 3, H, W] in [-1, 1] → mean and log of the variance of their latents, [n, c, h, w] each."""
        mean, log_variance = self.quant_conv(self.encoder(dense(images))).chunk(2, dim=1)
        return mean, log_variance

    def decode(self, latents: Tensor) -> Tensor:
        """Latents [n, c, h, w] → images [n, 3, H, W], nominally in [-1, 1]."""
        out: Tensor = self.decoder(self.post_quant_conv(dense(latents)))
        return out

    def replace_decoder(self, decoder: nn.Module) -> None:
        """Decode with another network from now on; the original decoder is dropped."""
        self.post_quant_conv, self.decoder = nn.Identity(), decoder
