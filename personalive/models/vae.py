"""The image autoencoder of Stable Diffusion, under its published names (docs/reference/model.md section 10)."""

import itertools
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from personalive.config import VAEConfig
from personalive.models.blocks import dense, to_image, to_tokens

EPS = 1e-6
"""Of every norm. Norms are PyTorch's own, as `VAE` always gives them dense images; goldens come from others."""


class VAEResnetBlock(nn.Module):
    """Two convolutions without a time embedding."""

    time_emb_proj = None

    def __init__(self, in_channels: int, out_channels: int, norm_groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(norm_groups, in_channels, eps=EPS)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(norm_groups, out_channels, eps=EPS)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else None

    def forward(self, x: Tensor) -> Tensor:
        """Image [n, in, h, w] → [n, out, h, w]."""
        hidden = self.conv1(F.silu(self.norm1(x)))
        hidden = self.conv2(F.silu(self.norm2(hidden)))
        shortcut = x if self.conv_shortcut is None else self.conv_shortcut(x)
        out: Tensor = shortcut + hidden
        return out


class VAEAttention(nn.Module):
    """Attention with one head among the pixels of an image."""

    def __init__(self, channels: int, norm_groups: int) -> None:
        super().__init__()
        self.group_norm = nn.GroupNorm(norm_groups, channels, eps=EPS)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        """Image [n, c, h, w] → the same shape."""
        tokens = to_tokens(self.group_norm(x))
        query, key, value = (projection(tokens)[:, None] for projection in (self.to_q, self.to_k, self.to_v))
        attended = F.scaled_dot_product_attention(query, key, value)[:, 0]
        return x + to_image(self.to_out[0](attended), like=x)


class MiddleBlock(nn.Module):
    """What encoder and decoder do at the lowest resolution."""

    def __init__(self, channels: int, norm_groups: int) -> None:
        super().__init__()
        self.attentions = nn.ModuleList([VAEAttention(channels, norm_groups)])
        self.resnets = nn.ModuleList(VAEResnetBlock(channels, channels, norm_groups) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """Image [n, c, h, w] → the same shape."""
        before, after = self.resnets
        out: Tensor = after(self.attentions[0](before(x)))
        return out


class HalvingConv(nn.Module):
    """Halves height and width with a strided convolution, padded on the right and at the bottom only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
        return out


class DoublingConv(nn.Module):
    """Doubles height and width by nearest neighbour, then convolves."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return out


class EncoderLevel(nn.Module):
    """The encoder's layers of one resolution, and what leads to the next."""

    def __init__(self, in_channels: int, out_channels: int, config: VAEConfig, *, last: bool) -> None:
        super().__init__()
        self.resnets = _resnets(in_channels, out_channels, config.layers_per_block, config.norm_groups)
        self.downsamplers = nn.ModuleList([] if last else [HalvingConv(out_channels)])

    def forward(self, x: Tensor) -> Tensor:
        """Image [n, in, h, w] → [n, out, h/2, w/2], or [n, out, h, w] in the last level."""
        for layer in (*self.resnets, *self.downsamplers):
            x = layer(x)
        return x


class DecoderLevel(nn.Module):
    """The decoder's layers of one resolution, and what leads to the next."""

    def __init__(self, in_channels: int, out_channels: int, config: VAEConfig, *, last: bool) -> None:
        super().__init__()
        self.resnets = _resnets(in_channels, out_channels, config.layers_per_block + 1, config.norm_groups)
        self.upsamplers = nn.ModuleList([] if last else [DoublingConv(out_channels)])

    def forward(self, x: Tensor) -> Tensor:
        """Image [n, in, h, w] → [n, out, 2h, 2w], or [n, out, h, w] in the last level."""
        for layer in (*self.resnets, *self.upsamplers):
            x = layer(x)
        return x


class Encoder(nn.Module):
    """Image → mean and log of the variance of its latents, before `quant_conv`."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widths = config.block_channels
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(
            EncoderLevel(before, width, config, last=level == len(widths) - 1)
            for level, (before, width) in enumerate(_steps(widths))
        )
        self.mid_block = MiddleBlock(widths[-1], config.norm_groups)
        self.conv_norm_out = nn.GroupNorm(config.norm_groups, widths[-1], eps=EPS)
        self.conv_out = nn.Conv2d(widths[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        """Images [n, 3, H, W] in [-1, 1] → [n, 2c, h, w]."""
        x = self.conv_in(images)
        for level in self.down_blocks:
            x = level(x)
        out: Tensor = self.conv_out(F.silu(self.conv_norm_out(self.mid_block(x))))
        return out


class Decoder(nn.Module):
    """Latents → image, after `post_quant_conv`."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widths = config.block_channels[::-1]
        self.conv_in = nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.mid_block = MiddleBlock(widths[0], config.norm_groups)
        self.up_blocks = nn.ModuleList(
            DecoderLevel(before, width, config, last=level == len(widths) - 1)
            for level, (before, width) in enumerate(_steps(widths))
        )
        self.conv_norm_out = nn.GroupNorm(config.norm_groups, widths[-1], eps=EPS)
        self.conv_out = nn.Conv2d(widths[-1], 3, 3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        """Latents [n, c, h, w] → images [n, 3, H, W], nominally in [-1, 1]."""
        x = self.mid_block(self.conv_in(latents))
        for level in self.up_blocks:
            x = level(x)
        out: Tensor = self.conv_out(F.silu(self.conv_norm_out(x)))
        return out


class VAE(nn.Module):
    """Image ↔ latents, which are not scaled here."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        latents = config.latent_channels
        self.encoder: nn.Module = Encoder(config)
        self.quant_conv: nn.Module = nn.Conv2d(2 * latents, 2 * latents, 1)
        self.post_quant_conv: nn.Module = nn.Conv2d(latents, latents, 1)
        self.decoder: nn.Module = Decoder(config)

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


def _resnets(in_channels: int, out_channels: int, count: int, norm_groups: int) -> nn.ModuleList:
    widths = [in_channels] + [out_channels] * (count - 1)
    return nn.ModuleList(VAEResnetBlock(width, out_channels, norm_groups) for width in widths)


def _steps(widths: Sequence[int]) -> list[tuple[int, int]]:
    """Channels before and after each level."""
    return list(itertools.pairwise((widths[0], *widths)))
