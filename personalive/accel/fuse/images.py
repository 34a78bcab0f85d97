"""Image layers of the UNets and the VAE, with their weights merged."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from personalive.accel.ops.reference import Operations
from personalive.models.blocks import to_image, to_tokens


def constant(module: nn.Module, name: str, value: Tensor, dtype: torch.dtype) -> None:
    """Keep a merged weight as a buffer, so that it follows the module to another device; it is in no file."""
    if value.dim() == 4:
        value = value.contiguous(memory_format=torch.channels_last)
    module.register_buffer(name, value.detach().to(dtype), persistent=False)


class FusedGroupNorm(nn.Module):
    """A GroupNorm, with the SiLU after it if `silu`."""

    def __init__(self, norm: nn.GroupNorm, operations: Operations, *, silu: bool = False) -> None:
        super().__init__()
        self.weight, self.bias, self.groups, self.eps = norm.weight, norm.bias, norm.num_groups, norm.eps
        self.silu = silu
        self.operations = operations

    def forward(self, x: Tensor, shift: Tensor | None = None, sums: Tensor | None = None) -> Tensor:
        """Image [n, c, h, w] or tokens [n, c, l], plus `shift` [n, c] if given → the same, normalised.

        `sums` is what the block that made the image has returned beside it.
        """
        if x.dim() == 3:
            return self.forward(x[..., None], shift)[..., 0]
        return self.operations.group_norm(
            x, self.groups, self.weight, self.bias, self.eps, silu=self.silu, shift=shift, sums=sums
        )


class FusedNormConv(nn.Module):
    """GroupNorm, SiLU and a 3×3 convolution, whose bias is left to whatever follows."""

    def __init__(self, norm: nn.GroupNorm, conv: nn.Conv2d, operations: Operations) -> None:
        super().__init__()
        self.norm, self.weight = FusedGroupNorm(norm, operations, silu=True), conv.weight
        self.operations = operations

    def forward(self, x: Tensor, shift: Tensor | None = None, sums: Tensor | None = None) -> Tensor:
        """Image [n, in, h, w], plus `shift` [n, in] if given → [n, out, h, w]; `sums` as in `FusedGroupNorm`."""
        return self.operations.conv3x3(self.norm(x, shift, sums), self.weight)

    def add_to(
        self, other: Callable[[], Tensor], bias: Tensor, x: Tensor, shift: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """This layer's result plus an image [n, out, h, w], asked for late, as both take memory, plus `bias` [out].

        Beside it, sums for a `FusedGroupNorm` of it, if they are known.
        """
        return self.operations.add_bias_sums(self(x, shift), other(), bias)


class FusedResnetBlock(nn.Module):
    """A resnet block whose biases join the time embedding and the final sum.

    `block` may also be the autoencoder's, without a time embedding.
    """

    bias: Tensor

    def __init__(self, block: Any, operations: Operations) -> None:
        super().__init__()
        self.operations = operations
        self.first: Any = FusedNormConv(block.norm1, block.conv1, operations)
        self.second: Any = FusedNormConv(block.norm2, block.conv2, operations)
        self.first_bias, self.time_emb_proj = block.conv1.bias, block.time_emb_proj
        self.conv_shortcut = block.conv_shortcut
        bias = block.conv2.bias.float()
        if block.conv_shortcut is not None:
            bias = bias + block.conv_shortcut.bias.float()
        constant(self, "bias", bias, block.conv2.weight.dtype)
        self.in_channels = block.conv1.in_channels
        self.entering: Tensor | None = None

    def absorb(self, bias: Tensor) -> None:
        """Add a bias [i], which the layer before has left out, to the first channels of the input."""
        entering = F.pad(bias.detach().float(), (0, self.in_channels - bias.numel()))
        shortcut = entering if self.conv_shortcut is None else self.conv_shortcut.weight[:, :, 0, 0].float() @ entering
        constant(self, "bias", self.bias.float() + shortcut, self.bias.dtype)
        del self.entering
        constant(self, "entering", entering[None], self.bias.dtype)

    def embed_time(self, embedding: Tensor) -> Tensor:
        """Time embedding [f, time channels] → what this block adds per frame, the first bias included."""
        projected: Tensor = self.time_emb_proj(F.silu(embedding)).float() + self.first_bias.float()
        return projected.to(embedding.dtype)

    def forward(
        self, x: Tensor, time: Tensor | None = None, sums: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Image [n, in, h, w] and `embed_time`'s result [n, out], if any → image [n, out, h, w].

        `sums` is what another block has returned beside the image; this one returns those of its own.
        """
        shift = self.first_bias[None] if time is None else time
        out: tuple[Tensor, Tensor | None] = self.second.add_to(
            lambda: self._shortcut(x), self.bias, self.first(x, self.entering, sums), shift
        )
        return out

    def _shortcut(self, x: Tensor) -> Tensor:
        if self.conv_shortcut is None:
            return x
        return to_image(self.operations.linear(to_tokens(x), self.conv_shortcut.weight[:, :, 0, 0]), like=x)


class FusedUpsample(nn.Module):
    """Doubling and convolving as one transposed convolution; other sizes in two steps."""

    weight: Tensor

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.conv = layer.conv
        constant(self, "weight", doubling_weight(layer.conv.weight), layer.conv.weight.dtype)

    def give_bias(self, block: FusedResnetBlock) -> None:
        """Leave the bias to the next block: adding it here costs a GPU a separate pass over memory."""
        block.absorb(self.conv.bias)
        self.conv.bias = None

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        if tuple(size) != (2 * x.shape[2], 2 * x.shape[3]):
            out: Tensor = self.conv(F.interpolate(x, size=tuple(size), mode="nearest"))
            return out
        return F.conv_transpose2d(x, self.weight, self.conv.bias, stride=2, padding=1)


def doubling_weight(weight: Tensor) -> Tensor:
    """3×3 kernel [out, in, 3, 3] after nearest-neighbour doubling → transposed kernel [in, out, 4, 4] of stride 2.

    A pixel covers two pixels of the doubled image, so tap t contributes to taps 2 - t and 3 - t.
    """
    spread = torch.tensor([[0.0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]], device=weight.device)
    return torch.einsum("oiyx,ty,ux->iotu", weight.float(), spread, spread)


def fold_upsample_biases(layers: Sequence[nn.Module]) -> None:
    """Let every `FusedUpsample` leave its bias to the `FusedResnetBlock` after it, in place."""
    for layer, following in itertools.pairwise(layers):
        if isinstance(layer, FusedUpsample) and isinstance(following, FusedResnetBlock):
            layer.give_bias(following)


def fuse_group_norms(network: nn.Module, operations: Operations) -> None:
    """Replace every GroupNorm of a network by a `FusedGroupNorm`, in place."""
    for name, child in list(network.named_children()):
        if isinstance(child, nn.GroupNorm):
            setattr(network, name, FusedGroupNorm(child, operations))
        else:
            fuse_group_norms(child, operations)
