"""The reference UNet and the denoising UNet (docs/reference/model.md sections 2 to 4).

The reference UNet looks at the portrait (or a keyframe) once and gives the tokens that feed its self-attentions. The
denoising UNet projects them into keys and values once, and every later call only attends to them.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from personalive.config import UNetConfig
from personalive.models.blocks import Downsample, GroupNormSiLU, ResnetBlock, SpatialTransformer, Upsample
from personalive.models.motion_blocks import MotionModule, TemporalModule

TimeFeatures: TypeAlias = tuple[Tensor, ...]
"""What each resnet block adds for the time, in the order of `UNet.resnets`: [frames, channels] each."""


@dataclass(frozen=True)
class Bank:
    """Projected tokens of n portraits, or of a keyframe of each, per spatial transformer: [n, m, c] each."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]


@dataclass(frozen=True)
class ReferenceFeatures:
    """What the denoising UNet knows of n portraits and their keyframes.

    context: what the image embedding adds, per spatial transformer: [n, 1, c] each.
    banks: the portrait's, then those of its keyframes in the order of insertion.
    """

    context: tuple[Tensor, ...]
    banks: tuple[Bank, ...]

    def with_keyframe(self, keyframe: "ReferenceFeatures") -> "ReferenceFeatures":
        """These features with a keyframe's tokens appended; the context stays."""
        return ReferenceFeatures(self.context, self.banks + keyframe.banks)

    def repeat(self, times: int) -> "ReferenceFeatures":
        """Each portrait `times` times in a row."""

        def repeated(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return tuple(tensor.repeat_interleave(times, dim=0) for tensor in tensors)

        banks = tuple(Bank(repeated(bank.keys), repeated(bank.values)) for bank in self.banks)
        return ReferenceFeatures(repeated(self.context), banks)

    def source(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        """Context, keys and values for the spatial transformer of that place, the banks one after another."""
        keys, values = [bank.keys[index] for bank in self.banks], [bank.values[index] for bank in self.banks]
        if len(self.banks) == 1:
            return self.context[index], keys[0], values[0]
        return self.context[index], torch.cat(keys, dim=1), torch.cat(values, dim=1)


class TimeEmbedding(nn.Module):
    """Timesteps → time embedding (docs/reference/model.md section 1.1)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(in_channels, out_channels)
        self.linear_2 = nn.Linear(out_channels, out_channels)

    def forward(self, timesteps: Tensor) -> Tensor:
        """Timesteps [f] → [f, out channels]. The sinusoid is computed in fp32, cosines first."""
        half = self.linear_1.in_features // 2
        exponent = torch.arange(half, dtype=torch.float32, device=timesteps.device) * (-math.log(10000.0) / half)
        angle = timesteps[:, None].float() * exponent.exp()
        sinusoid = torch.cat((angle.cos(), angle.sin()), dim=-1).to(self.linear_1.weight.dtype)
        out: Tensor = self.linear_2(nn.functional.silu(self.linear_1(sinusoid)))
        return out


class Stage(nn.Module):
    """The units of one resolution: unit j is resnet j, then attention, motion and temporal module j if they exist."""

    def __init__(self, config: UNetConfig, widths: Sequence[tuple[int, int]], spatial: int, motion: int) -> None:
        """Make resnets of the given (in, out) widths, and the first `spatial` and `motion` of the other modules."""
        super().__init__()
        c, out = config, [width for _, width in widths]
        self.resnets = nn.ModuleList(ResnetBlock(i, o, c.time_channels, c.norm_groups) for i, o in widths)
        self.attentions = nn.ModuleList(
            SpatialTransformer(o, c.heads, c.cross_attention_dim, c.norm_groups) for o in out[:spatial]
        )
        self.motion_modules = nn.ModuleList(
            MotionModule(o, c.heads, c.motion_token_width, c.norm_groups) for o in out[:motion]
        )
        self.temporal_modules = nn.ModuleList(
            TemporalModule(o, c.heads, c.max_frames, c.norm_groups) for o in out[:motion]
        )
        self.first_resnet = self.first_attention = 0  # places in the UNet's lists, which the UNet counts


Unit: TypeAlias = Callable[[Stage, int, Tensor], Tensor]
"""Runs unit j of a stage on an image batch."""


class DownStage(Stage):
    """Units whose results are kept as skips, then a downsampler."""

    def __init__(self, config: UNetConfig, in_channels: int, out_channels: int, motion: bool, last: bool) -> None:
        n = config.layers_per_block
        widths = [(in_channels if j == 0 else out_channels, out_channels) for j in range(n)]
        super().__init__(config, widths, 0 if last else n, n if motion else 0)
        self.downsamplers = nn.ModuleList([] if last else [Downsample(out_channels)])

    def forward(self, x: Tensor, skips: list[Tensor], unit: Unit) -> Tensor:
        for j in range(len(self.resnets)):
            x = unit(self, j, x)
            skips.append(x)
        for downsample in self.downsamplers:
            x = downsample(x)
            skips.append(x)
        return x


class MidStage(Stage):
    """One full unit and a resnet at the lowest resolution."""

    def __init__(self, config: UNetConfig, channels: int, motion: bool) -> None:
        super().__init__(config, [(channels, channels)] * 2, 1, int(motion))

    def forward(self, x: Tensor, unit: Unit) -> Tensor:
        return unit(self, 1, unit(self, 0, x))


class UpStage(Stage):
    """Units that each take one skip, then an upsampler to the size of the next skip."""

    def __init__(self, config: UNetConfig, level: int, motion: bool) -> None:
        channels, n = config.block_channels, config.layers_per_block + 1
        out, before = channels[level], channels[min(level + 1, len(channels) - 1)]
        # The skips come from this level, the last of them from the level above (its downsampler, or conv_in).
        skips = [out] * (n - 1) + [channels[max(level - 1, 0)]]
        widths = [((before if j == 0 else out) + skip, out) for j, skip in enumerate(skips)]
        super().__init__(config, widths, 0 if level == len(channels) - 1 else n, n if motion else 0)
        self.upsamplers = nn.ModuleList([] if level == 0 else [Upsample(out)])

    def forward(self, x: Tensor, skips: list[Tensor], unit: Unit) -> Tensor:
        for j in range(len(self.resnets)):
            x = unit(self, j, torch.cat((x, skips.pop()), dim=1))
        for upsample in self.upsamplers:
            x = upsample(x, skips[-1].shape[2:])
        return x


class UNet(nn.Module):
    """The way through the resolutions that both UNets share."""

    def __init__(self, config: UNetConfig, motion: bool) -> None:
        super().__init__()
        channels = config.block_channels
        self.conv_in = nn.Conv2d(config.latent_channels, channels[0], 3, padding=1)
        self.time_embedding = TimeEmbedding(channels[0], config.time_channels)
        pairs = zip((channels[0], *channels), channels, strict=False)
        self.down_blocks = nn.ModuleList(
            DownStage(config, i, o, motion, last=level == len(channels) - 1) for level, (i, o) in enumerate(pairs)
        )
        self.mid_block = MidStage(config, channels[-1], motion)
        self.up_blocks = nn.ModuleList(UpStage(config, level, motion) for level in reversed(range(len(channels))))
        resnets = attentions = 0
        for stage in self.stages():
            stage.first_resnet, stage.first_attention = resnets, attentions
            resnets += len(stage.resnets)
            attentions += len(stage.attentions)

    @property
    def resnets(self) -> list[ResnetBlock]:
        """All resnet blocks, in the order in which an image passes them."""
        return [block for stage in self.stages() for block in stage.resnets]  # type: ignore[misc]

    @property
    def attentions(self) -> list[SpatialTransformer]:
        """All spatial transformers, in the order in which an image passes them."""
        return [layer for stage in self.stages() for layer in stage.attentions]  # type: ignore[misc]

    def stages(self) -> list[Stage]:
        """Every stage in the order in which an image passes them."""
        return [*self.down_blocks, self.mid_block, *self.up_blocks]

    def embed_time(self, timesteps: Tensor) -> TimeFeatures:
        """Timesteps [frames], 0 to 999 → what each resnet block adds. The same for every call with these timesteps."""
        embedding = self.time_embedding(timesteps)
        return tuple(resnet.embed_time(embedding) for resnet in self.resnets)

    def embed_image(self, embedding: Tensor) -> tuple[Tensor, ...]:
        """Image embedding [n, 1, e] → what each spatial transformer adds, [n, 1, c] each."""
        return tuple(attention.embed_image(embedding) for attention in self.attentions)

    def traverse(self, x: Tensor, unit: Unit) -> Tensor:
        """Image [n, c₀, h, w] down, through the middle and up again, `unit` doing the work at each place."""
        skips = [x]
        for stage in self.down_blocks:
            x = stage(x, skips, unit)
        x = self.mid_block(x, unit)
        for stage in self.up_blocks:
            x = stage(x, skips, unit)
        return x


class ReferenceUNet(UNet):
    """Looks at a clean latent image and gives the tokens that the denoising UNet attends to."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__(config, motion=False)

    def forward(self, latents: Tensor, embedding: Tensor) -> tuple[Tensor, ...]:
        """Latents [n, 4, h, w] (scaled, without noise) and image embedding [n, 1, e] → one bank per transformer.

        A bank is the input of a self-attention, [n, tokens, c]. What follows the last one is never computed.
        """
        time = self.time_embedding(torch.zeros(len(latents), dtype=torch.long, device=latents.device))
        banks: list[Tensor] = []

        # A stage's weights are used while the stage runs and not before: they may be elsewhere until then.
        def unit(stage: Stage, j: int, x: Tensor) -> Tensor:
            resnet = self.resnets[stage.first_resnet + j]
            x = resnet(x, resnet.embed_time(time))
            if j < len(stage.attentions):
                attention = self.attentions[stage.first_attention + j]
                tokens, bank = attention.enter(x)
                banks.append(bank)
                if len(banks) < len(self.attentions):
                    x = attention.attend_alone(x, tokens, bank, attention.embed_image(embedding))
            return x

        self.traverse(self.conv_in(latents.contiguous(memory_format=torch.channels_last)), unit)
        return tuple(banks)


class DenoisingUNet(UNet):
    """Predicts the noise (or v, or the clean latents) of several windows of frames."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__(config, motion=True)
        self.conv_norm_out = GroupNormSiLU(config.norm_groups, config.block_channels[0], eps=1e-5)
        self.conv_out = nn.Conv2d(config.block_channels[0], config.latent_channels, 3, padding=1)

    def project_reference(self, banks: Sequence[Tensor], embedding: Tensor) -> ReferenceFeatures:
        """Banks of the reference UNet and the image embedding [n, 1, e] → features for any number of calls."""
        pairs = [attention.project_bank(bank) for attention, bank in zip(self.attentions, banks, strict=True)]
        keys, values = zip(*pairs, strict=True)
        return ReferenceFeatures(self.embed_image(embedding), (Bank(keys, values),))

    def forward(
        self,
        latents: Tensor,
        time: TimeFeatures,
        motion: Tensor,
        pose: Tensor,
        references: Sequence[ReferenceFeatures],
    ) -> Tensor:
        """One prediction for b windows of f frames, frames folded into the batch (b-major).

        Args:
            latents: [b·f, 4, h, w].
            time: `embed_time` of the f timesteps of a window, oldest frame first.
            motion: motion tokens [b·f, tokens, width].
            pose: pose features [b·f, c₀, h, w].
            references: features of b portraits in all; each entry may hold several with equally many keyframes.

        Returns:
            The prediction, fp32 [b·f, 4, h, w].
        """
        frames = len(time[0])
        time = tuple(t.repeat(len(latents) // frames, 1) for t in time)

        def unit(stage: Stage, j: int, x: Tensor) -> Tensor:
            x = stage.resnets[j](x, time[stage.first_resnet + j])
            if j < len(stage.attentions):
                index = stage.first_attention + j
                x = self.attentions[index].attend(x, frames, [reference.source(index) for reference in references])
            if j < len(stage.motion_modules):
                x = stage.motion_modules[j](x, motion)
                x = stage.temporal_modules[j](x, frames)
            return x

        x = self.conv_in(latents.contiguous(memory_format=torch.channels_last)) + pose
        x = self.conv_norm_out(self.traverse(x, unit))
        # In fp32: at the noisiest timestep the sampler magnifies what rounding does to the prediction 66 times.
        weight, bias = (parameter.float() for parameter in self.conv_out.parameters())
        return nn.functional.conv2d(x.float(), weight, bias, padding=1)
