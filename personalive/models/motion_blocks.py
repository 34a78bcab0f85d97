"""Motion and temporal modules, which only the denoising UNet has (docs/reference/model.md sections 5 and 6).

Frames are folded into the batch, as in blocks.py.
"""

import torch
from torch import Tensor, nn

from personalive.models.blocks import Attention, FeedForward, GroupNorm, to_image, to_tokens


class MotionBlock(nn.Module):
    """Two cross-attentions to the motion tokens and a feed-forward."""

    def __init__(self, channels: int, heads: int, token_channels: int) -> None:
        super().__init__()
        self.attention_blocks = nn.ModuleList(Attention(channels, heads, token_channels) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(2))
        self.ff = FeedForward(channels)
        self.ff_norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor, motion: Tensor) -> Tensor:
        for attention, norm in zip(self.attention_blocks, self.norms, strict=True):
            x = x + attention(norm(x), motion)
        out: Tensor = x + self.ff(self.ff_norm(x))
        return out


class FramePositions(nn.Module):
    """Sinusoidal table of frame positions, sine and cosine interleaved (docs/reference/model.md section 6)."""

    pe: Tensor

    def __init__(self, channels: int, length: int) -> None:
        super().__init__()
        # On the CPU even while networks are built without storage: files may not have this table.
        position, channel = (torch.arange(0, end, step, device="cpu") for end, step in ((length, 1), (channels, 2)))
        angle = position[:, None] * 10000.0 ** (-channel / channels)
        self.register_buffer("pe", torch.stack((angle.sin(), angle.cos()), dim=-1).reshape(1, length, channels))

    def forward(self, frames: int) -> Tensor:
        """Rows of the first `frames` positions, [frames, 1, channels]."""
        return self.pe[0, :frames, None]


class FrameAttention(Attention):
    """Self-attention along the frames, for each pixel separately."""

    def __init__(self, channels: int, heads: int, max_frames: int) -> None:
        super().__init__(channels, heads)
        self.pos_encoder = FramePositions(channels, max_frames)

    def over_frames(self, x: Tensor, frames: int) -> Tensor:
        """Tokens [b·frames, l, c] → the same shape; every pixel attends to itself in all frames."""
        positioned = x.unflatten(0, (-1, frames)) + self.pos_encoder(frames)  # [b, frames, l, c]
        by_pixel = positioned.transpose(1, 2).flatten(0, 1)  # [b·l, frames, c]
        out: Tensor = self(by_pixel, by_pixel).unflatten(0, (positioned.shape[0], -1))
        return out.transpose(1, 2).flatten(0, 1)


class TemporalBlock(nn.Module):
    """Two self-attentions along the frames and a feed-forward."""

    def __init__(self, channels: int, heads: int, max_frames: int) -> None:
        super().__init__()
        self.attention_blocks = nn.ModuleList(FrameAttention(channels, heads, max_frames) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(2))
        self.ff = FeedForward(channels)
        self.ff_norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor, frames: int) -> Tensor:
        for attention, norm in zip(self.attention_blocks, self.norms, strict=True):
            assert isinstance(attention, FrameAttention)
            x = x + attention.over_frames(norm(x), frames)
        out: Tensor = x + self.ff(self.ff_norm(x))
        return out


class TokenTransformer(nn.Module):
    """What motion and temporal modules share: to tokens, through one block, back, and add."""

    def __init__(self, channels: int, norm_groups: int, block: MotionBlock | TemporalBlock) -> None:
        super().__init__()
        self.norm = GroupNorm(norm_groups, channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, channels)
        self.transformer_blocks = nn.ModuleList([block])
        self.proj_out = nn.Linear(channels, channels)

    def forward(self, x: Tensor, condition: Tensor | int) -> Tensor:
        tokens = self.transformer_blocks[0](self.proj_in(to_tokens(self.norm(x))), condition)
        return x + to_image(self.proj_out(tokens), like=x)


class MotionModule(nn.Module):
    """Cross-attention of each frame's pixels to that frame's motion tokens (docs/reference/model.md section 5)."""

    def __init__(self, channels: int, heads: int, token_channels: int, norm_groups: int) -> None:
        super().__init__()
        block = MotionBlock(channels, heads, token_channels)
        self.temporal_transformer = TokenTransformer(channels, norm_groups, block)  # the published name

    def forward(self, x: Tensor, motion: Tensor) -> Tensor:
        """Image [n, c, h, w] and motion tokens [n, tokens, width] → image [n, c, h, w]."""
        out: Tensor = self.temporal_transformer(x, motion)
        return out


class TemporalModule(nn.Module):
    """Self-attention of each pixel over the frames of its window (docs/reference/model.md section 6)."""

    def __init__(self, channels: int, heads: int, max_frames: int, norm_groups: int) -> None:
        super().__init__()
        block = TemporalBlock(channels, heads, max_frames)
        self.temporal_transformer = TokenTransformer(channels, norm_groups, block)

    def forward(self, x: Tensor, frames: int) -> Tensor:
        """Image [b·frames, c, h, w], oldest frame first → the same shape."""
        out: Tensor = self.temporal_transformer(x, frames)
        return out
