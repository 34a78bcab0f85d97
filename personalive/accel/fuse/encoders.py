"""The layers of the motion encoder and the motion extractor with their weights merged, for inference only."""

from typing import Any

import torch
from torch import Tensor, nn

from personalive.accel.fuse.images import FusedGroupNorm, constant
from personalive.accel.fuse.transformers import FusedFeedForward, FusedLayerNorm, FusedLinear
from personalive.accel.ops.reference import Operations
from personalive.models.blocks import to_image, to_tokens
from personalive.models.motion_encoder import ConvBlock, FaceNetwork, PatchBlock
from personalive.models.motion_extractor import ChannelLayerNorm, ConvNeXtBlock


def _scale_and_bias(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """A batch norm in eval mode as x·scale + bias, fp32."""
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight.float() / torch.sqrt(norm.running_var.float() + norm.eps)
    return scale, norm.bias.float() - norm.running_mean.float() * scale


class FusedNormReLU(nn.Module):
    """A batch norm in eval mode and the ReLU after it."""

    scale: Tensor
    bias: Tensor

    def __init__(self, norm: nn.BatchNorm2d, operations: Operations) -> None:
        super().__init__()
        self.operations = operations
        scale, bias = _scale_and_bias(norm)
        constant(self, "scale", scale, norm.weight.dtype)
        constant(self, "bias", bias, norm.weight.dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.operations.scale_relu(x, self.scale, self.bias)


class FusedConvBlock(nn.Module):
    """A ConvBlock whose norms are one pass over memory with their ReLUs."""

    def __init__(self, block: ConvBlock, operations: Operations) -> None:
        super().__init__()
        self.steps = nn.ModuleList(
            nn.Sequential(FusedNormReLU(norm, operations), conv)
            for norm, conv in ((block.bn1, block.conv1), (block.bn2, block.conv2), (block.bn3, block.conv3))
        )
        self.downsample: nn.Sequential | None = None
        if block.downsample is not None:
            norm, _, conv = block.downsample
            assert isinstance(norm, nn.BatchNorm2d)
            self.downsample = nn.Sequential(FusedNormReLU(norm, operations), conv)

    def forward(self, x: Tensor) -> Tensor:
        parts = [x]
        for step in self.steps:
            parts.append(step(parts[-1]))
        shortcut = x if self.downsample is None else self.downsample(x)
        return torch.cat(parts[1:], dim=1) + shortcut


class FusedPatchBlock(nn.Module):
    """A PatchBlock with one product for queries, keys and values."""

    def __init__(self, block: PatchBlock, operations: Operations) -> None:
        super().__init__()
        attention: Any = block.attention_blocks[0]
        self.operations, self.heads, self.to_out = operations, attention.heads, attention.to_out[0]
        norm: Any = block.norms[0]
        self.norm, self.ff_norm = FusedLayerNorm(norm, operations), FusedLayerNorm(block.ff_norm, operations)
        self.ff = FusedFeedForward(block.ff, operations)
        weights = [layer.weight for layer in (attention.to_q, attention.to_k, attention.to_v)]
        self.qkv = FusedLinear(torch.cat(weights), operations, weights[0].dtype)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(self.norm(x)).chunk(3, dim=-1)
        )
        branch = self.to_out(self.operations.attention(query, key, value).transpose(1, 2).flatten(2))
        x, normed = self.ff_norm.after_sum(x, branch)
        out: Tensor = x + self.ff(normed)
        return out


class FusedChannelLayerNorm(nn.Module):
    """A ChannelLayerNorm of an image's tokens."""

    def __init__(self, norm: ChannelLayerNorm, operations: Operations) -> None:
        super().__init__()
        self.operations = operations
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps

    def forward(self, x: Tensor) -> Tensor:
        return to_image(self.operations.layer_norm(to_tokens(x), self.weight, self.bias, self.eps), like=x)


class FusedConvNeXtBlock(nn.Module):
    """A ConvNeXtBlock whose pointwise network is one operation; its normalisation's bias is merged into it."""

    gamma: Tensor
    bias: Tensor

    def __init__(self, block: ConvNeXtBlock, operations: Operations) -> None:
        super().__init__()
        self.operations, self.dwconv, self.norm = operations, block.dwconv, block.norm
        self.fc1, self.fc2 = block.pwconv1, block.pwconv2
        constant(self, "gamma", block.grn.gamma.flatten(), block.grn.gamma.dtype)
        bias = self.fc2.weight.float() @ block.grn.beta.flatten().float() + self.fc2.bias.float()
        constant(self, "bias", bias, self.fc2.bias.dtype)

    def forward(self, x: Tensor) -> Tensor:
        norm, fc1 = self.norm, self.fc1
        tokens = self.operations.layer_norm(to_tokens(self.dwconv(x)), norm.weight, norm.bias, norm.eps)
        out = self.operations.grn_mlp(
            tokens, fc1.weight, fc1.bias, self.gamma, self.fc2.weight, self.bias, to_tokens(x)
        )
        return to_image(out, like=x)


def _fold_norm(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Identity:
    """Merge the batch norm after `conv` into it; the result takes the norm's place."""
    scale, bias = _scale_and_bias(norm)
    assert conv.bias is not None
    with torch.no_grad():
        conv.weight.copy_(conv.weight.float() * scale[:, None, None, None])
        conv.bias.copy_(conv.bias.float() * scale + bias)
    return nn.Identity()


def fuse_encoder(network: nn.Module, operations: Operations) -> None:
    """Replace every layer of a motion encoder or motion extractor that has a merged form, in place."""
    for name, child in list(network.named_children()):
        if isinstance(child, ConvBlock):
            setattr(network, name, FusedConvBlock(child, operations))
        elif isinstance(child, PatchBlock):
            setattr(network, name, FusedPatchBlock(child, operations))
        elif isinstance(child, ConvNeXtBlock):
            setattr(network, name, FusedConvNeXtBlock(child, operations))
        elif isinstance(child, ChannelLayerNorm):
            setattr(network, name, FusedChannelLayerNorm(child, operations))
        elif isinstance(child, nn.GroupNorm):
            setattr(network, name, FusedGroupNorm(child, operations))
        elif not isinstance(child, nn.BatchNorm2d):
            fuse_encoder(child, operations)
    if isinstance(network, FaceNetwork):
        for conv, norm in (("conv1", "bn1"), ("conv_last0", "bn_end0"), ("l0", "bn5")):
            setattr(network, norm, _fold_norm(getattr(network, conv), getattr(network, norm)))
