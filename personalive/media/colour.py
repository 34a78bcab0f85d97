"""Colours as tagged → sRGB, as an ordinary screen shows them: ICC profiles, wide gamuts and high dynamic range.

Colour spaces are named by the code points of ITU-T H.273, which video streams and HEIF files carry.
"""

import functools
import io

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms, ImageFilter

from personalive.types import RGBArray

Curve = npt.NDArray[np.float64]

PQ, HLG = 16, 18
"""H.273 transfer characteristics of high dynamic range: SMPTE ST 2084, ARIB STD-B67."""
SRGB_TRANSFER = 13
REFERENCE_WHITE = 203.0
"""Nits of diffuse white in high dynamic range (ITU-R BT.2408)."""
HLG_PEAK = 1000.0
"""Nits of the brightest HLG signal on the display that ITU-R BT.2100 takes as nominal, whose system gamma is 1.2."""
WHITE = 0.96
"""The linear light that diffuse white becomes. Highlights share the rest: they are compressed to end at 1."""
LUT_SIZE = 65
"""Points along each axis of a table. Pillow allows no more."""
TO_BT709: dict[int, npt.NDArray[np.float64]] = {
    9: np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]]),
    12: np.array([[1.2249, -0.2247, 0.0], [-0.0420, 1.0419, 0.0], [-0.0197, -0.0786, 1.0979]]),
}
"""Linear RGB with the primaries of BT.2020 (9) and Display P3 (12) → BT.709's (all have the white point D65)."""


def from_icc(image: Image.Image) -> Image.Image:
    """The picture in sRGB if it has a usable ICC profile other than sRGB; otherwise unchanged.

    Args:
        image: any mode that its profile describes, without transparency.
    """
    profile = image.info.get("icc_profile")
    if not profile:
        return image
    try:
        converted = ImageCms.profileToProfile(
            image,
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            outputMode="RGB",
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError):  # damaged, or for another kind of picture: viewers ignore it too
        return image
    return image if converted is None else converted  # None: in place, which was not requested


def apply(table: ImageFilter.Color3DLUT, image: npt.NDArray[np.uint16]) -> RGBArray:
    """A picture of 16 bits a channel [height, width, 3] through a table."""
    rounded = np.minimum((image >> 7) + 1 >> 1, 255).astype(np.uint8)  # truncating would darken by half a level
    return np.asarray(Image.fromarray(rounded).filter(table))


@functools.lru_cache(maxsize=8)
def to_srgb(primaries: int, transfer: int) -> ImageFilter.Color3DLUT | None:
    """The table that turns RGB of these code points into sRGB, as a filter for Pillow.

    Returns:
        None: they are shown unchanged (BT.709, BT.601, sRGB and everything untagged).
    """
    if transfer not in (PQ, HLG) and primaries not in TO_BT709:
        return None
    axis = np.linspace(0.0, 1.0, LUT_SIZE)
    blue, green, red = np.meshgrid(axis, axis, axis, indexing="ij")  # red changes fastest
    signal = np.stack((red, green, blue), axis=-1)
    light = _linear(signal, transfer) @ TO_BT709.get(primaries, np.eye(3)).T
    if transfer in (PQ, HLG):
        light = _roll_off(WHITE * light, WHITE * HLG_PEAK / REFERENCE_WHITE)
    shown = _encoded(np.clip(light, 0.0, 1.0), transfer)
    return ImageFilter.Color3DLUT(LUT_SIZE, shown.astype(np.float32).reshape(-1))


def _linear(signal: Curve, transfer: int) -> Curve:
    """Signal [..., 3] in [0, 1] → light on the display; 1 is diffuse white."""
    if transfer == PQ:
        root = signal ** (1 / 78.84375)
        fraction = np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)
        nits: Curve = 10000.0 * fraction ** (1 / 0.1593017578125)
        return nits / REFERENCE_WHITE
    if transfer == HLG:
        scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - 0.55991073) / 0.17883277) + 0.28466892) / 12)
        # For each channel separately, as in zimg (FFmpeg's zscale); BT.2100 would use the luminance's for all three.
        display: Curve = scene**1.2 * (HLG_PEAK / REFERENCE_WHITE)
        return display
    if transfer == SRGB_TRANSFER:
        return np.where(signal <= 0.04045, signal / 12.92, ((signal + 0.055) / 1.055) ** 2.4)
    power: Curve = signal**2.4  # what displays do (ITU-R BT.1886)
    return power


def _encoded(light: Curve, transfer: int) -> Curve:
    """Light in [0, 1] → signal: the inverse of `_linear` for pictures of standard range."""
    if transfer == SRGB_TRANSFER:
        return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    power: Curve = light ** (1 / 2.4)
    return power


def _roll_off(light: Curve, peak: float) -> Curve:
    """Compress what is brighter than `WHITE`, so that `peak` becomes 1 and colours keep their hue.

    Reinhard's curve with a white point, applied only above it.
    """
    brightest = np.maximum(light.max(axis=-1, keepdims=True), 1e-9)
    room = 1 - WHITE
    top = (peak - WHITE) / room
    above = np.clip((brightest - WHITE) / room, 0.0, top)
    compressed = WHITE + room * above * (1 + above / top**2) / (1 + above)
    result: Curve = light * np.where(brightest > WHITE, compressed / brightest, 1.0)
    return result
