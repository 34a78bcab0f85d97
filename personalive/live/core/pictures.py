"""Pictures from outside: bounded before they are decoded, then RGB; and the crop that the model sees."""

import io

import numpy as np
from PIL import Image

from personalive.errors import InputError
from personalive.media.images import FORMATS_TEXT, MAX_PIXELS, decode_image
from personalive.types import RGBArray

MAX_FRAME_PIXELS = 8_500_000
"""Larger frames of the fallback socket are refused (4K has 8.3 million)."""


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> RGBArray:
    """An encoded picture as RGB, turned upright; as for files, see `media.images.decode_image`.

    Raises:
        InputError: no picture, a format that is not taken, damaged, too many pixels.
    """
    if not data:
        raise InputError(f"the picture is empty (0 bytes): send the bytes of a {FORMATS_TEXT} file")
    return decode_image(io.BytesIO(data), "the picture", max_pixels=max_pixels)


def crop_window(
    size: tuple[int, int], aspect: float, centre: tuple[float, float] | None = None
) -> tuple[int, int, int, int]:
    """The largest window of an aspect ratio in a picture, as near to `centre` as fits.

    Args:
        size: width and height of the picture.
        aspect: width over height of the window.
        centre: x and y in pixels; None takes the middle.

    Returns:
        left, top, right, bottom (end exclusive).
    """
    width, height = size
    wide = max(1, min(width, round(height * aspect)))
    high = max(1, min(height, round(width / aspect)))
    x, y = centre or (width / 2, height / 2)
    left = min(max(round(x - wide / 2), 0), width - wide)
    top = min(max(round(y - high / 2), 0), height - high)
    return left, top, left + wide, top + high


def crop(image: RGBArray, window: tuple[int, int, int, int], mirror: bool = False) -> RGBArray:
    """The part of a picture inside a window, flipped left to right for `mirror`."""
    left, top, right, bottom = window
    part = image[top:bottom, left:right]
    return np.ascontiguousarray(part[:, ::-1] if mirror else part)


def encode(image: RGBArray, kind: str = "JPEG", quality: int = 85) -> bytes:
    """A picture as a JPEG or WebP file."""
    stream = io.BytesIO()
    options = {"method": 0} if kind == "WEBP" else {}
    Image.fromarray(image).save(stream, kind, quality=quality, **options)
    return stream.getvalue()
