"""Image → head pose and keypoints: ConvNeXt-V2 with one linear head per quantity (docs/reference/model.md section 9).

This network stays in fp32 whatever the model's dtype. Its keypoints are truncated to whole pixels, and fp16 moves a
disc of the pose raster by a pixel in every few frames: that was the largest error of a model in fp16.
"""

import itertools
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from personalive.config import MotionExtractorConfig
from personalive.models.blocks import dense


class MotionHeads(NamedTuple):
    """The network's raw output for n images: angles are scores of bins of 3 degrees."""

    pitch: Tensor
    """[n, bins]"""
    yaw: Tensor
    """[n, bins]"""
    roll: Tensor
    """[n, bins]"""
    translation: Tensor
    """[n, 3]"""
    scale: Tensor
    """[n, 1]"""
    keypoints: Tensor
    """[n, 3·keypoints], canonical"""


class ChannelLayerNorm(nn.LayerNorm):
    """A LayerNorm over the channels of an image [n, c, h, w]."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class GlobalResponseNorm(nn.Module):
    """Scales each channel by its share of the image's energy; x is [n, h, w, c]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, 1, 1, channels))
        self.beta = nn.Parameter(torch.zeros(1, 1, 1, channels))

    def forward(self, x: Tensor) -> Tensor:
        energy = x.norm(dim=(1, 2), keepdim=True)
        share = energy / (energy.mean(dim=-1, keepdim=True) + 1e-6)
        out: Tensor = self.gamma * (x * share) + self.beta + x
        return out


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution, then a pointwise network with global response normalisation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.pwconv1 = nn.Linear(channels, 4 * channels)
        self.grn = GlobalResponseNorm(4 * channels)
        self.pwconv2 = nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        hidden = self.pwconv2(self.grn(F.gelu(self.pwconv1(hidden))))
        out: Tensor = x + hidden.permute(0, 3, 1, 2)
        return out


class Detector(nn.Module):
    """The backbone and its heads."""

    def __init__(self, config: MotionExtractorConfig) -> None:
        super().__init__()
        channels, width = config.channels, config.channels[-1]
        self.downsample_layers = nn.ModuleList(
            [nn.Sequential(nn.Conv2d(3, channels[0], 4, stride=4), ChannelLayerNorm(channels[0], eps=1e-6))]
        )
        for before, after in itertools.pairwise(channels):
            self.downsample_layers.append(
                nn.Sequential(ChannelLayerNorm(before, eps=1e-6), nn.Conv2d(before, after, 2, stride=2))
            )
        self.stages = nn.ModuleList(
            nn.Sequential(*(ConvNeXtBlock(c) for _ in range(depth)))
            for c, depth in zip(channels, config.depths, strict=True)
        )
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.fc_kp = nn.Linear(width, 3 * config.keypoints)
        self.fc_scale = nn.Linear(width, 1)
        self.fc_pitch = nn.Linear(width, config.angle_bins)
        self.fc_yaw = nn.Linear(width, config.angle_bins)
        self.fc_roll = nn.Linear(width, config.angle_bins)
        self.fc_t = nn.Linear(width, 3)
        self.fc_exp = nn.Linear(width, 3 * config.keypoints)  # never evaluated; the published file has it

    def forward(self, x: Tensor) -> MotionHeads:
        for downsample, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(downsample(x))
        x = self.norm(x.mean(dim=(2, 3)))
        heads = (self.fc_pitch, self.fc_yaw, self.fc_roll, self.fc_t, self.fc_scale, self.fc_kp)
        return MotionHeads(*(head(x) for head in heads))


class MotionExtractor(nn.Module):
    """Finds where a head is and where it looks."""

    idx_tensor: Tensor

    def __init__(self, config: MotionExtractorConfig) -> None:
        super().__init__()
        self.detector = Detector(config)
        # Part of the published file; the engine computes degrees in fp32 without it (engine/motion.py).
        self.register_buffer("idx_tensor", torch.arange(config.angle_bins, dtype=torch.float32, device="cpu"))

    def forward(self, images: Tensor) -> MotionHeads:
        """Images fp32 [n, 3, size, size] in [0, 1]."""
        with _full_float32():
            heads: MotionHeads = self.detector(dense(images))
        return heads


def _full_float32() -> AbstractContextManager[None]:
    """Convolutions on a GPU round fp32 to the 11 bits of fp16 unless they are told not to."""
    cudnn = torch.backends.cudnn
    flags: AbstractContextManager[None] = cudnn.flags(enabled=True, benchmark=cudnn.benchmark, allow_tf32=False)
    return flags
