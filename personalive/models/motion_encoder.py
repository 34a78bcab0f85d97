"""Face crop → motion tokens: an hourglass network with patch attention (docs/reference/model.md section 8)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from personalive.config import MotionEncoderConfig
from personalive.models.blocks import Attention, FeedForward, GroupNorm, dense

ATTENTION_NORM_GROUPS = 32


def sinusoid(length: int, width: int) -> Tensor:
    """Positions 0 to length - 1 → [length, width]: sines, then cosines, of frequencies from 1 down to nearly 1/10000.

    In fp64, and on the CPU even while networks are built without storage, as no file holds these values.
    """
    frequencies = 10000.0 ** (-torch.arange(width // 2, dtype=torch.float64, device="cpu") / (width // 2))
    angle = torch.arange(length, dtype=torch.float64, device="cpu")[:, None] * frequencies
    return torch.cat((angle.sin(), angle.cos()), dim=-1)


class ConvBlock(nn.Module):
    """Three convolutions, each after batch norm and ReLU, whose outputs are concatenated and added to a shortcut."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        half, quarter = out_channels // 2, out_channels // 4
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, half, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv2 = nn.Conv2d(half, quarter, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(quarter)
        self.conv3 = nn.Conv2d(quarter, quarter, 3, padding=1, bias=False)
        self.downsample: nn.Sequential | None = None
        if in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.BatchNorm2d(in_channels, eps=1e-4),  # the published network uses another epsilon here
                nn.ReLU(),
                nn.Conv2d(in_channels, out_channels, 1, bias=False),
            )

    def forward(self, x: Tensor) -> Tensor:
        first = self.conv1(F.relu(self.bn1(x)))
        second = self.conv2(F.relu(self.bn2(first)))
        third = self.conv3(F.relu(self.bn3(second)))
        shortcut = x if self.downsample is None else self.downsample(x)
        out: Tensor = torch.cat((first, second, third), dim=1) + shortcut
        return out


class Hourglass(nn.Module):
    """Halves the map `depth` times and enlarges it again, adding a branch at each size."""

    def __init__(self, channels: int, depth: int) -> None:
        super().__init__()
        self.depth = depth
        for level in range(depth, 0, -1):
            for branch in ("b1", "b2", "b3"):
                self.add_module(f"{branch}_{level}", ConvBlock(channels, channels))
        self.b2_plus_1 = ConvBlock(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self._level(x, self.depth)

    def _level(self, x: Tensor, level: int) -> Tensor:
        block = self.get_submodule
        low = block(f"b2_{level}")(F.max_pool2d(x, 2))
        low = self._level(low, level - 1) if level > 1 else self.b2_plus_1(low)
        low = block(f"b3_{level}")(low)
        out: Tensor = block(f"b1_{level}")(x) + F.interpolate(low, x.shape[2:], mode="bilinear", align_corners=False)
        return out


class PatchEmbedding(nn.Module):
    """Image → patch tokens with a fixed table of positions."""

    table: Tensor

    def __init__(self, channels: int, width: int, patch: int, grid: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch, stride=patch)
        places = sinusoid(grid, width // 2)  # [grid, width/2]
        columns, rows = places.repeat(grid, 1), places.repeat_interleave(grid, dim=0)
        self.register_buffer("table", torch.cat((columns, rows), dim=-1).float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Image [n, c, grid·patch, grid·patch] → tokens [n, grid², width], row-major."""
        out: Tensor = self.proj(x).flatten(2).transpose(1, 2) + self.table
        return out


class PatchBlock(nn.Module):
    """One self-attention among patches and a feed-forward."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention_blocks = nn.ModuleList([Attention(width, heads)])
        self.norms = nn.ModuleList([nn.LayerNorm(width)])
        self.ff = FeedForward(width)
        self.ff_norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norms[0](x)
        x = x + self.attention_blocks[0](normed, normed)
        out: Tensor = x + self.ff(self.ff_norm(x))
        return out


class PatchAttention(nn.Module):
    """Attention among the patches of a feature map, added to it."""

    def __init__(self, channels: int, width: int, heads: int, patch: int, grid: int) -> None:
        super().__init__()
        self.patch, self.grid = patch, grid
        self.norm = GroupNorm(ATTENTION_NORM_GROUPS, channels, eps=1e-6)
        self.pos_embed = PatchEmbedding(channels, width, patch, grid)
        self.transformer_blocks = nn.ModuleList([PatchBlock(width, heads)])
        self.proj_out = nn.Linear(width // patch**2, channels)

    def forward(self, x: Tensor) -> Tensor:
        p, grid = self.patch, self.grid
        tokens = self.transformer_blocks[0](self.pos_embed(self.norm(x)))
        pixels = self.proj_out(tokens.reshape(x.shape[0], grid, grid, p, p, -1))  # each token holds p×p pixels
        out: Tensor = x + pixels.permute(0, 5, 1, 3, 2, 4).reshape(x.shape)
        return out


class FaceNetwork(nn.Module):
    """The backbone: face crop → one vector."""

    def __init__(self, config: MotionEncoderConfig) -> None:
        super().__init__()
        c, width, heads, grid = config.channels, config.attention_width, config.heads, config.grid
        self.conv1 = nn.Conv2d(3, c // 4, 7, stride=2, padding=3)
        self.bn1 = nn.BatchNorm2d(c // 4)
        self.conv2 = ConvBlock(c // 4, c // 2)
        self.att_1 = PatchAttention(c // 2, width, heads, 4, grid)
        self.conv3 = ConvBlock(c // 2, c // 2)
        self.conv4 = ConvBlock(c // 2, c)
        self.att_2 = PatchAttention(c, width, heads, 2, grid)
        self.m0 = Hourglass(c, config.hourglass_depth)
        self.top_m_0 = ConvBlock(c, c)
        self.conv_last0 = nn.Conv2d(c, c, 1)
        self.bn_end0 = nn.BatchNorm2d(c)
        self.att_3 = PatchAttention(c, width, heads, 2, grid)
        self.l0 = nn.Conv2d(c, config.landmark_channels, 1)
        self.bn5 = nn.BatchNorm2d(config.landmark_channels)
        self.conv6 = nn.Conv2d(config.landmark_channels, 1, 3, stride=2, padding=1)
        self.fc = nn.Linear(grid**2, config.tokens * config.token_width)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.max_pool2d(self.att_1(self.conv2(x)), 2)
        x = self.m0(self.att_2(self.conv4(self.conv3(x))))
        x = self.att_3(self.bn_end0(self.conv_last0(self.top_m_0(x))))
        x = F.relu(self.bn5(self.l0(F.relu(x))))
        out: Tensor = self.fc(F.relu(self.conv6(x).flatten(1)))
        return out


class MotionEncoder(nn.Module):
    """Face crops → motion tokens, which carry the expression and little of the identity."""

    pe: Tensor

    def __init__(self, config: MotionEncoderConfig) -> None:
        super().__init__()
        self.tokens = config.tokens
        self.model = FaceNetwork(config)
        size = config.tokens * config.token_width
        self.final_proj = nn.Linear(size, size)
        self.register_buffer("pe", sinusoid(config.tokens, config.token_width).float()[None])

    def forward(self, faces: Tensor) -> Tensor:
        """Face crops [n, 3, size, size] in [-1, 1] → motion tokens [n, tokens, token width]."""
        out: Tensor = self.final_proj(self.model(dense(faces))).unflatten(1, (self.tokens, -1)) + self.pe
        return out
