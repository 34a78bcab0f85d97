"""Triton kernels for what PyTorch runs far over the time that its bytes need.

The same functions as in `personalive.accel.ops.reference`. Importing this package needs `triton`; those who want the
kernels ask `personalive.accel.kernels`, which tries them on the device first.
"""

from personalive.accel.ops.triton.attention import frame_attention, token_attention
from personalive.accel.ops.triton.grn import grn_mlp
from personalive.accel.ops.triton.norms import add_layer_norm, group_norm, layer_norm
from personalive.accel.ops.triton.pointwise import (
    add_bias,
    add_scaled_,
    append_bank,
    geglu,
    geglu_float8,
    scale_relu,
)

__all__ = [
    "add_bias",
    "add_layer_norm",
    "add_scaled_",
    "append_bank",
    "frame_attention",
    "geglu",
    "geglu_float8",
    "grn_mlp",
    "group_norm",
    "layer_norm",
    "scale_relu",
    "token_attention",
]
