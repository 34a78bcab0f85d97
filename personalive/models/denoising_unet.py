"""The denoising UNet (docs/reference/model.md sections 2 and 4).

Every unit is a resnet block, attention to the reference, attention to the motion tokens, and attention over the frames.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from personalive.config import UNetConfig
from personalive.models.blocks import GroupNorm, SpatialTransformer, TimeEmbedding, dense
from personalive.models.unet_stages import make_stages


@dataclass(frozen=True)
class ReferenceFeatures:
    """What the denoising UNet attends to: n portraits, each with the same number of keyframes."""

    embedding: Tensor
    """Image embeddings, [n, 1, e]."""
    banks: tuple[tuple[Tensor, ...], ...]
    """What the reference UNet made of the portraits, then of their keyframes in the order of insertion: for each
    spatial transformer [n, m, c]."""

    def with_keyframe(self, keyframe: "ReferenceFeatures") -> "ReferenceFeatures":
        """These features with a keyframe's tokens appended; the embedding stays the portrait's."""
        return ReferenceFeatures(self.embedding, self.banks + keyframe.banks)


class ReadingTransformer(SpatialTransformer):
    """Every frame attends to itself, to its portrait and to its keyframes."""

    place = 0
    """Its place among the UNet's spatial transformers, and so among the tensors of each bank."""

    def forward(self, x: Tensor, reference: ReferenceFeatures) -> Tensor:
        """Image [n·f, c, h, w] and the features of n portraits, each of which serves f images in a row → image."""
        times = len(x) // len(reference.embedding)
        embedding, *banks = (
            source.repeat_interleave(times, dim=0)
            for source in (reference.embedding, *(bank[self.place] for bank in reference.banks))
        )
        return self.transform(x, embedding, banks)[0]


class DenoisingUNet(nn.Module):
    """Predicts the noise (or v, or the clean latents) of one or more windows of frames."""

    down_blocks: Any  # lists of `Stage`
    up_blocks: Any

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        channels = config.block_channels
        self.conv_in = nn.Conv2d(config.latent_channels, channels[0], 3, padding=1)
        self.time_embedding = TimeEmbedding(channels[0], config.time_channels)
        self.down_blocks, self.mid_block, self.up_blocks = make_stages(config, ReadingTransformer, motion=True)
        self.conv_norm_out = GroupNorm(config.norm_groups, channels[0], eps=1e-5)
        self.conv_out = nn.Conv2d(channels[0], config.latent_channels, 3, padding=1)
        for place, spatial in enumerate(self.spatial_transformers):
            spatial.place = place

    @property
    def spatial_transformers(self) -> list[ReadingTransformer]:
        """In the order in which an image passes them, which is that of the reference UNet's banks."""
        stages = (*self.down_blocks, self.mid_block, *self.up_blocks)
        return [spatial for stage in stages for spatial in stage.attentions]

    def forward(
        self, latents: Tensor, timesteps: Tensor, motion_tokens: Tensor, pose: Tensor, reference: ReferenceFeatures
    ) -> Tensor:
        """One prediction for b windows of f frames, frames folded into the batch (b-major).

        Args:
            latents: [b·f, 4, h, w].
            timesteps: of the f frames of every window, 0 to 999, oldest frame first: [f].
            motion_tokens: [b·f, tokens, width].
            pose: pose features [b·f, c₀, h, w].
            reference: features of n portraits; each serves b/n windows in a row.

        Returns:
            The prediction, fp32 [b·f, 4, h, w].
        """
        latents, motion_tokens, pose = dense(latents), dense(motion_tokens), dense(pose)
        frames = len(timesteps)
        t_emb = self.time_embedding(timesteps).repeat(len(latents) // frames, 1)
        x = self.conv_in(latents) + pose
        skips = [x]
        for block in self.down_blocks:
            for resnet, spatial, motion, temporal in block.layers:
                x = resnet(x, t_emb)
                x = spatial(x, reference)
                x = motion(x, motion_tokens)
                x = temporal(x, frames)
                skips.append(x)
            for downsample in block.downsamplers:
                x = downsample(x)
                skips.append(x)
        middle, (first, last) = self.mid_block, self.mid_block.resnets
        x = first(x, t_emb)
        x = middle.attentions[0](x, reference)
        x = middle.motion_modules[0](x, motion_tokens)
        x = middle.temporal_modules[0](x, frames)
        x = last(x, t_emb)
        for block in self.up_blocks:
            for resnet, spatial, motion, temporal in block.layers:
                x = resnet(torch.cat((x, skips.pop()), dim=1), t_emb)
                x = spatial(x, reference)
                x = motion(x, motion_tokens)
                x = temporal(x, frames)
            for upsample in block.upsamplers:
                x = upsample(x, skips[-1].shape[2:])
        x = F.silu(self.conv_norm_out(x))
        # In fp32: at the noisiest timestep the sampler magnifies the prediction's rounding 66 times.
        weight, bias = (parameter.float() for parameter in self.conv_out.parameters())
        return F.conv2d(x.float(), weight, bias, padding=1)
