"""Portrait or keyframe → the tokens that the denoising UNet attends to (docs/reference/model.md section 3).

Only the inputs of its self-attentions are used; its final image is discarded.
"""

from typing import Any

import torch
from torch import Tensor, nn

from personalive.config import UNetConfig
from personalive.models.blocks import SpatialTransformer, TimeEmbedding, dense
from personalive.models.unet_stages import make_stages


class WritingTransformer(SpatialTransformer):
    """A spatial transformer that leaves the input of its self-attention for the denoising UNet to read."""

    def forward(self, x: Tensor, embedding: Tensor, banks: list[Tensor]) -> Tensor:
        """Image [n, c, h, w] and image embedding [n, 1, e] → image; appends [n, h·w, c] to `banks`."""
        x, bank = self.transform(x, embedding)
        banks.append(bank)
        return x


class ReferenceUNet(nn.Module):
    """Looks at a clean latent image at timestep 0."""

    down_blocks: Any  # lists of `Stage`
    up_blocks: Any

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        channels = config.block_channels
        self.conv_in = nn.Conv2d(config.latent_channels, channels[0], 3, padding=1)
        self.time_embedding = TimeEmbedding(channels[0], config.time_channels)
        self.down_blocks, self.mid_block, self.up_blocks = make_stages(config, WritingTransformer, motion=False)

    def forward(self, latents: Tensor, embedding: Tensor) -> tuple[Tensor, ...]:
        """Latents [n, 4, h, w] (scaled, without noise) and image embedding [n, 1, e] → one bank per transformer.

        A bank is the input of a self-attention, [n, tokens, c]; they are in the order in which the image passes.
        """
        latents, embedding = dense(latents), dense(embedding)
        t_emb = self.time_embedding(torch.zeros(len(latents), dtype=torch.long, device=latents.device))
        banks: list[Tensor] = []
        x = self.conv_in(latents)
        skips = [x]
        for block in self.down_blocks:
            for resnet, spatial in block.layers:
                x = resnet(x, t_emb)
                x = spatial(x, embedding, banks)
                skips.append(x)
            for downsample in block.downsamplers:
                x = downsample(x)
                skips.append(x)
        first, last = self.mid_block.resnets
        x = first(x, t_emb)
        x = self.mid_block.attentions[0](x, embedding, banks)
        x = last(x, t_emb)
        for block in self.up_blocks:
            for resnet, spatial in block.layers:
                x = resnet(torch.cat((x, skips.pop()), dim=1), t_emb)
                x = spatial(x, embedding, banks)
            for upsample in block.upsamplers:
                x = upsample(x, skips[-1].shape[2:])
        return tuple(banks)
