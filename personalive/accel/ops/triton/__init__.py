"""Triton kernels for operations on which PyTorch takes far longer than their memory traffic does.

The same functions as in `personalive.accel.ops.reference`. Importing this package needs `triton`; use
`personalive.accel.kernels`, which tries the kernels on the device first.
"""

from personalive.accel.ops.triton.attention import frame_attention, token_attention
from personalive.accel.ops.triton.convolution import conv_float8
from personalive.accel.ops.triton.float8 import gated_linear_float8, linear_float8, linears_add_float8
from personalive.accel.ops.triton.grn import grn_mlp
from personalive.accel.ops.triton.norms import add_bias_sums, add_layer_norm, group_norm, group_norm_float8, layer_norm
from personalive.accel.ops.triton.pointwise import geglu, scale_relu

__all__ = [
    "add_bias_sums",
    "add_layer_norm",
    "conv_float8",
    "frame_attention",
    "gated_linear_float8",
    "geglu",
    "grn_mlp",
    "group_norm",
    "group_norm_float8",
    "layer_norm",
    "linear_float8",
    "linears_add_float8",
    "scale_relu",
    "token_attention",
]
