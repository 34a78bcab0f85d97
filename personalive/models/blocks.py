"""Layers that both UNets are built from (docs/reference/model.md section 1).

Frames are folded into the batch everywhere: an image batch is [n, channels, h, w], its tokens are [n, h·w, channels],
row-major.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def dense(x: Tensor) -> Tensor:
    """The same values in the standard memory layout, copied only if necessary.

    Every network takes its inputs through this. PyTorch chooses kernels, and with them the rounding, by a tensor's
    memory layout; a network's result must depend on its values alone.
    """
    return x.contiguous()


def to_tokens(image: Tensor) -> Tensor:
    """[n, c, h, w] → [n, h·w, c]; a view if `image` is channels-last."""
    n, c, h, w = image.shape
    return image.permute(0, 2, 3, 1).reshape(n, h * w, c)


def to_image(tokens: Tensor, like: Tensor) -> Tensor:
    """[n, h·w, c] → [n, c, h, w] with the height and width of `like`, as a channels-last view."""
    n, _, c = tokens.shape
    return tokens.reshape(n, like.shape[2], like.shape[3], c).permute(0, 3, 1, 2)


class GroupNorm(nn.GroupNorm):
    """Group normalisation that is equally exact for every memory layout.

    PyTorch's CPU kernel for channels-last images adds up one pixel after another in fp32, which costs one to two digits
    where a group has many pixels.
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(dense(x))


class PointwiseConv(nn.Conv2d):
    """A 1×1 convolution, kept under its published shape [out, in, 1, 1] and applied to tokens."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        return F.linear(tokens, self.weight[:, :, 0, 0], self.bias)


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
        out: Tensor = self.linear_2(F.silu(self.linear_1(sinusoid)))
        return out


class ResnetBlock(nn.Module):
    """Two convolutions with the time embedding between them (docs/reference/model.md section 1.2)."""

    def __init__(self, in_channels: int, out_channels: int, time_channels: int, norm_groups: int) -> None:
        super().__init__()
        self.norm1 = GroupNorm(norm_groups, in_channels, eps=1e-5)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.time_emb_proj = nn.Linear(time_channels, out_channels)
        self.norm2 = GroupNorm(norm_groups, out_channels, eps=1e-5)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else None

    def forward(self, x: Tensor, t_emb: Tensor) -> Tensor:
        """Image [n, in, h, w] and time embedding [n, time channels] → image [n, out, h, w]."""
        hidden = self.conv1(F.silu(self.norm1(x)))
        hidden = hidden + self.time_emb_proj(F.silu(t_emb))[:, :, None, None]
        hidden = self.conv2(F.silu(self.norm2(hidden)))
        shortcut = x if self.conv_shortcut is None else self.conv_shortcut(x)
        out: Tensor = shortcut + hidden
        return out


class Attention(nn.Module):
    """Multi-head attention without a mask; heads are slices of the channels (docs/reference/model.md section 0)."""

    def __init__(self, channels: int, heads: int, context_channels: int | None = None) -> None:
        super().__init__()
        context_channels = context_channels or channels
        self.heads = heads
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(context_channels, channels, bias=False)
        self.to_v = nn.Linear(context_channels, channels, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Tokens [n, l, c] attend to `context` [n, m, context channels] → [n, l, c]."""
        query, key, value = (
            projected.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projected in (self.to_q(x), self.to_k(context), self.to_v(context))
        )
        out = F.scaled_dot_product_attention(query, key, value)
        projected: Tensor = self.to_out[0](out.transpose(1, 2).flatten(2))
        return projected


class GEGLU(nn.Module):
    """One projection whose second half, through GELU, gates the first."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.proj = nn.Linear(channels, 2 * inner)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        gated: Tensor = value * F.gelu(gate)
        return gated


class FeedForward(nn.Module):
    """GEGLU to four times the width and back. Index 1 of `net` is a dropout that is never active."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.net = nn.Sequential(GEGLU(channels, 4 * channels), nn.Identity(), nn.Linear(4 * channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x)
        return out


class SpatialBlock(nn.Module):
    """The one transformer block of a spatial transformer: self-attention, image context, feed-forward."""

    def __init__(self, channels: int, heads: int, context_channels: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn1 = Attention(channels, heads)
        self.norm2 = nn.LayerNorm(channels)
        self.attn2 = Attention(channels, heads, context_channels)
        self.norm3 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels)

    def forward(self, x: Tensor, embedding: Tensor, banks: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Tokens [n, l, c] attend to themselves and to the banks, [n, m, c] each.

        The image context is one token, so its softmax is 1 whatever the query (docs/reference/model.md section 1.3):
        `norm2`, `to_q` and `to_k` of `attn2` have no effect and exist for the published files alone.

        Returns:
            Tokens [n, l, c], and the input of the self-attention, of the same shape.
        """
        normed = self.norm1(x)
        x = x + self.attn1(normed, torch.cat((normed, *banks), dim=1))
        x = x + self.attn2.to_out[0](self.attn2.to_v(embedding))
        x = x + self.ff(self.norm3(x))
        return x, normed


class SpatialTransformer(nn.Module):
    """Attention among the pixels of each frame, and to other pictures (docs/reference/model.md sections 1.3 and 4).

    What it attends to, and what becomes of its tokens, differs between the two UNets: they have a `forward` each.
    """

    def __init__(self, channels: int, heads: int, context_channels: int, norm_groups: int) -> None:
        super().__init__()
        self.norm = GroupNorm(norm_groups, channels, eps=1e-6)
        self.proj_in = PointwiseConv(channels, channels)
        self.transformer_blocks = nn.ModuleList([SpatialBlock(channels, heads, context_channels)])
        self.proj_out = PointwiseConv(channels, channels)

    def transform(self, x: Tensor, embedding: Tensor, banks: Sequence[Tensor] = ()) -> tuple[Tensor, Tensor]:
        """Image [n, c, h, w] and image embedding [n, 1, e] → image, and the input of the self-attention [n, h·w, c]."""
        tokens = self.proj_in(to_tokens(self.norm(x)))
        tokens, normed = self.transformer_blocks[0](tokens, embedding, banks)
        return x + to_image(self.proj_out(tokens), like=x), normed


class Downsample(nn.Module):
    """Halves height and width (rounding up) with a strided convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out


class Upsample(nn.Module):
    """Nearest neighbour to a given size, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        out: Tensor = self.conv(F.interpolate(x, size=tuple(size), mode="nearest"))
        return out
