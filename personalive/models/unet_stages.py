"""The stages of both UNets: which layers are at which resolution (docs/reference/model.md sections 2 and 3).

The denoising UNet has a motion and a temporal module after every resnet block and its attention; the reference UNet has
none.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

from torch import Tensor, nn

from personalive.config import UNetConfig
from personalive.models.blocks import Downsample, ResnetBlock, SpatialTransformer, Upsample
from personalive.models.motion_blocks import MotionModule, TemporalModule

MakeAttention: TypeAlias = Callable[[int, int, int, int], SpatialTransformer]
"""Channels, heads, context channels and norm groups → a spatial transformer."""


def unchanged(x: Tensor, *_: Any) -> Tensor:
    """What takes the place of attention in a stage that has none."""
    return x


class Stage(nn.Module):
    """The layers of one resolution. The UNet's `forward` says which pictures and tokens they see."""

    def __init__(
        self, config: UNetConfig, widths: Sequence[tuple[int, int]], attentions: int, make: MakeAttention, motion: bool
    ) -> None:
        """Make resnets of the given (in, out) widths, and that many spatial transformers after the first of them."""
        super().__init__()
        c, out = config, [width for _, width in widths]
        self.resnets = nn.ModuleList(ResnetBlock(i, o, c.time_channels, c.norm_groups) for i, o in widths)
        self.attentions = nn.ModuleList(
            make(o, c.heads, c.cross_attention_dim, c.norm_groups) for o in out[:attentions]
        )
        if motion:
            self.motion_modules = nn.ModuleList(
                MotionModule(o, c.heads, c.motion_token_width, c.norm_groups) for o in out
            )
            self.temporal_modules = nn.ModuleList(TemporalModule(o, c.heads, c.max_frames, c.norm_groups) for o in out)

    @property
    def layers(self) -> Iterator[tuple[Any, ...]]:
        """Resnet block, spatial transformer and, where there are any, motion and temporal module, unit by unit."""
        columns = [self.resnets, self.attentions if len(self.attentions) else [unchanged] * len(self.resnets)]
        if hasattr(self, "motion_modules"):
            columns += [self.motion_modules, self.temporal_modules]
        return zip(*columns, strict=True)


class DownStage(Stage):
    """Units whose results are kept as skips, then a downsampler, except in the last."""

    def __init__(self, config: UNetConfig, level: int, make: MakeAttention, motion: bool) -> None:
        channels, n = config.block_channels, config.layers_per_block
        out, last = channels[level], level == len(channels) - 1
        widths = [(channels[max(level - 1, 0)] if j == 0 else out, out) for j in range(n)]
        super().__init__(config, widths, 0 if last else n, make, motion)
        self.downsamplers = nn.ModuleList([] if last else [Downsample(out)])


class MidStage(nn.Module):
    """One full unit and a resnet block at the lowest resolution."""

    def __init__(self, config: UNetConfig, make: MakeAttention, motion: bool) -> None:
        super().__init__()
        c, width = config, config.block_channels[-1]
        self.resnets = nn.ModuleList(ResnetBlock(width, width, c.time_channels, c.norm_groups) for _ in range(2))
        self.attentions = nn.ModuleList([make(width, c.heads, c.cross_attention_dim, c.norm_groups)])
        if motion:
            self.motion_modules = nn.ModuleList([MotionModule(width, c.heads, c.motion_token_width, c.norm_groups)])
            self.temporal_modules = nn.ModuleList([TemporalModule(width, c.heads, c.max_frames, c.norm_groups)])


class UpStage(Stage):
    """Units that each take one skip, then an upsampler to the size of the next skip, except in the last."""

    def __init__(self, config: UNetConfig, level: int, make: MakeAttention, motion: bool) -> None:
        channels, n = config.block_channels, config.layers_per_block + 1
        out, before = channels[level], channels[min(level + 1, len(channels) - 1)]
        # The skips come from this level, the last of them from the level above (its downsampler, or conv_in).
        skips = [out] * (n - 1) + [channels[max(level - 1, 0)]]
        widths = [((before if j == 0 else out) + skip, out) for j, skip in enumerate(skips)]
        super().__init__(config, widths, 0 if level == len(channels) - 1 else n, make, motion)
        self.upsamplers = nn.ModuleList([] if level == 0 else [Upsample(out)])


def make_stages(config: UNetConfig, make: MakeAttention, motion: bool) -> tuple[nn.ModuleList, MidStage, nn.ModuleList]:
    """The stages on the way down, the middle, and the stages on the way up, in the order in which an image passes."""
    levels = range(len(config.block_channels))
    down = nn.ModuleList(DownStage(config, level, make, motion) for level in levels)
    up = nn.ModuleList(UpStage(config, level, make, motion) for level in reversed(levels))
    return down, MidStage(config, make, motion), up
