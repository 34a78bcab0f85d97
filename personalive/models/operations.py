"""The operations that the merged layers (fused.py) are made of, in plain PyTorch.

`kernels` has the same functions for GPUs; `Operations` is the choice between them, made once per model.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class GroupNorm(Protocol):
    """See `group_norm`."""

    def __call__(
        self,
        x: Tensor,
        groups: int,
        weight: Tensor,
        bias: Tensor,
        eps: float,
        *,
        silu: bool = False,
        shift: Tensor | None = None,
    ) -> Tensor: ...


class AddLayerNorm(Protocol):
    """See `add_layer_norm`."""

    def __call__(
        self, x: Tensor, branch: Tensor, weight: Tensor, bias: Tensor, eps: float, *, add: Tensor | None = None
    ) -> tuple[Tensor, Tensor]: ...


class Linear(Protocol):
    """`F.linear`: [..., i], [o, i] and [o] → [..., o]."""

    def __call__(self, input: Tensor, weight: Tensor, bias: Tensor | None = None, /) -> Tensor: ...


Attention = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Queries [n, heads, l, width], keys and values [n, heads, m, width] → [n, heads, l, width]."""


def group_norm(
    x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float, *, silu: bool = False, shift: Tensor | None = None
) -> Tensor:
    """GroupNorm of image `x + shift` [n, c, h, w], then SiLU if asked for; `shift` is [n, c] or [1, c]."""
    if shift is not None:
        x = x + shift[:, :, None, None]
    x = F.group_norm(x, groups, weight, bias, eps)
    return F.silu(x) if silu else x


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """LayerNorm of tokens [n, l, c]; `bias` is [c], or [f, c] with a row per frame: image i takes row i % f.

    Weight and bias may be float32 where the tokens are not.
    """
    if weight.dtype != x.dtype:
        return layer_norm(x.to(weight.dtype), weight, bias, eps).to(x.dtype)
    if bias.dim() == 1:
        return F.layer_norm(x, weight.shape, weight, bias, eps)
    normed = F.layer_norm(x, weight.shape, weight, None, eps)
    out: Tensor = (normed.unflatten(0, (-1, len(bias))) + bias[:, None]).flatten(0, 1)
    return out


def add_layer_norm(
    x: Tensor, branch: Tensor, weight: Tensor, bias: Tensor, eps: float, *, add: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The sum of tokens `x + branch + add` [n, l, c], and its `layer_norm`.

    `add` is [k, c]: the first n/k images take row 0, and so on.
    """
    total = x + branch
    if add is not None:
        total = (total.unflatten(0, (len(add), -1)) + add[:, None, None]).flatten(0, 1)
    return total, layer_norm(total, weight, bias, eps)


def geglu(x: Tensor) -> Tensor:
    """First half of the channels times GELU of the second: [..., 2c] → [..., c]."""
    value, gate = x.chunk(2, dim=-1)
    return value * F.gelu(gate)


def add_bias(x: Tensor, branch: Tensor, bias: Tensor) -> Tensor:
    """Images `x + branch` [n, c, h, w] plus `bias` [c]."""
    return x + branch + bias[:, None, None]


def scale_relu(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """ReLU of image x·scale + bias, [n, c, h, w] and [c]: a batch norm in eval mode and its ReLU."""
    return F.relu(torch.addcmul(bias[:, None, None], x, scale[:, None, None]))


def frame_attention(qkv: Tensor, heads: int, frames: int) -> Tensor:
    """Self-attention of each pixel over its frames: [b·frames, l, 3c] → [b·frames, l, c]."""
    n, length, width = qkv.shape
    split = qkv.view(n // frames, frames, length, 3, heads, width // (3 * heads))
    query, key, value = split.permute(3, 0, 2, 4, 1, 5)  # [b, l, heads, frames, width] each
    out = F.scaled_dot_product_attention(query, key, value)
    return out.permute(0, 3, 1, 2, 4).reshape(n, length, width // 3)


def token_attention(query: Tensor, tokens: Tensor) -> Tensor:
    """softmax(query·tokensᵀ)·tokens without a scale: [n, r, c] and [n, t, c] → [n, r, c]."""
    weights = torch.bmm(query, tokens.transpose(1, 2)).softmax(dim=-1)
    return torch.bmm(weights, tokens)


def append_bank(own: Tensor, bank: Tensor, frames: int) -> Tensor:
    """Tokens of the frames of k portraits [k·frames, l, c], each followed by its portrait's [k, m, c]."""
    tokens = (own.unflatten(0, (-1, frames)), bank[:, None].expand(-1, frames, -1, -1))
    return torch.cat(tokens, dim=2).flatten(0, 1)


@dataclass(frozen=True)
class Operations:
    """One implementation of each operation."""

    linear: Linear = F.linear
    group_norm: GroupNorm = group_norm
    layer_norm: Callable[[Tensor, Tensor, Tensor, float], Tensor] = layer_norm
    add_layer_norm: AddLayerNorm = add_layer_norm
    geglu: Callable[[Tensor], Tensor] = geglu
    add_bias: Callable[[Tensor, Tensor, Tensor], Tensor] = add_bias
    scale_relu: Callable[[Tensor, Tensor, Tensor], Tensor] = scale_relu
    frame_attention: Callable[[Tensor, int, int], Tensor] = frame_attention
    token_attention: Callable[[Tensor, Tensor], Tensor] = token_attention
    append_bank: Callable[[Tensor, Tensor, int], Tensor] = append_bank
    attention: Attention = F.scaled_dot_product_attention
