"""The transformers of the UNets with their weights merged, for inference only: the same results up to rounding.

* queries, keys and values come from one product;
* biases before a norm or a sum, and the positions of frames, become constants;
* the keys of a motion token are a matrix of rank 16 (the token's width), so the query projection and the key
  projection merge into one to 16 values per head, and so do the value and the output projection.

Images must be channels-last in memory, so that tokens are a view of them.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from personalive.accel.fuse.images import FusedGroupNorm, constant
from personalive.accel.ops.reference import Operations
from personalive.models.blocks import SpatialTransformer, to_image, to_tokens
from personalive.models.motion_blocks import TokenTransformer

ROWS_AT_ONCE = 16384
"""Tokens that a feed-forward takes at once: enough to fill a GPU. Its activations, at most eight times the tokens'
width, take a quarter of the memory that all tokens of a 512×512 window would."""
KEYS_AT_ONCE = 2**26
"""The most elements of keys that are concatenated at once; values take as many again. Further frames follow."""


class FusedLayerNorm(nn.Module):
    """A LayerNorm of tokens, or of their sum with a branch."""

    weight: Tensor
    bias: Tensor
    dtype: torch.dtype | None = None
    """The output's, if that is not the tokens'."""

    def __init__(self, norm: Any, operations: Operations, bias: Tensor | None = None) -> None:
        """Take over a norm; `bias` instead of its own is [c], or [f, c] with a row per frame."""
        super().__init__()
        self.operations, self.eps, self.weight = operations, norm.eps, norm.weight
        if bias is None:
            self.bias = norm.bias
        else:
            constant(self, "bias", bias, norm.bias.dtype)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens [n, l, c] → the same, normalised."""
        return self.operations.layer_norm(tokens, self.weight, self.bias, self.eps, dtype=self.dtype)

    def after_sum(self, tokens: Tensor, branch: Tensor, add: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The sum `tokens + branch + add`, [n, l, c] and [1, c], and that normalised."""
        return self.operations.add_layer_norm(
            tokens, branch, self.weight, self.bias, self.eps, add=add, dtype=self.dtype
        )


class FusedLinear(nn.Module):
    """A linear layer of merged weights, without bias."""

    weight: Tensor

    def __init__(self, weight: Tensor, operations: Operations, dtype: torch.dtype) -> None:
        super().__init__()
        self.operations = operations
        constant(self, "weight", weight, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """[..., i] → [..., o]."""
        return self.operations.linear(x, self.weight)


class FusedFeedForward(nn.Module):
    """A feed-forward whose gate is one pass over memory."""

    def __init__(self, layer: Any, operations: Operations) -> None:
        super().__init__()
        self.fc1, self.fc2 = layer.net[0].proj, layer.net[2]
        self.operations = operations

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(self.operations.geglu(self.fc1(x)))
        return out


class FusedFFNProjOut(nn.Module):
    """The end of a transformer: feed-forward, output projection, and the sum with its input."""

    bias: Tensor

    def __init__(self, ff: Any, proj_out: Any, operations: Operations) -> None:
        super().__init__()
        self.fc1, self.fc2, self.proj_out, self.operations = ff.net[0].proj, ff.net[2], proj_out, operations
        weight = proj_out.weight.float().flatten(1)  # a 1×1 convolution or linear
        constant(self, "bias", weight @ self.fc2.bias.float() + proj_out.bias.float(), proj_out.weight.dtype)

    def forward(self, x: Tensor, tokens: Tensor, normed: Tensor) -> Tensor:
        """Image [n, c, h, w] that entered, its tokens [n, h·w, c] (overwritten), and those normalised → image."""
        rows = tokens.flatten(0, 1).split(ROWS_AT_ONCE)
        for total, part in zip(rows, normed.flatten(0, 1).split(ROWS_AT_ONCE), strict=True):
            gated = self.operations.gated_linear(part, self.fc1.weight, self.fc1.bias)
            self.operations.add_linear_(total, gated, self.fc2.weight)  # its bias is merged into proj_out's
        return to_image(self.operations.linear_add(tokens, self.proj_out.weight.flatten(1), self.bias, to_tokens(x)), x)


class FusedSpatialTransformer(nn.Module):
    """A spatial transformer with one product for queries, keys and values."""

    def __init__(self, layer: SpatialTransformer, operations: Operations) -> None:
        super().__init__()
        block: Any = layer.transformer_blocks[0]
        self.operations, self.heads = operations, block.attn1.heads
        self.norm, self.proj_in = FusedGroupNorm(layer.norm, operations), layer.proj_in
        self.norm1, self.norm3 = FusedLayerNorm(block.norm1, operations), FusedLayerNorm(block.norm3, operations)
        self.attn_out = block.attn1.to_out[0]
        self.context_value, self.context_out = block.attn2.to_v, block.attn2.to_out[0]
        self.ffn_proj_out: Any = FusedFFNProjOut(block.ff, layer.proj_out, operations)
        weights = [layer.weight for layer in (block.attn1.to_q, block.attn1.to_k, block.attn1.to_v)]
        self.qkv: Any = FusedLinear(torch.cat(weights), operations, weights[0].dtype)

    def embed_image(self, embedding: Tensor) -> Tensor:
        """Image embedding [n, 1, e] → the constant [n, 1, c] that both attentions' ends add."""
        out: Tensor = self.context_out(self.context_value(embedding)).float() + self.attn_out.bias.float()
        return out.to(embedding.dtype)

    def project_bank(self, bank: Tensor) -> tuple[Tensor, Tensor]:
        """A bank of the reference UNet [n, l, c] → keys and values, [n, l, c] each."""
        channels = bank.shape[-1]
        key, value = self.operations.linear(bank, self.qkv.weight[channels:]).split(channels, dim=-1)
        return key.contiguous(), value.contiguous()

    def read(self, x: Tensor, sums: Tensor | None, context: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Frames of one portrait [f, c, h, w] attend to themselves and to it.

        Args:
            sums: what the resnet block before has returned beside them.
            context: `embed_image` of it, [1, 1, c].
            keys: of the portrait and its keyframes, [1, m, c], and their values.
        """
        tokens, normed = self._enter(x, sums)
        qkv = self.qkv(normed)
        del normed  # attention is where most memory is used
        frames = _frames_at_once(len(qkv), qkv.shape[1] + keys.shape[1], keys.shape[2])
        bank = [part.unflatten(-1, (self.heads, -1)) for part in (keys, values)]
        attended = [
            self.operations.attend_bank(part.unflatten(-1, (3, self.heads, -1)), *bank) for part in qkv.split(frames)
        ]
        return self._finish(x, tokens, attended[0] if len(attended) == 1 else torch.cat(attended), context)

    def write(self, x: Tensor, sums: Tensor | None, embedding: Tensor, banks: list[Tensor], last: bool) -> Tensor:
        """Images [n, c, h, w] attend to themselves; appends their self-attention's input to `banks`.

        Args:
            sums: as for `read`.
            last: nothing else is needed, so what follows is not computed.
        """
        tokens, normed = self._enter(x, sums)
        banks.append(normed)
        if last:
            return x
        qkv = self.qkv(normed)
        query, key, value = (self._heads(part) for part in qkv.chunk(3, dim=-1))
        attended = self.operations.attention(query, key, value).transpose(1, 2).flatten(2)
        return self._finish(x, tokens, attended, self.embed_image(embedding))

    def _enter(self, x: Tensor, sums: Tensor | None) -> tuple[Tensor, Tensor]:
        """Image [n, c, h, w] → tokens and normalised tokens, [n, h·w, c] each."""
        tokens = self.proj_in(to_tokens(self.norm(x, sums=sums)))
        return tokens, self.norm1(tokens)

    def _finish(self, x: Tensor, tokens: Tensor, attended: Tensor, context: Tensor) -> Tensor:
        branch = self.operations.linear(attended, self.attn_out.weight)
        tokens, normed = self.norm3.after_sum(tokens, branch, context[:, 0])
        out: Tensor = self.ffn_proj_out(x, tokens, normed)
        return out

    def _heads(self, x: Tensor) -> Tensor:
        heads: Tensor = x.unflatten(-1, (self.heads, -1))
        return heads.transpose(1, 2)


def _frames_at_once(frames: int, keys: int, channels: int) -> int:
    """The most frames, a divisor of `frames`, whose concatenated keys are within the limit."""
    fitting = (n for n in range(frames, 0, -1) if frames % n == 0 and n * keys * channels <= KEYS_AT_ONCE)
    return next(fitting, 1)


class FusedTokenTransformer(nn.Module):
    """What fused motion and temporal modules share."""

    attention_blocks: Any
    norms: Any

    def __init__(
        self, layer: TokenTransformer, operations: Operations, biases: Sequence[Tensor | None] = (None, None)
    ) -> None:
        """Consume the layers of a plain one; `biases`, where there are any, take the place of the two norms'."""
        super().__init__()
        block: Any = layer.transformer_blocks[0]
        self.norm, self.proj_in = FusedGroupNorm(layer.norm, operations), layer.proj_in
        self.norms = nn.ModuleList(
            FusedLayerNorm(norm, operations, bias) for norm, bias in zip(block.norms, biases, strict=True)
        )
        self.ff_norm = FusedLayerNorm(block.ff_norm, operations)
        self.ffn_proj_out: Any = FusedFFNProjOut(block.ff, layer.proj_out, operations)

    def forward(self, x: Tensor, condition: Tensor | int) -> Tensor:
        """Image [n, c, h, w] → the same; see the attention for its condition."""
        (first, second), last, attend = self.norms, self.ff_norm, self.attention_blocks
        tokens = self.proj_in(to_tokens(self.norm(x)))
        branch = attend[0](first(tokens), condition)
        tokens, normed = second.after_sum(tokens, branch)
        branch = attend[1](normed, condition)
        tokens, normed = last.after_sum(tokens, branch)
        out: Tensor = self.ffn_proj_out(x, tokens, normed)
        return out


class TokenAttention(nn.Module):
    """Cross-attention to motion tokens with merged projections."""

    output: Tensor

    def __init__(self, layer: Any, operations: Operations) -> None:
        super().__init__()
        self.operations, self.heads, self.bias = operations, layer.heads, layer.to_out[0].bias
        query, key, value = (
            projection.weight.float().unflatten(0, (layer.heads, -1))  # [heads, width, inputs]
            for projection in (layer.to_q, layer.to_k, layer.to_v)
        )
        output = layer.to_out[0].weight.float().unflatten(1, (layer.heads, -1))  # [channels, heads, width]
        scale = query.shape[1] ** -0.5
        dtype = layer.to_q.weight.dtype
        queries = torch.einsum("hwt,hwc->htc", key, query).flatten(0, 1) * scale
        self.project = FusedLinear(queries, operations, dtype)
        constant(self, "output", torch.einsum("chw,hwt->cht", output, value).flatten(1), dtype)

    def forward(self, x: Tensor, motion: Tensor) -> Tensor:
        """Normalised tokens [n, l, c] and motion tokens [n, t, w] → [n, l, c]."""
        query = self.project(x)  # [n, l, heads·w]
        rows = query.unflatten(-1, (self.heads, -1)).flatten(1, 2)  # every head has the same keys: [n, l·heads, w]
        attended = self.operations.token_attention(rows, motion).view_as(query)
        return self.operations.linear(attended, self.output, self.bias)


class FusedMotionTransformer(FusedTokenTransformer):
    """Cross-attention to motion tokens: see `TokenAttention`."""

    def __init__(self, layer: TokenTransformer, operations: Operations) -> None:
        super().__init__(layer, operations)
        block: Any = layer.transformer_blocks[0]
        self.attention_blocks = nn.ModuleList(TokenAttention(item, operations) for item in block.attention_blocks)


class FrameAttention(nn.Module):
    """Self-attention over frames with one product for queries, keys and values."""

    def __init__(self, layer: Any, operations: Operations) -> None:
        super().__init__()
        self.operations, self.heads, self.to_out = operations, layer.heads, layer.to_out[0]
        weights = [projection.weight for projection in (layer.to_q, layer.to_k, layer.to_v)]
        self.project = FusedLinear(torch.cat(weights), operations, weights[0].dtype)

    def forward(self, x: Tensor, frames: int) -> Tensor:
        """Normalised tokens with positions [b·frames, l, c] → [b·frames, l, c]."""
        out: Tensor = self.to_out(self.operations.frame_attention(self.project(x), self.heads, frames))
        return out


class FusedTemporalTransformer(FusedTokenTransformer):
    """Self-attention over a fixed number of frames, whose positions are in the norms' biases."""

    def __init__(self, layer: TokenTransformer, frames: int, operations: Operations) -> None:
        block: Any = layer.transformer_blocks[0]
        positions = [attention.pos_encoder.pe[0, :frames].float() for attention in block.attention_blocks]
        super().__init__(
            layer,
            operations,
            [norm.bias.float() + each for norm, each in zip(block.norms, positions, strict=True)],
        )
        self.frames = frames
        self.attention_blocks = nn.ModuleList(FrameAttention(item, operations) for item in block.attention_blocks)

    def forward(self, x: Tensor, condition: Tensor | int) -> Tensor:
        """Image [b·frames, c, h, w], oldest frame first, and the number of frames → the same shape.

        Raises:
            ValueError: it is not the number that the positions were merged for.
        """
        if condition != self.frames:
            raise ValueError(f"this network was fused for {self.frames} frames per window, not {condition}")
        return super().forward(x, condition)
