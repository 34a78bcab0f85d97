"""Triton kernels for operations on which PyTorch takes far longer than their memory traffic does.

The same functions as in `personalive.accel.ops.reference`. Importing this package needs `triton`; use
`personalive.accel.kernels`, which tries the kernels on the device first.
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
