"""The operations that the merged layers (accel/fuse) are made of, in plain PyTorch.

`ops.triton` has the same functions for GPUs, `ops.onednn` for CPUs; `Operations` is the choice, made once per model.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from personalive.models.blocks import dense

FLOAT8 = torch.float8_e4m3fn
LARGEST = 448.0
"""The largest number of `FLOAT8`."""


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
        sums: Tensor | None = None,
    ) -> Tensor: ...


class AddLayerNorm(Protocol):
    """See `add_layer_norm`."""

    def __call__(
        self,
        x: Tensor,
        branch: Tensor,
        weight: Tensor,
        bias: Tensor,
        eps: float,
        *,
        add: Tensor | None = None,
        dtype: torch.dtype | None = None,
    ) -> tuple[Tensor, Tensor]: ...


class LayerNorm(Protocol):
    """See `layer_norm`."""

    def __call__(
        self, x: Tensor, weight: Tensor, bias: Tensor, eps: float, *, dtype: torch.dtype | None = None
    ) -> Tensor: ...


class GroupNormFloat8(Protocol):
    """See `group_norm_float8`."""

    def __call__(
        self,
        x: Tensor,
        groups: int,
        weight: Tensor,
        bias: Tensor,
        eps: float,
        scale: float,
        *,
        shift: Tensor | None = None,
        sums: Tensor | None = None,
    ) -> Tensor: ...


class LinearFloat8(Protocol):
    """See `linear_float8`."""

    def __call__(self, x: Tensor, weight: Tensor, scale: Tensor, x_scale: float, dtype: torch.dtype) -> Tensor: ...


class ConvFloat8(Protocol):
    """See `conv_float8`."""

    def __call__(
        self,
        x: Tensor,
        weight: Tensor,
        scale: Tensor,
        x_scale: float,
        dtype: torch.dtype,
        *,
        bias: Tensor | None = None,
        other: Tensor | None = None,
    ) -> Tensor: ...


class Linear(Protocol):
    """`F.linear`: [..., i], [o, i] and [o] → [..., o]."""

    def __call__(self, input: Tensor, weight: Tensor, bias: Tensor | None = None, /) -> Tensor: ...


Attention = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Queries [n, heads, l, width], keys and values [n, heads, m, width] → [n, heads, l, width]."""


def group_norm(
    x: Tensor,
    groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    *,
    silu: bool = False,
    shift: Tensor | None = None,
    sums: Tensor | None = None,
) -> Tensor:
    """GroupNorm of image `x + shift` [n, c, h, w], then SiLU if asked for; `shift` is [n, c] or [1, c].

    `sums` is what `add_bias_sums` has returned beside x. It saves a kernel that can use it a pass over the image.
    """
    if shift is not None:
        x = x + shift[:, :, None, None]
    x = F.group_norm(
        dense(x), groups, weight, bias, eps
    )  # equally exact for every layout, see `models.blocks.GroupNorm`
    return F.silu(x) if silu else x


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float, *, dtype: torch.dtype | None = None) -> Tensor:
    """LayerNorm of tokens [n, l, c], in `dtype` if given.

    `bias` is [c], or [f, c] with a row per frame: image i takes row i % f. Weight and bias may be float32 where the
    tokens are not.
    """
    if dtype is not None:
        return layer_norm(x.float(), weight.float(), bias.float(), eps).to(dtype)
    if weight.dtype != x.dtype:
        return layer_norm(x.to(weight.dtype), weight, bias, eps).to(x.dtype)
    if bias.dim() == 1:
        return F.layer_norm(x, weight.shape, weight, bias, eps)
    normed = F.layer_norm(x, weight.shape, weight, None, eps)
    out: Tensor = (normed.unflatten(0, (-1, len(bias))) + bias[:, None]).flatten(0, 1)
    return out


def add_layer_norm(
    x: Tensor,
    branch: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    *,
    add: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """The sum of tokens `x + branch + add` [n, l, c], and its `layer_norm`.

    `add` is [k, c]: the first n/k images take row 0, and so on.
    """
    total = x + branch
    if add is not None:
        total = (total.unflatten(0, (len(add), -1)) + add[:, None, None]).flatten(0, 1)
    return total, layer_norm(total, weight, bias, eps, dtype=dtype)


def geglu(x: Tensor) -> Tensor:
    """First half of the channels times GELU of the second: [..., 2c] → [..., c]."""
    value, gate = x.chunk(2, dim=-1)
    return value * F.gelu(gate)


def gated_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`geglu` of a linear layer: [..., i], [2c, i] and [2c] → [..., c]."""
    return geglu(F.linear(x, weight, bias))


def linear_add(x: Tensor, weight: Tensor, bias: Tensor, other: Tensor) -> Tensor:
    """A linear layer's result added to `other`: [..., i], [o, i], [o] and [..., o] → [..., o]."""
    return other + F.linear(x, weight, bias)


def add_linear_(total: Tensor, x: Tensor, weight: Tensor) -> None:
    """Add a linear layer's result to `total` in place: rows [r, o], [r, i] and [o, i]."""
    # The product adds by itself, which saves two passes over memory.
    total.addmm_(x, weight.t())


def conv3x3(x: Tensor, weight: Tensor) -> Tensor:
    """A 3×3 convolution without bias: [n, i, h, w] and [o, i, 3, 3] → [n, o, h, w]."""
    return F.conv2d(x, weight, padding=1)


def group_norm_float8(
    x: Tensor,
    groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    scale: float,
    *,
    shift: Tensor | None = None,
    sums: Tensor | None = None,
) -> Tensor:
    """`group_norm` with SiLU, divided by `scale`, in fp8."""
    return to_float8(group_norm(x.float(), groups, weight.float(), bias.float(), eps, silu=True, shift=shift) / scale)


def linear_float8(x: Tensor, weight: Tensor, scale: Tensor, x_scale: float, dtype: torch.dtype) -> Tensor:
    """A linear layer of fp8 tokens.

    Args:
        x: [..., i] in fp8, to be multiplied by `x_scale`.
        weight: [o, i] in fp8, to be multiplied by `scale`, fp32 [o].
        dtype: of the result [..., o].
    """
    return (F.linear(x.float(), weight.float()) * (scale * x_scale)).to(dtype)


def conv_float8(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    x_scale: float,
    dtype: torch.dtype,
    *,
    bias: Tensor | None = None,
    other: Tensor | None = None,
) -> Tensor:
    """A 3×3 convolution of an fp8 image, plus `other` and `bias` if given.

    Args:
        x: [n, i, h, w] in fp8, to be multiplied by `x_scale`.
        weight: [o, i, 3, 3] in fp8, to be multiplied by `scale`, fp32 [o].
        dtype: of the result [n, o, h, w].
        bias: [o]; with `other` only.
        other: [n, o, h, w].
    """
    out = F.conv2d(x.float(), weight.float(), padding=1) * (scale * x_scale)[:, None, None]
    return out.to(dtype) if other is None or bias is None else add_bias(out, other.float(), bias.float()).to(dtype)


def gated_linear_float8(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """`gated_linear` of fp8 rows [r, i] and an fp8 weight [2c, i], in fp8 [r, c].

    Scale and bias are fp32 [2c]. Those of the values are such that no result is beyond fp8's range.
    """
    return to_float8(geglu(F.linear(x.float(), weight.float()) * scale + bias))


def linears_add_float8(
    x: Tensor, weight: Tensor, scale: Tensor, tokens: Tensor, proj: Tensor, bias: Tensor, other: Tensor
) -> Tensor:
    """Two linear layers, the first in fp8, and a sum.

    Args:
        x: rows [r, i] in fp8.
        weight: [o, i] in fp8, to be multiplied by `scale`, fp32 [o].
        tokens: rows [r, c].
        proj: [o, c], and its bias [o].
        other: what the result is added to, [r, o].
    """
    return (F.linear(x.float(), weight.float()) * scale).to(other.dtype) + linear_add(tokens, proj, bias, other)


def to_float8(x: Tensor) -> Tensor:
    """The nearest fp8 numbers; what is too large becomes the largest."""
    return x.clamp(-LARGEST, LARGEST).to(FLOAT8)


def grn_mlp(
    x: Tensor, fc1: Tensor, fc1_bias: Tensor, gamma: Tensor, fc2: Tensor, fc2_bias: Tensor, other: Tensor
) -> Tensor:
    """A linear layer, GELU, global response normalisation without its bias, another linear layer, and a sum.

    Args:
        x: tokens [n, l, c] of n images.
        fc1: [w, c], and its bias [w].
        gamma: of the normalisation, [w].
        fc2: [o, w], and its bias [o].
        other: what the result is added to, [n, l, o].
    """
    hidden = F.gelu(F.linear(x, fc1, fc1_bias))
    return other + F.linear(hidden * grn_scale(hidden, gamma), fc2, fc2_bias)


def grn_scale(hidden: Tensor, gamma: Tensor) -> Tensor:
    """What global response normalisation multiplies channels with: [n, l, w] and [w] → [n, 1, w]."""
    energy: Tensor = hidden.norm(dim=1, keepdim=True)
    return 1 + gamma * energy / (energy.mean(dim=-1, keepdim=True) + 1e-6)


def add_bias(x: Tensor, branch: Tensor, bias: Tensor) -> Tensor:
    """Images `x + branch` [n, c, h, w] plus `bias` [c]."""
    return x + branch + bias[:, None, None]


def add_bias_sums(x: Tensor, branch: Tensor, bias: Tensor) -> tuple[Tensor, Tensor | None]:
    """`add_bias`, and sums for a `group_norm` of the result where they come for nothing."""
    return add_bias(x, branch, bias), None


def scale_relu(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """ReLU of image x·scale + bias, [n, c, h, w] and [c]: a batch norm in eval mode with its ReLU."""
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


def attend_bank(
    qkv: Tensor,
    keys: Tensor,
    values: Tensor,
    attention: Attention = F.scaled_dot_product_attention,
    append: Callable[[Tensor, Tensor, int], Tensor] = append_bank,
) -> Tensor:
    """Tokens of a portrait's frames attend to those of their frame and to the portrait's.

    Args:
        qkv: queries, keys and values of the frames, [f, l, 3, heads, width].
        keys: of the portrait and its keyframes, [1, m, heads, width].
        values: likewise.
        attention: what computes it, with keys and values joined.
        append: what joins them.

    Returns:
        [f, l, heads · width].
    """
    query, own_keys, own_values = qkv.unbind(2)
    joined = (
        append(own.flatten(2), bank.flatten(2), len(qkv)).unflatten(2, qkv.shape[3:])
        for own, bank in ((own_keys, keys), (own_values, values))
    )
    heads_first = (x.transpose(1, 2) for x in (query, *joined))
    return attention(*heads_first).transpose(1, 2).flatten(2)


@dataclass(frozen=True)
class Operations:
    """One implementation of each operation."""

    linear: Linear = F.linear
    group_norm: GroupNorm = group_norm
    layer_norm: LayerNorm = layer_norm
    add_layer_norm: AddLayerNorm = add_layer_norm
    geglu: Callable[[Tensor], Tensor] = geglu
    gated_linear: Callable[[Tensor, Tensor, Tensor], Tensor] = gated_linear
    linear_add: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor] = linear_add
    add_linear_: Callable[[Tensor, Tensor, Tensor], None] = add_linear_
    conv3x3: Callable[[Tensor, Tensor], Tensor] = conv3x3
    group_norm_float8: GroupNormFloat8 = group_norm_float8
    conv_float8: ConvFloat8 = conv_float8
    linear_float8: LinearFloat8 = linear_float8
    gated_linear_float8: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor] = gated_linear_float8
    linears_add_float8: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], Tensor] = linears_add_float8
    grn_mlp: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], Tensor] = grn_mlp
    add_bias_sums: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor | None]] = add_bias_sums
    scale_relu: Callable[[Tensor, Tensor, Tensor], Tensor] = scale_relu
    frame_attention: Callable[[Tensor, int, int], Tensor] = frame_attention
    token_attention: Callable[[Tensor, Tensor], Tensor] = token_attention
    attend_bank: Callable[[Tensor, Tensor, Tensor], Tensor] = attend_bank
    attention: Attention = F.scaled_dot_product_attention
