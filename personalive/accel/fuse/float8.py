"""Convolutions and linear layers of merged networks in fp8 (e4m3): less exact, and on GPUs that multiply fp8, faster.

Only those whose input a norm or a gate writes, as it can write fp8 itself; for others, converting the input in a pass
of its own costs what fp8 gains. Which of them are worth their error: docs/speed.md.

Every output channel of a weight has a scale of its own. An input has a fixed one: a norm's output cannot be larger than
its weights allow, and neither can the product of that with the gate's weights. So nothing has to be measured while it
runs, and nothing is ever too large, whatever the picture. A bound lies far above what is common, but fp8 has exponents,
and is as exact there.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from personalive.accel.fuse.images import (
    FusedGroupNorm,
    FusedNormConv,
    FusedResnetBlock,
    FusedUpsample,
    constant,
)
from personalive.accel.fuse.transformers import (
    FusedFFNProjOut,
    FusedLayerNorm,
    FusedLinear,
    FusedSpatialTransformer,
    FusedTokenTransformer,
)
from personalive.accel.fuse.vae import FusedDecoder
from personalive.accel.ops.reference import FLOAT8, LARGEST
from personalive.models.blocks import to_image, to_tokens

LEVELS_DECODED = 2
"""The last levels of the VAE's decoder, which are converted: they are most of its work, and add the least error."""
SMALLEST_GELU = 0.17
"""How far below 0 GELU goes."""


class ScaledNorm(FusedLayerNorm):
    """A LayerNorm whose output is in fp8: divided by `scale`, so that it fits whatever the input."""

    dtype = FLOAT8

    def __init__(self, norm: FusedLayerNorm) -> None:
        super().__init__(norm, norm.operations)
        weight, bias = norm.weight.detach().float(), norm.bias.detach().float()
        # A normalised value is at most the square root of the number of channels.
        self.scale = float((weight.abs() * weight.numel() ** 0.5 + bias.abs()).max()) / LARGEST
        del self.weight, self.bias
        constant(self, "weight", weight / self.scale, torch.float32)
        constant(self, "bias", bias / self.scale, torch.float32)


class Float8Weight(nn.Module):
    """A weight [o, ...] in fp8 with a scale for each output."""

    values: Tensor
    scale: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        wide = weight.detach().float()
        scale = wide.abs().flatten(1).amax(dim=1).clamp(min=1e-12) / LARGEST
        values = wide / scale.view(-1, *[1] * (wide.dim() - 1))
        constant(self, "values", values, FLOAT8)
        constant(self, "scale", scale, torch.float32)


class Float8NormConv(nn.Module):
    """See `FusedNormConv`."""

    def __init__(self, layer: FusedNormConv) -> None:
        super().__init__()
        self.norm, self.weight, self.operations = layer.norm, Float8Weight(layer.weight), layer.operations
        norm: FusedGroupNorm = layer.norm
        self._largest = float(norm.weight.detach().abs().max()), float(norm.bias.detach().abs().max())

    def forward(self, x: Tensor, shift: Tensor | None = None, sums: Tensor | None = None) -> Tensor:
        normed, scale = self._normed(x, shift, sums)
        return self.operations.conv_float8(normed, self.weight.values, self.weight.scale, scale, x.dtype)

    def add_to(self, other: Callable[[], Tensor], bias: Tensor, x: Tensor, shift: Tensor) -> tuple[Tensor, None]:
        dtype = x.dtype
        normed, scale = self._normed(x, shift)
        del x
        out = self.operations.conv_float8(
            normed, self.weight.values, self.weight.scale, scale, dtype, bias=bias, other=other()
        )
        return out, None

    def _normed(self, x: Tensor, shift: Tensor | None, sums: Tensor | None = None) -> tuple[Tensor, float]:
        norm, (weight, bias) = self.norm, self._largest
        of_a_group = x[0].numel() // norm.groups
        # As in `ScaledNorm`; SiLU makes nothing larger.
        scale = (weight * of_a_group**0.5 + bias) / LARGEST
        normed = self.operations.group_norm_float8(
            x, norm.groups, norm.weight, norm.bias, norm.eps, scale, shift=shift, sums=sums
        )
        return normed, scale


class Float8Linear(nn.Module):
    """A `FusedLinear` of what a `ScaledNorm` has written."""

    def __init__(self, layer: FusedLinear, norm: ScaledNorm) -> None:
        super().__init__()
        self.operations, self.dtype, self.x_scale = layer.operations, layer.weight.dtype, norm.scale
        self.stored = Float8Weight(layer.weight)

    @property
    def weight(self) -> Tensor:
        """[o, i], as in a `FusedLinear`, for other inputs."""
        return (self.stored.values.float() * self.stored.scale[:, None]).to(self.dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.operations.linear_float8(x, self.stored.values, self.stored.scale, self.x_scale, self.dtype)


class Float8FFNProjOut(nn.Module):
    """A `FusedFFNProjOut` whose feed-forward is in fp8. Its second layer and the projection are one."""

    bias: Tensor
    fc1_scale: Tensor
    fc1_bias: Tensor

    def __init__(self, end: FusedFFNProjOut, norm: ScaledNorm) -> None:
        super().__init__()
        self.operations, self.proj_out = end.operations, end.proj_out
        constant(self, "bias", end.bias, end.bias.dtype)
        weight, bias = end.fc1.weight.float(), end.fc1.bias.float()
        # By Cauchy and Schwarz: the norm's output without weights has the length √c.
        spread = (weight * (norm.weight * norm.scale)).norm(dim=1) * norm.weight.numel() ** 0.5
        value, gate = (spread + (weight @ (norm.bias * norm.scale) + bias).abs()).chunk(2)
        # A channel whose weights are all 0 has a bound of 0, by which nothing can be divided.
        gated_scale = (value * gate.clamp(min=SMALLEST_GELU)).clamp(min=1e-12) / LARGEST
        self.fc1 = Float8Weight(weight)
        factors = torch.cat([1 / gated_scale, torch.ones_like(gated_scale)])
        constant(self, "fc1_scale", self.fc1.scale * norm.scale * factors, torch.float32)
        constant(self, "fc1_bias", bias * factors, torch.float32)
        self.fc2 = Float8Weight(end.proj_out.weight.float().flatten(1) @ end.fc2.weight.float() * gated_scale)

    def forward(self, x: Tensor, tokens: Tensor, normed: Tensor) -> Tensor:
        """See `FusedFFNProjOut`; `normed` is a `ScaledNorm`'s output in fp8."""
        gated = self.operations.gated_linear_float8(
            normed.flatten(0, 1), self.fc1.values, self.fc1_scale, self.fc1_bias
        )
        total = self.operations.linears_add_float8(
            gated, self.fc2.values, self.fc2.scale, tokens.flatten(0, 1), self.proj_out.weight.flatten(1), self.bias,
            to_tokens(x).flatten(0, 1),
        )  # fmt: skip
        return to_image(total.view_as(tokens), x)


def to_float8(network: nn.Module) -> None:
    """Replace layers of a merged UNet, in place."""
    for child in list(network.modules()):
        if isinstance(child, FusedResnetBlock):
            _convert(child)
        elif isinstance(child, FusedSpatialTransformer):
            child.norm1 = ScaledNorm(child.norm1)
            child.qkv = Float8Linear(child.qkv, child.norm1)
            child.norm3, child.ffn_proj_out = _normed_end(child.norm3, child.ffn_proj_out)
        elif isinstance(child, FusedTokenTransformer):
            child.ff_norm, child.ffn_proj_out = _normed_end(child.ff_norm, child.ffn_proj_out)


def _normed_end(norm: FusedLayerNorm, end: FusedFFNProjOut) -> tuple[ScaledNorm, Float8FFNProjOut]:
    scaled = ScaledNorm(norm)
    return scaled, Float8FFNProjOut(end, scaled)


def decoder_to_float8(decoder: FusedDecoder) -> None:
    """Replace convolutions of a merged decoder, in place: those of its last levels."""
    doublings = 0
    for layer in reversed(decoder.layers):
        doublings += isinstance(layer, FusedUpsample)
        if doublings == LEVELS_DECODED:
            return
        if isinstance(layer, FusedResnetBlock):
            _convert(layer)


def _convert(block: FusedResnetBlock) -> None:
    block.first, block.second = Float8NormConv(block.first), Float8NormConv(block.second)
