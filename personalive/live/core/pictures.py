"""Pictures from outside: bounded before they are decoded, then RGB; and the crop that the model sees."""

import io
import warnings

import numpy as np
from PIL import Image, ImageOps

from personalive.errors import InputError
from personalive.types import RGBArray

MAX_PIXELS = 50_000_000
"""Larger portraits are refused: 50 megapixels take 150 MB once decoded."""
MAX_FRAME_PIXELS = 8_500_000
"""Larger frames of the fallback socket are refused (4K has 8.3 million)."""
KEPT_SIDE = 2048
"""Longest side of a portrait that is kept, in pixels: twice the largest picture that the model makes."""
FORMATS = ("JPEG", "PNG", "WEBP")


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> RGBArray:
    """An encoded picture as RGB, turned upright.

    Args:
        data: a JPEG, PNG or WebP file.
        max_pixels: the most that are decoded.

    Returns:
        uint8 [h,w,3]; transparent parts are white.

    Raises:
        InputError: no picture, a format that is not taken, damaged, too many pixels.
    """
    if not data:
        raise InputError("the picture is empty (0 bytes): send the bytes of a JPEG, PNG or WebP file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the bound below is lower
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > max_pixels:
            raise InputError(
                f"the picture has {image.width}×{image.height} pixels, "
                f"more than {max_pixels / 1e6:g} million: send a smaller one"
            )
        image.load()
    except InputError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever a damaged file makes them stumble over
        raise InputError(f"these {len(data)} bytes cannot be read as JPEG, PNG or WebP: {error}") from error
    return np.asarray(_on_white(ImageOps.exif_transpose(image)))


def shrink(image: RGBArray, side: int = KEPT_SIDE) -> RGBArray:
    """The picture with at most `side` pixels on its longer side."""
    height, width = image.shape[:2]
    if max(height, width) <= side:
        return image
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


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


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")
