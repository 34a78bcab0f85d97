"""Pictures from outside and to them: bounded before they are decoded, then RGB."""

import contextlib
import io
from collections.abc import Generator

import numpy as np
from PIL import Image

from personalive.errors import InputError
from personalive.media.crop import crop_box, cut
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


def filled(image: RGBArray, width: int, height: int) -> RGBArray:
    """The middle of a picture, as much of it as fills a rectangle."""
    part = crop_box((image.shape[1], image.shape[0]), (width, height), "center", None)
    return resized(cut(image, part), width, height)


def opaque(image: RGBArray) -> RGBArray:
    """A picture, uint8 [h,w,3], or with opacity [h,w,4], as it is in front of black: uint8 [h,w,3]."""
    if image.shape[2] == 3:
        return image
    return (image[..., :3] * (image[..., 3:] / np.float32(255)) + 0.5).astype(np.uint8)


def stacked(image: RGBArray) -> RGBArray:
    """A picture with opacity, uint8 [h,w,4], for videos, which have none: [2h,w,3], its opacity in grey beneath it."""
    return np.concatenate([image[..., :3], np.repeat(image[..., 3:], 3, axis=2)])


def encode(image: RGBArray, kind: str = "JPEG") -> bytes:
    """A picture, uint8 [h,w,3], or with opacity [h,w,4], as a JPEG, WebP or PNG file; JPEG has no opacity."""
    stream = io.BytesIO()
    options = {"method": 0} if kind == "WEBP" else {}
    Image.fromarray(opaque(image) if kind == "JPEG" else image).save(stream, kind, quality=QUALITY, **options)
    return stream.getvalue()
