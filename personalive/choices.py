"""Which choices about a model go together, and which a kind of device has: known before PyTorch is imported."""

from collections.abc import Mapping
from typing import Any

from personalive.errors import InputError

PLAIN: Mapping[str, Any] = {"attention": "auto", "quantize": "none", "accumulate": "fp32", "low_memory": False}
"""What only the accelerated networks have a choice of, and what leaves it to them."""
FLOAT8_CAPABILITY = (8, 9)
"""The compute capability from which GPUs multiply fp8: RTX 40, L4, H100 and later."""


def of_accel(choices: Mapping[str, Any]) -> list[str]:
    """Names of the choices that only the accelerated networks have."""
    return [name for name, value in PLAIN.items() if choices[name] != value]


def check_together(accelerate: str, *, onnx: bool, tiny_vae: bool, **choices: Any) -> None:
    """Refuse choices that contradict each other.

    Args:
        accelerate: the acceleration.
        onnx: whether a folder of ONNX files is named.
        tiny_vae: whether a tiny decoder is.
        choices: those of `PLAIN`.

    Raises:
        InputError: as above.
    """
    if onnx and accelerate != "onnx":
        raise InputError(f"onnx names a folder of ONNX files, but accelerate is {accelerate}: choose accelerate onnx")
    if accelerate == "onnx" and (of_accel(choices) or tiny_vae):
        raise InputError(
            "accelerate onnx runs what is in the files: leave out attention, quantize, accumulate, low_memory and "
            "tiny_vae"
        )


def check_device(kind: str, quantize: str, accumulate: str) -> None:
    """Refuse what needs an NVIDIA GPU on another kind of device.

    Raises:
        InputError: as above.
    """
    if quantize == "fp8" and kind != "cuda":
        needed = ".".join(map(str, FLOAT8_CAPABILITY))
        raise InputError(f"quantize fp8 needs an NVIDIA GPU of compute capability {needed} or more, not {kind}")
    if accumulate == "fp16" and kind != "cuda":
        raise InputError(f"accumulate fp16 needs an NVIDIA GPU, not {kind}: leave it out")
