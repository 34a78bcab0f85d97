"""Names for values that packages pass to each other."""

from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    RGBArray: TypeAlias = npt.NDArray[np.uint8]
else:  # settings need the names below, and the command's help must not wait for NumPy
    RGBArray = Any
"""A picture [height, width, 3], red, green and blue, 0 to 255; or several of one size, [n, height, width, 3]."""
Box: TypeAlias = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels; the last two are outside."""
FractionBox: TypeAlias = tuple[float, float, float, float]
"""The same as fractions of the picture's width and height."""

Crop = Literal["auto", "center", "none"]
"""Around the face; the middle; everything, stretched to the output's shape."""
FaceBoxes = Literal["mesh", "keypoints"]
"""Whether faces are cut out where the face mesh finds them, or where the motion extractor's keypoints are."""
PosePart = Literal["pitch", "yaw", "roll", "translation", "scale"]
POSE_PARTS: tuple[PosePart, ...] = get_args(PosePart)
MotionKind = Literal["absolute", "relative"]
"""The driver's own pose and expression; or the portrait's, changed as the driver's differ from a neutral frame."""
StillKind = Literal["hold", "ease"]
"""Like the picture throughout; or from the portrait's own pose and expression to the picture's."""
VideoCodec = Literal["h264", "h265", "vp9", "av1"]
OutputFormat = Literal["mp4", "webm", "gif", "webp"]
DtypeName = Literal["fp16", "bf16", "fp32"]
AttentionName = Literal["auto", "sdpa", "xformers"]
AcceleratorName = Literal["none", "graphs"]
"""Merged layers, kernel by kernel; or CUDA graphs of them."""
AccelerationName = Literal[AcceleratorName, "onnx"]
"""These, or ONNX files, by a runtime for them."""
QuantizeName = Literal["none", "fp8"]
AccumulateName = Literal["fp32", "fp16"]
"""What sums of products are computed in."""
Background = Literal["as_is", "blur", "colour", "picture", "transparent"]
"""What is seen behind a portrait."""
Latency = Literal["low", "balanced"]
"""Whether a live session is served as soon as possible, or with as few calls as possible."""
