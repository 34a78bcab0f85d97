"""Layers that both UNets are built from (docs/reference/model.md section 1).

Frames are folded into the batch everywhere: an image batch is [n, channels, h, w], its tokens are [n, h·w, channels],
row-major. With the channels-last memory format the one is a view of the other.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def to_tokens(image: Tensor) -> Tensor:
    """[n, c, h, w] → [n, h·w, c]; a view if `image` is channels-last."""
    n, c, h, w = image.shape
    return image.permute(0, 2, 3, 1).reshape(n, h * w, c)


def to_image(tokens: Tensor, like: Tensor) -> Tensor:
    """[n, h·w, c] → [n, c, h, w] with the height and width of `like`, as a channels-last view."""
    n, _, c = tokens.shape
    return tokens.reshape(n, like.shape[2], like.shape[3], c).permute(0, 3, 1, 2)


class GroupNormSiLU(nn.GroupNorm):
    """Group normalisation over each image, followed by SiLU."""

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(super().forward(x))


class PointwiseConv(nn.Conv2d):
    """A 1×1 convolution, kept under its published shape [out, in, 1, 1] and applied to tokens."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        return F.linear(tokens, self.weight[:, :, 0, 0], self.bias)


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

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Tokens [n, l, c] look at `context` [n, m, context channels], or at themselves."""
        context = x if context is None else context
        return self.attend(self.to_q(x), self.to_k(context), self.to_v(context))

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Projected queries [n, l, c], keys and values [n, m, c] → output [n, l, c]."""
        split = [t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (query, key, value)]
        out = F.scaled_dot_product_attention(*split)
        return self.project(out.transpose(1, 2).flatten(2))

    def project(self, x: Tensor) -> Tensor:
        """The output projection alone."""
        out: Tensor = self.to_out[0](x)
        return out


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


class ResnetBlock(nn.Module):
    """Two convolutions with the time embedding between them (docs/reference/model.md section 1.2)."""

    def __init__(self, in_channels: int, out_channels: int, time_channels: int, norm_groups: int) -> None:
        super().__init__()
        self.norm1 = GroupNormSiLU(norm_groups, in_channels, eps=1e-5)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.time_emb_proj = nn.Linear(time_channels, out_channels)
        self.norm2 = GroupNormSiLU(norm_groups, out_channels, eps=1e-5)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else None

    def embed_time(self, embedding: Tensor) -> Tensor:
        """Time embedding [f, time channels] → what this block adds per frame [f, out channels]."""
        out: Tensor = self.time_emb_proj(F.silu(embedding))
        return out

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Image [n, in, h, w] and `embed_time`'s result [n, out] → image [n, out, h, w]."""
        hidden = self.conv1(self.norm1(x)) + time[:, :, None, None]
        hidden = self.conv2(self.norm2(hidden))
        shortcut = x if self.conv_shortcut is None else self.conv_shortcut(x)
        out: Tensor = shortcut + hidden
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

    def embed_image(self, embedding: Tensor) -> Tensor:
        """Image embedding [n, 1, e] → the constant [n, 1, c] that `attn2` adds.

        The context is one token, so its softmax is 1 whatever the query (docs/reference/model.md section 1.3): `norm2`,
        `to_q` and `to_k` have no effect and exist for the published files alone.
        """
        return self.attn2.project(self.attn2.to_v(embedding))


class SpatialTransformer(nn.Module):
    """Attention among the pixels of each frame, and to the reference (docs/reference/model.md sections 1.3 and 4)."""

    def __init__(self, channels: int, heads: int, context_channels: int, norm_groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(norm_groups, channels, eps=1e-6)
        self.proj_in = PointwiseConv(channels, channels)
        self.transformer_blocks = nn.ModuleList([SpatialBlock(channels, heads, context_channels)])
        self.proj_out = PointwiseConv(channels, channels)

    @property
    def block(self) -> SpatialBlock:
        """The transformer block."""
        block = self.transformer_blocks[0]
        assert isinstance(block, SpatialBlock)
        return block

    def embed_image(self, embedding: Tensor) -> Tensor:
        """Image embedding [n, 1, e] → the constant [n, 1, c] that every token gets."""
        return self.block.embed_image(embedding)

    def project_bank(self, bank: Tensor) -> tuple[Tensor, Tensor]:
        """A bank of the reference UNet [n, l, c] → keys and values, [n, l, c] each."""
        attention = self.block.attn1
        return attention.to_k(bank), attention.to_v(bank)

    def enter(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Image [n, c, h, w] → tokens and normalised tokens, [n, h·w, c] each.

        The normalised ones feed the self-attention; in the reference UNet they are what the denoising UNet will see.
        """
        tokens = self.proj_in(to_tokens(self.norm(x)))
        return tokens, self.block.norm1(tokens)

    def attend_alone(self, x: Tensor, tokens: Tensor, normed: Tensor, context: Tensor) -> Tensor:
        """The transformer without other sources, from `enter`'s results on; `context` is `embed_image`'s constant."""
        return self._finish(x, tokens, self.block.attn1(normed), context)

    def attend(self, x: Tensor, frames: int, sources: Sequence[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
        """Each frame looks at itself and at its source.

        Args:
            x: image batch [b·frames, c, h, w].
            frames: frames per window.
            sources: context [k, 1, c], keys and values [k, m, c] of k windows each, b windows in all.

        Returns:
            [b·frames, c, h, w].
        """
        attention = self.block.attn1
        tokens, normed = self.enter(x)
        own = attention.to_q(normed), attention.to_k(normed), attention.to_v(normed)
        counts = [len(context) * frames for context, _, _ in sources]
        attended, contexts = [], []
        for source, query, *pair in zip(sources, *(t.split(counts) for t in own), strict=True):
            context, *banks = (t.repeat_interleave(frames, dim=0) for t in source)
            key, value = (torch.cat(both, dim=1) for both in zip(pair, banks, strict=True))
            attended.append(attention.attend(query, key, value))
            contexts.append(context)
        return self._finish(x, tokens, torch.cat(attended), torch.cat(contexts))

    def _finish(self, x: Tensor, tokens: Tensor, attended: Tensor, context: Tensor) -> Tensor:
        block = self.block
        tokens = tokens + attended + context
        tokens = tokens + block.ff(block.norm3(tokens))
        return x + to_image(self.proj_out(tokens), like=x)


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
