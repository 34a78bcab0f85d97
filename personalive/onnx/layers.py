"""Layers in the form in which they are exported: the same results up to rounding, in what runtimes are quick at.

A runtime merges what lies side by side by itself. It does not find out what is the same in every step, so keys and
values of the portrait and its keyframes are inputs (`KeyedTransformer`), and the keys of motion tokens are merged into
the query (`accel.fuse.transformers.TokenAttention`). Splitting an array along its last axis copies it: products that
plain PyTorch takes at once are taken one by one.
"""

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from personalive.accel.fuse.images import FusedUpsample
from personalive.accel.fuse.transformers import TokenAttention
from personalive.accel.ops.reference import Operations
from personalive.models.blocks import GEGLU, SpatialTransformer, Upsample, to_image, to_tokens
from personalive.models.motion_blocks import MotionBlock
from personalive.models.vae import DoublingConv


@dataclass(frozen=True)
class KeyedReference:
    """What the denoising UNet of a file attends to, for each of its spatial transformers."""

    context: tuple[Tensor, ...]
    """What the image embedding adds, [1, 1, c]."""
    keys: tuple[Tensor, ...]
    """Keys of the portrait, then of its keyframes, [1, m, c]."""
    values: tuple[Tensor, ...]
    """Their values, [1, m, c]."""

    def with_keyframe(self, keyframe: "KeyedReference") -> "KeyedReference":
        """These features with a keyframe's keys and values appended; the context stays."""
        keys, values = (
            tuple(torch.cat(pair, dim=1) for pair in zip(before, after, strict=True))
            for before, after in ((self.keys, keyframe.keys), (self.values, keyframe.values))
        )
        return KeyedReference(self.context, keys, values)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors, in the order of the fields."""
        return (*self.context, *self.keys, *self.values)

    @classmethod
    def of(cls, tensors: tuple[Tensor, ...]) -> "KeyedReference":
        """The inverse of `tensors`."""
        places = len(tensors) // 3
        return cls(tensors[:places], tensors[places : 2 * places], tensors[2 * places :])


class BankProjection(nn.Module):
    """What becomes of a bank of the reference UNet in one spatial transformer of the denoising UNet."""

    def __init__(self, layer: SpatialTransformer) -> None:
        """Copy the layers of a plain transformer that are needed for it."""
        super().__init__()
        block: Any = layer.transformer_blocks[0]
        self.to_k, self.to_v = deepcopy(block.attn1.to_k), deepcopy(block.attn1.to_v)
        self.context_value, self.context_out = deepcopy(block.attn2.to_v), deepcopy(block.attn2.to_out[0])

    def forward(self, bank: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A bank [1, m, c] and an image embedding [1, 1, e] → what a `KeyedReference` has of them."""
        return self.context_out(self.context_value(embedding)), self.to_k(bank), self.to_v(bank)


class KeyedTransformer(nn.Module):
    """A spatial transformer of the denoising UNet that is given the keys and values of its reference."""

    def __init__(self, layer: SpatialTransformer, place: int) -> None:
        """Take a plain one, and its place among the UNet's."""
        super().__init__()
        self.layer, self.place = layer, place

    def forward(self, x: Tensor, reference: KeyedReference) -> Tensor:
        """Frames of one portrait [f, c, h, w] → image; see `SpatialTransformer`."""
        block: Any = self.layer.transformer_blocks[0]
        tokens = self.layer.proj_in(to_tokens(self.layer.norm(x)))
        normed, attention = block.norm1(tokens), block.attn1
        query, key, value = attention.to_q(normed), attention.to_k(normed), attention.to_v(normed)
        frames = (len(x), -1, -1)
        key = torch.cat((key, reference.keys[self.place].expand(frames)), dim=1)
        value = torch.cat((value, reference.values[self.place].expand(frames)), dim=1)
        heads = (part.unflatten(-1, (attention.heads, -1)).transpose(1, 2) for part in (query, key, value))
        attended = F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
        tokens = tokens + attention.to_out[0](attended) + reference.context[self.place]
        tokens = tokens + block.ff(block.norm3(tokens))
        return x + to_image(self.layer.proj_out(tokens), like=x)


class SplitGEGLU(nn.Module):
    """`GEGLU` with a product of its own for the gates."""

    def __init__(self, layer: GEGLU) -> None:
        super().__init__()
        self.value, self.gate = (nn.Linear(layer.proj.in_features, layer.proj.out_features // 2) for _ in range(2))
        for half, weight, bias in zip(
            (self.value, self.gate), layer.proj.weight.chunk(2), layer.proj.bias.chunk(2), strict=True
        ):
            half.weight, half.bias = nn.Parameter(weight.detach()), nn.Parameter(bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        gated: Tensor = self.value(x) * F.gelu(self.gate(x))
        return gated


class TransposedUpsample(FusedUpsample):
    """Doubling and convolving as one transposed convolution, for sizes that are always doubled."""

    def forward(self, x: Tensor, size: Any = None) -> Tensor:
        return F.conv_transpose2d(x, self.weight, self.conv.bias, stride=2, padding=1)


class PooledGroupNorm(nn.Module):
    """Group normalisation by means of whole channels, each of which is then scaled and shifted.

    ONNX's own takes an image apart into groups. OpenVINO keeps images with channels last for convolutions, and would
    change that and back for each norm, which takes a quarter of the decoder's time.
    """

    same_group: Tensor

    def __init__(self, norm: nn.GroupNorm) -> None:
        """Take the weights of a plain one."""
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps
        self.group_size = norm.num_channels // norm.num_groups
        groups = torch.arange(norm.num_channels) // self.group_size
        self.register_buffer("same_group", (groups[:, None] == groups).float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        exact = x.float()  # squares may be too large for fp16
        to_group = self.same_group.float() / self.group_size  # ones and zeros, which fp16 does not round
        mean, square = (each.mean((2, 3)) @ to_group for each in (exact, exact * exact))
        scale = self.weight * torch.rsqrt((square - mean * mean).clamp(min=0) + self.eps)
        shift = self.bias - mean * scale
        out: Tensor = exact * scale[..., None, None] + shift[..., None, None]
        return out.to(x.dtype)


def replace_layers(network: nn.Module) -> None:
    """Give the layers of a network their exported form, in place."""
    for name, child in list(network.named_children()):
        if isinstance(child, GEGLU):
            setattr(network, name, SplitGEGLU(child))
        elif isinstance(child, Upsample | DoublingConv):
            setattr(network, name, TransposedUpsample(child))
        elif isinstance(child, MotionBlock):
            for index, attention in enumerate(child.attention_blocks):
                child.attention_blocks[index] = TokenAttention(attention, Operations())
            replace_layers(child)
        else:
            replace_layers(child)


def pool_group_norms(network: nn.Module) -> None:
    """Give the norms of a network of convolutions their exported form, in place."""
    for name, child in list(network.named_children()):
        if isinstance(child, nn.GroupNorm):
            setattr(network, name, PooledGroupNorm(child))
        else:
            pool_group_norms(child)


def key_transformers(unet: Any) -> None:
    """Let a plain denoising UNet take a `KeyedReference` for its reference, in place."""
    for stage in (*unet.down_blocks, unet.mid_block, *unet.up_blocks):
        for index, layer in enumerate(stage.attentions):
            stage.attentions[index] = KeyedTransformer(layer, layer.place)
