"""Linear layers that are left as they are, by another implementation."""

from typing import Any

import torch
from torch import Tensor, nn

from personalive.accel.ops.reference import Linear
from personalive.models.blocks import PointwiseConv


class LinearBy(nn.Linear):
    """A linear layer, or a 1×1 convolution of tokens, by a function of tokens, weight and bias."""

    def __init__(self, layer: nn.Linear | PointwiseConv, function: Linear) -> None:
        with torch.device("meta"):  # the weights are the layer's
            super().__init__(layer.weight.shape[1], layer.weight.shape[0], bias=layer.bias is not None)
        self.weight = nn.Parameter(layer.weight.flatten(1), requires_grad=False)
        self.bias: Any = layer.bias
        self._function = function

    def forward(self, x: Tensor) -> Tensor:
        return self._function(x, self.weight, self.bias)


def replace_linears(network: nn.Module, function: Linear) -> None:
    """Have every linear layer of `network` computed by `function`, in place."""
    for name, child in list(network.named_children()):
        if isinstance(child, nn.Linear | PointwiseConv):
            setattr(network, name, LinearBy(child, function))
        else:
            replace_linears(child, function)
