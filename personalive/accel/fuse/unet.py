"""Both UNets with their layers merged, for inference only: the same results up to rounding.

What is the same in every step is computed once: what the timesteps and the image embedding add, and keys and values of
the portrait and its keyframes. Images are channels-last in memory, so tokens are a view of them.
"""

import itertools
from collections.abc import Callable, Sequence
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


class FusedReferenceUnit(nn.Module):
    """A resnet block of the reference UNet, and the spatial transformer after it where there is one.

    It runs as one call, so its weights may be elsewhere until then.
    """

    is_last = False
    """Whether what follows the transformer's self-attention is not needed."""

    def __init__(self, resnet: FusedResnetBlock, attention: FusedSpatialTransformer | None) -> None:
        super().__init__()
        self.resnet, self.attention = resnet, attention

    def forward(self, x: Tensor, t_emb: Tensor, embedding: Tensor, banks: list[Tensor]) -> Tensor:
        """Image [n, c, h, w] → image; appends to `banks`."""
        x, sums = self.resnet(x, self.resnet.embed_time(t_emb))
        return x if self.attention is None else self.attention.write(x, sums, embedding, banks, last=self.is_last)


class FusedDenoisingUnit(nn.Module):
    """A resnet block of the denoising UNet, and the transformers after it where there are any."""

    def __init__(
        self,
        resnet: FusedResnetBlock,
        attention: FusedSpatialTransformer | None,
        motion: FusedMotionTransformer | None,
        temporal: FusedTemporalTransformer | None,
        places: tuple[int, int],
    ) -> None:
        """`places`: the resnet block's among those of the UNet, and the spatial transformer's."""
        super().__init__()
        self.resnet, self.attention, self.motion, self.temporal = resnet, attention, motion, temporal
        self.places = places

    def forward(self, x: Tensor, time: Sequence[Tensor], motion: Tensor, reference: ProjectedReference) -> Tensor:
        """Image [f, c, h, w] → image; `time` has what the timesteps add to every resnet block."""
        resnet, attention = self.places
        x, sums = self.resnet(x, time[resnet])
        if self.attention is not None:
            x = self.attention.read(x, sums, *reference.at(attention))
        if self.motion is not None:
            x = self.motion(x, motion)
        if self.temporal is not None:
            x = self.temporal(x, len(x))
        return x


class FusedStage(nn.Module):
    """The layers of one resolution: units, then what leads to the next."""

    def __init__(self, stage: Any, units: Sequence[nn.Module]) -> None:
        """Take the samplers of a plain stage, and units made of its other layers."""
        super().__init__()
        self.pushes, self.pops = hasattr(stage, "downsamplers"), hasattr(stage, "upsamplers")
        self.units = nn.ModuleList(units)
        self.downsamplers = nn.ModuleList(getattr(stage, "downsamplers", ()))
        self.upsamplers = nn.ModuleList(FusedUpsample(layer) for layer in getattr(stage, "upsamplers", ()))

    def forward(self, x: Tensor, skips: list[Tensor], *conditions: Any) -> Tensor:
        """Image [n, c, h, w] → image of the next resolution. Units take or leave skips, and all get the conditions."""
        for unit in self.units:
            if self.pops:
                x = torch.cat((x, skips.pop()), dim=1)
            x = unit(x, *conditions)
            if self.pushes:
                skips.append(x)
        for downsample in self.downsamplers:
            x = downsample(x)
            skips.append(x)
        for upsample in self.upsamplers:
            x = upsample(x, skips[-1].shape[2:])
        return x


class FusedReferenceUNet(nn.Module):
    """See `ReferenceUNet`."""

    def __init__(self, unet: Any, operations: Operations) -> None:
        """Consume a plain one."""
        super().__init__()
        self.conv_in, self.time_embedding = unet.conv_in, unet.time_embedding

        def unit(resnet: Any, attention: Any) -> nn.Module:
            fused = None if attention is None else FusedSpatialTransformer(attention, operations)
            return FusedReferenceUnit(FusedResnetBlock(resnet, operations), fused)

        self.stages = _stages(unet, unit, "resnets", "attentions")
        [*_, last] = [each for stage in self.stages for each in stage.units if each.attention is not None]
        last.is_last = True

    @property
    def parts(self) -> list[nn.Module]:
        """Modules that run one after another, each as one call; they have nearly all weights."""
        return [part for stage in self.stages for part in (*stage.units, *stage.downsamplers, *stage.upsamplers)]

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
        places, attended = itertools.count(), itertools.count()

        def unit(resnet: Any, attention: Any, motion: Any, temporal: Any) -> nn.Module:
            return FusedDenoisingUnit(
                FusedResnetBlock(resnet, operations),
                None if attention is None else FusedSpatialTransformer(attention, operations),
                None if motion is None else FusedMotionTransformer(motion.temporal_transformer, operations),
                None
                if temporal is None
                else FusedTemporalTransformer(temporal.temporal_transformer, frames, operations),
                (next(places), -1 if attention is None else next(attended)),
            )

        self.stages = _stages(unet, unit, "resnets", "attentions", "motion_modules", "temporal_modules")

    @property
    def resnets(self) -> list[FusedResnetBlock]:
        """All resnet blocks, in the order in which an image passes them."""
        return [unit.resnet for stage in self.stages for unit in stage.units]

    @property
    def attentions(self) -> list[FusedSpatialTransformer]:
        """All spatial transformers, likewise."""
        return [unit.attention for stage in self.stages for unit in stage.units if unit.attention is not None]

    def embed_time(self, timesteps: Tensor) -> tuple[Tensor, ...]:
        """Timesteps [frames], 0 to 999 → what each resnet block adds, in their order: [frames, channels]."""
        t_emb = self.time_embedding(timesteps)
        return tuple(resnet.embed_time(t_emb) for resnet in self.resnets)

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
    half = [stage for stage in unet.stages if stage.pops]
    return [layer for stage in half for layer in (*(unit.resnet for unit in stage.units), *stage.upsamplers)]


def _stages(unet: Any, unit: Callable[..., nn.Module], *kinds: str) -> Any:
    """Fused stages of a plain UNet, in the order in which an image passes them; `unit` makes a unit of layers."""
    stages = (*unet.down_blocks, unet.mid_block, *unet.up_blocks)
    return nn.ModuleList(FusedStage(stage, [unit(*layers) for layers in _units(stage, *kinds)]) for stage in stages)


def _units(stage: Any, *kinds: str) -> Any:
    """Layers of a plain stage that belong together, unit by unit; None where a kind has no more.

    None is kept, so each one's weights are freed before the next one is processed.
    """
    return itertools.zip_longest(*(_taken(getattr(stage, kind, ())) for kind in kinds))


def _taken(layers: Any) -> Any:
    for index in range(len(layers)):
        layer, layers[index] = layers[index], nn.Identity()
        yield layer
        del layer
