"""Both UNets with their layers merged, for inference only: the same results up to rounding.

What is the same in every step is computed once: what the timesteps and the image embedding add, and keys and values of
the portrait and its keyframes. Images are channels-last in memory, so tokens are a view of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from personalive.accel.fuse.images import FusedGroupNorm, FusedResnetBlock, FusedUpsample, fold_upsample_biases
from personalive.accel.fuse.transformers import (
    FusedMotionTransformer,
    FusedSpatialTransformer,
    FusedTemporalTransformer,
)
from personalive.accel.ops.reference import Operations
from personalive.models.blocks import dense


@dataclass(frozen=True)
class ProjectedReference:
    """What a fused denoising UNet attends to: one portrait and its keyframes."""

    context: tuple[Tensor, ...]
    """What the image embedding adds, per spatial transformer: [1, 1, c]."""
    banks: tuple[tuple[Tensor, ...], ...]
    """The portrait's, then those of its keyframes: keys of every spatial transformer, then values, [1, m, c] each."""

    def with_keyframe(self, keyframe: "ProjectedReference") -> "ProjectedReference":
        """These features with a keyframe's keys and values appended; the context stays."""
        return ProjectedReference(self.context, self.banks + keyframe.banks)

    def at(self, place: int) -> tuple[Tensor, Tensor, Tensor]:
        """Context, keys and values for the spatial transformer with that index, the banks one after another."""
        keys = [bank[place] for bank in self.banks]
        values = [bank[len(self.context) + place] for bank in self.banks]
        if len(self.banks) == 1:
            return self.context[place], keys[0], values[0]
        return self.context[place], torch.cat(keys, dim=1), torch.cat(values, dim=1)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors; a keyframe's come after those before it."""
        return sum(self.banks, self.context)

    @classmethod
    def of(cls, tensors: Sequence[Tensor], places: int) -> "ProjectedReference":
        """The inverse of `tensors`, for that many spatial transformers."""
        starts = range(places, len(tensors), 2 * places)
        return cls(tuple(tensors[:places]), tuple(tuple(tensors[start : start + 2 * places]) for start in starts))


class FusedStage(nn.Module):
    """The layers of one resolution. It runs as one call, so its weights may be elsewhere until then."""

    first_resnet = first_attention = 0
    """Indices of its first layers among all of the UNet's."""

    def __init__(self, stage: Any, operations: Operations, frames: int) -> None:
        """Consume the layers of a plain stage.

        Args:
            frames: frames per window.
        """
        super().__init__()
        self.pushes, self.pops = hasattr(stage, "downsamplers"), hasattr(stage, "upsamplers")
        self.resnets = nn.ModuleList(FusedResnetBlock(block, operations) for block in _taken(stage.resnets))
        self.attentions = nn.ModuleList(
            FusedSpatialTransformer(layer, operations) for layer in _taken(stage.attentions)
        )
        motion, temporal = (getattr(stage, name, ()) for name in ("motion_modules", "temporal_modules"))
        self.motion_modules = nn.ModuleList(
            FusedMotionTransformer(layer.temporal_transformer, operations) for layer in _taken(motion)
        )
        self.temporal_modules = nn.ModuleList(
            FusedTemporalTransformer(layer.temporal_transformer, frames, operations) for layer in _taken(temporal)
        )
        self.downsamplers = nn.ModuleList(getattr(stage, "downsamplers", ()))
        self.upsamplers = nn.ModuleList(FusedUpsample(layer) for layer in getattr(stage, "upsamplers", ()))

    def run(self, x: Tensor, skips: list[Tensor], *conditions: Any) -> Tensor:
        """Units, each with the skips that it takes or leaves, then what leads to the next resolution."""
        for j in range(len(self.resnets)):
            if self.pops:
                x = torch.cat((x, skips.pop()), dim=1)
            x = self.unit(j, x, *conditions)
            if self.pushes:
                skips.append(x)
        for downsample in self.downsamplers:
            x = downsample(x)
            skips.append(x)
        for upsample in self.upsamplers:
            x = upsample(x, skips[-1].shape[2:])
        return x

    def unit(self, j: int, x: Tensor, *conditions: Any) -> Tensor:
        """The layers of unit j."""
        raise NotImplementedError


class FusedReferenceStage(FusedStage):
    """A stage of the reference UNet."""

    wanted = 0
    """Spatial transformers of the whole UNet: what follows the last one is not needed."""

    def forward(self, x: Tensor, skips: list[Tensor], t_emb: Tensor, embedding: Tensor, banks: list[Tensor]) -> Tensor:
        """Image [n, c, h, w] → image of the next resolution; appends to `banks`."""
        return self.run(x, skips, t_emb, embedding, banks)

    def unit(self, j: int, x: Tensor, *conditions: Any) -> Tensor:
        t_emb, embedding, banks = conditions
        resnet: Any = self.resnets[j]
        x = resnet(x, resnet.embed_time(t_emb))
        if j < len(self.attentions):
            attention: Any = self.attentions[j]
            x = attention.write(x, embedding, banks, last=len(banks) + 1 == self.wanted)
        return x


class FusedDenoisingStage(FusedStage):
    """A stage of the denoising UNet."""

    def forward(
        self, x: Tensor, skips: list[Tensor], time: Sequence[Tensor], motion: Tensor, reference: ProjectedReference
    ) -> Tensor:
        """Image [n, c, h, w] → image of the next resolution; `time` has what the timesteps add to every resnet."""
        return self.run(x, skips, time, motion, reference)

    def unit(self, j: int, x: Tensor, *conditions: Any) -> Tensor:
        time, motion, reference = conditions
        x = self.resnets[j](x, time[self.first_resnet + j])
        if j < len(self.attentions):
            attention: Any = self.attentions[j]
            x = attention.read(x, *reference.at(self.first_attention + j))
        if j < len(self.motion_modules):
            x = self.motion_modules[j](x, motion)
            x = self.temporal_modules[j](x, len(x))
        return x


class FusedReferenceUNet(nn.Module):
    """See `ReferenceUNet`."""

    def __init__(self, unet: Any, operations: Operations, frames: int) -> None:
        """Consume a plain one."""
        super().__init__()
        self.conv_in, self.time_embedding = unet.conv_in, unet.time_embedding
        self.stages = _stages(unet, FusedReferenceStage, operations, frames)
        wanted = sum(len(stage.attentions) for stage in self.stages)
        for stage in self.stages:
            stage.wanted = wanted

    def forward(self, latents: Tensor, embedding: Tensor) -> tuple[Tensor, ...]:
        """Latents [n, 4, h, w] and image embedding [n, 1, e] → one bank [n, tokens, c] per spatial transformer."""
        embedding = dense(embedding)
        t_emb = self.time_embedding(torch.zeros(len(latents), dtype=torch.long, device=latents.device))
        banks: list[Tensor] = []
        x = self.conv_in(latents.contiguous(memory_format=torch.channels_last))
        skips = [x]
        for stage in self.stages:
            x = stage(x, skips, t_emb, embedding, banks)
        return tuple(banks)


class FusedDenoisingUNet(nn.Module):
    """See `DenoisingUNet`; it takes one window at a time, of one portrait."""

    def __init__(self, unet: Any, operations: Operations, frames: int) -> None:
        """Consume a plain one."""
        super().__init__()
        self.conv_in, self.time_embedding, self.conv_out = unet.conv_in, unet.time_embedding, unet.conv_out
        self.conv_norm_out = FusedGroupNorm(unet.conv_norm_out, operations, silu=True)
        self.stages = _stages(unet, FusedDenoisingStage, operations, frames)

    @property
    def attentions(self) -> list[FusedSpatialTransformer]:
        """All spatial transformers, in the order in which an image passes them."""
        return [layer for stage in self.stages for layer in stage.attentions]

    def embed_time(self, timesteps: Tensor) -> tuple[Tensor, ...]:
        """Timesteps [frames], 0 to 999 → what each resnet block adds, in their order: [frames, channels]."""
        t_emb = self.time_embedding(timesteps)
        return tuple(resnet.embed_time(t_emb) for stage in self.stages for resnet in stage.resnets)

    def project_reference(self, banks: Sequence[Tensor], embedding: Tensor) -> ProjectedReference:
        """Banks of the reference UNet and image embedding [1, 1, e] → features for any number of steps."""
        pairs = [layer.project_bank(bank) for layer, bank in zip(self.attentions, banks, strict=True)]
        keys, values = zip(*pairs, strict=True)
        return ProjectedReference(tuple(layer.embed_image(embedding) for layer in self.attentions), ((*keys, *values),))

    def forward(
        self, latents: Tensor, time: Sequence[Tensor], motion: Tensor, pose: Tensor, reference: ProjectedReference
    ) -> Tensor:
        """Latents [f, 4, h, w] of a window, `embed_time`'s result, and the rest as in `DenoisingUNet`."""
        motion, pose = dense(motion), pose.contiguous(memory_format=torch.channels_last)
        x = self.conv_in(latents.contiguous(memory_format=torch.channels_last)) + pose
        skips = [x]
        for stage in self.stages:
            x = stage(x, skips, time, motion, reference)
        x = self.conv_norm_out(x)
        return F.conv2d(x.float(), self.conv_out.weight.float(), self.conv_out.bias.float(), padding=1)


def fold_decoder_path(unet: FusedReferenceUNet | FusedDenoisingUNet) -> None:
    """Let the upsamplers of a UNet leave their biases to the resnet blocks after them, in place."""
    fold_upsample_biases(decoder_path(unet))


def decoder_path(unet: Any) -> list[nn.Module]:
    """Resnet blocks and upsamplers of a UNet's second half, in the order in which an image passes them."""
    return [layer for stage in unet.stages if stage.pops for layer in (*stage.resnets, *stage.upsamplers)]


def _stages(unet: Any, kind: type[FusedStage], operations: Operations, frames: int) -> Any:
    """Fused stages in the order in which an image passes them, as a `ModuleList`."""
    stages = nn.ModuleList()
    resnets = attentions = 0
    for plain in (*unet.down_blocks, unet.mid_block, *unet.up_blocks):
        stage = kind(plain, operations, frames)
        stage.first_resnet, stage.first_attention = resnets, attentions
        resnets += len(stage.resnets)
        attentions += len(stage.attentions)
        stages.append(stage)
    return stages


def _taken(layers: Any) -> Any:
    """Layers one by one. None is kept, so each one's weights are freed before the next one is processed."""
    for index in range(len(layers)):
        layer, layers[index] = layers[index], nn.Identity()
        yield layer
        del layer
