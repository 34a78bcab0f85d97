"""Operations for CPUs, by oneDNN's kernels where PyTorch's own choice is slower.

PyTorch multiplies fp32 matrices with another library, which reaches half of oneDNN's speed for narrow matrices, and
writes the bias in a separate pass. Wide layers are computed in blocks of rows that stay in the cache: getting a new
array of many megabytes from the system costs more than filling it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from personalive.accel.ops import reference as operations
from personalive.models.blocks import to_image, to_tokens

ROWS = 2048
"""Rows of a feed-forward that are computed at once."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear`: [..., i], [o, i] and [o] → [..., o]."""
    return _product(x, weight, bias, "none")


def _product(x: Tensor, weight: Tensor, bias: Tensor | None, then: str) -> Tensor:
    """A linear layer, then "none" or "gelu"."""
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, then, [], "none")
    return out


def group_norm(
    x: Tensor,
    groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    *,
    silu: bool = False,
    shift: Tensor | None = None,
    sums: Tensor | None = None,
) -> Tensor:
    """See `operations.group_norm`; the image is channels-last. It has no use for `sums`.

    PyTorch's kernel for this layout adds up one pixel after another in fp32, which costs one to two digits. Here sums
    are pairwise, and the squares are of differences from the channel's mean.
    """
    if x.dtype != torch.float32:  # then the image itself is rounded far more than these sums
        out = F.group_norm(x if shift is None else x + shift[:, :, None, None], groups, weight, bias, eps)
        return F.silu(out, inplace=True) if silu else out
    tokens = to_tokens(x)
    mean = tokens.mean(dim=1, keepdim=True)
    variance = (tokens - mean).square_().mean(dim=1).unflatten(1, (groups, -1))
    mean = mean if shift is None else mean + shift[:, None]
    channel_mean = mean.flatten(1).unflatten(1, (groups, -1))  # [n, groups, channels of a group]
    group_mean = channel_mean.mean(dim=2, keepdim=True)
    variance = (variance + (channel_mean - group_mean).square_()).mean(dim=2, keepdim=True)
    scale = (variance + eps).rsqrt_() * weight.unflatten(0, (groups, -1))
    addend = bias.unflatten(0, (groups, -1)) - group_mean * scale
    if shift is not None:
        addend = addend + shift.unflatten(1, (groups, -1)) * scale
    out = torch.addcmul(addend.flatten(1)[:, None], tokens, scale.flatten(1)[:, None])
    return to_image(F.silu(out, inplace=True) if silu else out, like=x)


def geglu(x: Tensor) -> Tensor:
    """See `operations.geglu`."""
    value, gate = x.chunk(2, dim=-1)
    return F.gelu(gate).mul_(value)


def grn_mlp(
    x: Tensor, fc1: Tensor, fc1_bias: Tensor, gamma: Tensor, fc2: Tensor, fc2_bias: Tensor, other: Tensor
) -> Tensor:
    """See `operations.grn_mlp`."""
    hidden = _product(x, fc1, fc1_bias, "gelu")
    return linear(hidden.mul_(operations.grn_scale(hidden, gamma)), fc2, fc2_bias).add_(other)


def add_bias_sums(x: Tensor, branch: Tensor, bias: Tensor) -> tuple[Tensor, None]:
    """See `operations.add_bias_sums`."""
    return (x + branch).add_(bias[:, None, None]), None


def frame_attention(qkv: Tensor, heads: int, frames: int) -> Tensor:
    """See `operations.frame_attention`; PyTorch's kernel takes four axes, and contiguous pixels."""
    n, length, width = qkv.shape
    pixels = qkv.view(-1, frames, length, width).transpose(1, 2).reshape(-1, frames, 3, heads, width // (3 * heads))
    out = F.scaled_dot_product_attention(*pixels.permute(2, 0, 3, 1, 4))
    out = out.transpose(1, 2).reshape(-1, length, frames, width // 3)
    return out.transpose(1, 2).reshape(n, length, width // 3)


def feed_forward(tokens: Tensor, normed: Tensor, fc1: nn.Linear, fc2: nn.Linear) -> None:
    """Add a feed-forward of `normed` [r, c] to `tokens` [r, c], without the last bias; `fc1` has values, then gates.

    Writes to `tokens`.
    """
    (value_weight, gate_weight), (value_bias, gate_bias) = fc1.weight.chunk(2), fc1.bias.chunk(2)
    for part, total in zip(normed.split(ROWS), tokens.split(ROWS), strict=True):
        gated = _product(part, gate_weight, gate_bias, "gelu").mul_(linear(part, value_weight, value_bias))
        total.add_(linear(gated, fc2.weight))


OPERATIONS = operations.Operations(
    linear=linear,
    group_norm=group_norm,
    geglu=geglu,
    grn_mlp=grn_mlp,
    add_bias_sums=add_bias_sums,
    frame_attention=frame_attention,
)
"""The operations by these functions, or PyTorch's where there is nothing faster."""


def multiplies_bf16() -> bool:
    """Whether this processor has bf16 instructions that do two products in the time of one in fp32."""
    asked = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # not every version of PyTorch can say
    return asked is not None and bool(asked())


def works(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether this processor and this PyTorch have what the functions need."""
    if device.type != "cpu" or dtype is not torch.float32:
        return False
    draw = torch.Generator(device).manual_seed(0)
    x, weight, bias = (torch.randn(shape, generator=draw) for shape in ((3, 48), (32, 48), (32,)))
    try:
        actual = _product(x, weight, bias, "gelu")
    except (RuntimeError, AttributeError):  # built without oneDNN, or the function has another signature
        return False
    return torch.allclose(actual, F.gelu(F.linear(x, weight, bias)), atol=1e-4)
