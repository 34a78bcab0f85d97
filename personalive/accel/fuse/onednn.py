"""Merged layers for CPUs, by oneDNN's kernels."""

from torch import Tensor, nn

from personalive.accel.fuse.linears import replace_linears
from personalive.accel.fuse.transformers import FusedFFNProjOut
from personalive.accel.ops import onednn
from personalive.models.blocks import to_image


class FastFFNProjOut(nn.Module):
    """See `FusedFFNProjOut`."""

    weight: Tensor
    bias: Tensor

    def __init__(self, end: FusedFFNProjOut) -> None:
        super().__init__()
        self.fc1, self.fc2 = end.fc1, end.fc2
        self.register_buffer("weight", end.proj_out.weight.detach().flatten(1).contiguous(), persistent=False)
        self.register_buffer("bias", end.bias, persistent=False)

    def forward(self, x: Tensor, tokens: Tensor, normed: Tensor) -> Tensor:
        """Image [n, c, h, w] that entered, its tokens [n, h·w, c] (overwritten), and those normalised → image."""
        onednn.feed_forward(tokens.flatten(0, 1), normed.flatten(0, 1), self.fc1, self.fc2)
        return to_image(onednn.linear(tokens, self.weight, self.bias), like=x).add_(x)


def replace_layers(network: nn.Module) -> None:
    """Replace those merged layers of `network` that have a faster form here, in place."""
    _replace_ends(network)
    replace_linears(network, onednn.linear)


def _replace_ends(network: nn.Module) -> None:
    for name, child in list(network.named_children()):
        if isinstance(child, FusedFFNProjOut):
            setattr(network, name, FastFFNProjOut(child))
        else:
            _replace_ends(child)
