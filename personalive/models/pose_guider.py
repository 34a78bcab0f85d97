"""Keypoint raster → pose features (docs/reference/model.md section 7)."""

import itertools

import torch.nn.functional as F
from torch import Tensor, nn

from personalive.config import PoseGuiderConfig
from personalive.models.blocks import dense


class PoseGuider(nn.Module):
    """Convolutions that shrink the raster to the size of the latents."""

    def __init__(self, config: PoseGuiderConfig) -> None:
        super().__init__()
        channels = config.channels
        self.conv_in = nn.Conv2d(3, channels[0], 3, padding=1)
        self.blocks = nn.ModuleList()
        for before, after in itertools.pairwise(channels):
            self.blocks.append(nn.Conv2d(before, before, 3, padding=1))
            self.blocks.append(nn.Conv2d(before, after, 3, stride=2, padding=1))
        self.conv_out_modify = nn.Conv2d(channels[-1], config.output_channels, 3, padding=1)

    def forward(self, raster: Tensor) -> Tensor:
        """Rasters [n, 3, H, W] in [0, 1] → features [n, output channels, H/factor, W/factor]."""
        x = F.silu(self.conv_in(dense(raster)))
        for block in self.blocks:
            x = F.silu(block(x))
        out: Tensor = self.conv_out_modify(x)
        return out
