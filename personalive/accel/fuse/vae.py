"""The VAE's decoder with its weights merged, for inference only: the same results up to rounding."""

from typing import Any

import torch
from torch import Tensor, nn

from personalive.accel.fuse.images import FusedGroupNorm, FusedResnetBlock, FusedUpsample, constant
from personalive.accel.ops.reference import Operations
from personalive.models.blocks import to_image, to_tokens


class FusedImageAttention(nn.Module):
    """Attention with one head among the pixels of an image."""

    qkv: Tensor
    qkv_bias: Tensor

    def __init__(self, layer: Any, operations: Operations) -> None:
        super().__init__()
        self.operations, self.to_out = operations, layer.to_out[0]
        self.norm = FusedGroupNorm(layer.group_norm, operations)
        parts = (layer.to_q, layer.to_k, layer.to_v)
        constant(self, "qkv", torch.cat([part.weight for part in parts]), layer.to_q.weight.dtype)
        constant(self, "qkv_bias", torch.cat([part.bias for part in parts]), layer.to_q.weight.dtype)

    def forward(self, x: Tensor, sums: Tensor | None) -> Tensor:
        """Image [n, c, h, w] and what the block before has returned beside it → image."""
        qkv = self.operations.linear(to_tokens(self.norm(x, sums=sums)), self.qkv, self.qkv_bias)
        query, key, value = (part[:, None] for part in qkv.chunk(3, dim=-1))
        return x + to_image(self.to_out(self.operations.attention(query, key, value)[:, 0]), like=x)


class FusedDecoder(nn.Module):
    """Latents → image, with the layers of a `VAE`."""

    def __init__(self, vae: Any, operations: Operations) -> None:
        super().__init__()
        decoder = vae.decoder
        self.post_quant_conv, self.conv_in = vae.post_quant_conv, decoder.conv_in
        first, second = decoder.mid_block.resnets
        layers: list[nn.Module] = [
            FusedResnetBlock(first, operations),
            FusedImageAttention(decoder.mid_block.attentions[0], operations),
            FusedResnetBlock(second, operations),
        ]
        for block in decoder.up_blocks:
            layers += [FusedResnetBlock(resnet, operations) for resnet in block.resnets]
            layers += [_Doubling(layer) for layer in block.upsamplers or ()]
        self.layers = nn.ModuleList(layers)
        self.conv_norm_out = FusedGroupNorm(decoder.conv_norm_out, operations, silu=True)
        self.conv_out = decoder.conv_out

    def forward(self, latents: Tensor) -> Tensor:
        """Latents [n, 4, h, w], already divided by the scaling factor → image [n, 3, 8h, 8w], nominally in [-1, 1]."""
        latents = latents.to(self.conv_in.weight.dtype, memory_format=torch.channels_last)
        x = self.conv_in(self.post_quant_conv(latents))
        sums: Tensor | None = None  # for the next norm, if the layer before was a block
        for layer in self.layers:
            if isinstance(layer, FusedResnetBlock):
                x, sums = layer(x, sums=sums)
            else:
                x, sums = layer(x, sums), None
        out: Tensor = self.conv_out(self.conv_norm_out(x, sums=sums))
        return out


class _Doubling(FusedUpsample):
    """An upsampler that always doubles, and needs no sums."""

    def forward(self, x: Tensor, sums: Tensor | None) -> Tensor:  # type: ignore[override]
        return super().forward(x, (2 * x.shape[2], 2 * x.shape[3]))
