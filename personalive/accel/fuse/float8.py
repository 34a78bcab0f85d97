"""Feed-forwards of a merged UNet in fp8 (e4m3): less exact, and on GPUs that multiply fp8, faster.

Only feed-forwards: they are two thirds of the linear layers' work, and the operation before each of their products can
write fp8 itself. For other layers, converting the input in a separate pass costs what fp8 gains.

Weights have one scale each. The input has a fixed one: it is a LayerNorm's output, so the norm's weights limit how
large it can be. The gate's output has no such limit, so every row has its own scale.
"""

from typing import Any

import torch
from torch import Tensor, nn

from personalive.accel.fuse.images import constant
from personalive.accel.fuse.transformers import (
    ROWS_AT_ONCE,
    FusedFFNProjOut,
    FusedSpatialTransformer,
    FusedTokenTransformer,
)
from personalive.accel.ops.reference import FLOAT8, LARGEST, Operations
from personalive.models.blocks import to_image, to_tokens


class ScaledNorm(nn.Module):
    """The weights of a LayerNorm whose output is divided by `scale`, so that it fits fp8 whatever the input."""

    weight: Tensor
    bias: Tensor

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        weight, bias = norm.weight.float(), norm.bias.float()
        # A normalised value is at most the square root of the number of channels.
        self.scale = float((weight.abs() * weight.numel() ** 0.5 + bias.abs()).max()) / LARGEST
        self.eps = norm.eps
        constant(self, "weight", weight / self.scale, torch.float32)
        constant(self, "bias", bias / self.scale, torch.float32)


class Float8Weight(nn.Module):
    """A linear layer's weight [o, i] in fp8 with one scale."""

    values: Tensor
    scale: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        wide = weight.detach().float()
        scale = wide.abs().max().clamp(min=1e-12) / LARGEST
        self.register_buffer("values", (wide / scale).to(FLOAT8), persistent=False)
        self.register_buffer("scale", scale, persistent=False)


class Float8FFNProjOut(nn.Module):
    """A `FusedFFNProjOut` whose feed-forward is in fp8."""

    bias: Tensor
    fc1_bias: Tensor
    input_scale: Tensor
    one: Tensor

    def __init__(self, end: FusedFFNProjOut, norm: ScaledNorm, operations: Operations) -> None:
        super().__init__()
        self.operations, self.proj_out = operations, end.proj_out
        self.fc1, self.fc2 = Float8Weight(end.fc1.weight), Float8Weight(end.fc2.weight)
        device = end.fc1.weight.device
        constant(self, "bias", end.bias, end.bias.dtype)
        constant(self, "fc1_bias", end.fc1.bias, end.fc1.bias.dtype)
        constant(self, "input_scale", torch.tensor(norm.scale, device=device), torch.float32)
        constant(self, "one", torch.ones((), device=device), torch.float32)

    def forward(self, x: Tensor, tokens: Tensor, normed: Tensor) -> Tensor:
        """See `FusedFFNProjOut`; `normed` is a `ScaledNorm`'s output in fp8."""
        multiply, fc1, fc2 = self.operations.multiply_float8, self.fc1, self.fc2
        rows = tokens.flatten(0, 1).split(ROWS_AT_ONCE)
        for total, part in zip(rows, normed.flatten(0, 1).split(ROWS_AT_ONCE), strict=True):
            hidden = multiply(part, fc1.values, self.input_scale, fc1.scale, self.fc1_bias, x.dtype)
            gated, scale = self.operations.geglu_float8(hidden)
            branch = multiply(gated, fc2.values, self.one, fc2.scale, None, x.dtype)
            self.operations.add_scaled_(total, branch, scale)
        return to_image(self.operations.linear_add(tokens, self.proj_out.weight.flatten(1), self.bias, to_tokens(x)), x)


def to_float8(network: nn.Module, operations: Operations) -> None:
    """Replace the feed-forwards of a merged UNet, in place."""
    for child in list(network.modules()):
        if isinstance(child, FusedSpatialTransformer | FusedTokenTransformer):
            name = "norm3" if isinstance(child, FusedSpatialTransformer) else "ff_norm"
            layer: Any = child
            norm = ScaledNorm(getattr(layer, name))
            setattr(layer, name, norm)
            layer.ffn_proj_out = Float8FFNProjOut(layer.ffn_proj_out, norm, operations)
            layer.normed_dtype = FLOAT8
