"""Pictures from outside and to them: bounded before they are decoded, then RGB."""

import contextlib
import io
from collections.abc import Generator

import numpy as np
from PIL import Image

from personalive.errors import InputError
from personalive.media.images import FORMATS_TEXT, MAX_PIXELS, decode_images
from personalive.types import RGBArray

MAX_FRAME_PIXELS = 8_500_000
"""Larger frames of the fallback socket are refused (4K has 8.3 million)."""

QUALITY = 85
"""Of JPEG and WebP, out of 100."""


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> RGBArray:
    """An encoded picture as RGB, turned upright, of several the first; see `decode_all`."""
    with contextlib.closing(decode_all(data, max_pixels)) as images:
        return next(images)


def decode_all(data: bytes, max_pixels: int = MAX_PIXELS) -> Generator[RGBArray, None, None]:
    """The pictures of an encoded file as RGB, turned upright; as for files, see `media.images.decode_images`.

    Raises:
        InputError: no picture, a format that is not taken, damaged, too many pixels.
    """
    if not data:
        raise InputError(f"the picture is empty (0 bytes): send the bytes of a {FORMATS_TEXT} file")
    return decode_images(io.BytesIO(data), "the picture", max_pixels=max_pixels)


def resized(image: RGBArray, width: int, height: int) -> RGBArray:
    """A picture at another size."""
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


def encode(image: RGBArray, kind: str = "JPEG") -> bytes:
    """A picture as a JPEG or WebP file."""
    stream = io.BytesIO()
    options = {"method": 0} if kind == "WEBP" else {}
    Image.fromarray(image).save(stream, kind, quality=QUALITY, **options)
    return stream.getvalue()
