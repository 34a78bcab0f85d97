"""Still pictures from files: checked by their header, turned upright, and given as RGB."""

from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from personalive.errors import InputError
from personalive.types import RGBArray

IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
MAX_PIXELS = 80_000_000
"""Largest picture or video frame that is decoded (8K has 33 million pixels)."""
MAX_SIDE = 2048
"""Longest side, in pixels, of a picture after reading: larger ones are scaled down to it."""
MIN_SIDE = 16
"""Shortest side, in pixels, that is worth a search for a face."""


def require_file(path: Path, what: str) -> None:
    """Check that `path` is a file with something in it; `what` names it in the message.

    Raises:
        InputError: it does not exist, is a folder or something else that is no file, is empty or can not be read.
    """
    try:
        if not path.exists():
            raise InputError(f"{what} {path} does not exist")
        if not path.is_file():
            raise InputError(f"{what} {path} is not a file")
        with path.open("rb") as file:
            if not file.read(1):
                raise InputError(f"{what} {path} is empty (0 bytes)")
    except (OSError, ValueError) as error:
        raise InputError(f"{what} {str(path)!r} can not be read: {error}") from error


def check_size(width: int, height: int, name: str) -> None:
    """Refuse sizes that are not worth decoding, or that would fill the memory.

    Raises:
        InputError: a side is too short, or the picture has too many pixels.
    """
    if min(width, height) < MIN_SIDE:
        raise InputError(f"{name} has {width}x{height} pixels; each side needs {MIN_SIDE} or more")
    if width * height > MAX_PIXELS:
        raise InputError(
            f"{name} has {width}x{height} pixels, more than the {MAX_PIXELS // 1_000_000} million that are allowed; "
            "scale it down first"
        )


def fit_side(width: int, height: int) -> tuple[int, int]:
    """The size to which a picture of this size is scaled: the same shape, no side longer than `MAX_SIDE`."""
    scale = min(1.0, MAX_SIDE / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def is_image(path: Path) -> bool:
    """Whether the file starts like a picture of a known format (nothing is decoded)."""
    try:
        with Image.open(path, formats=IMAGE_FORMATS):
            return True
    except UnidentifiedImageError:
        return False
    except Image.DecompressionBombError:
        return True
    except Exception:  # a damaged header makes Pillow raise nearly anything
        return False


def read_image(path: Path) -> RGBArray:
    """Read a picture from a file; see `decode_image`.

    Raises:
        InputError: no such file, no picture, damaged, too small, or too large to decode safely.
    """
    require_file(path, "the image")
    with path.open("rb") as file:
        return decode_image(file, f"the image {path}")


def decode_image(file: BinaryIO, name: str) -> RGBArray:
    """Read one picture: JPEG, PNG, WebP, GIF or BMP (of an animation, the first frame); `name` is for messages.

    The orientation stored by a camera is applied, transparent parts become white, palettes and greys become RGB, and
    a picture with a side longer than `MAX_SIDE` is scaled down.

    Returns:
        uint8 [height, width, 3].

    Raises:
        InputError: no picture, damaged, too small, or too large to decode safely.
    """
    try:
        with Image.open(file, formats=IMAGE_FORMATS) as image:
            check_size(image.width, image.height, name)
            image.draft(image.mode, (MAX_SIDE, MAX_SIDE))  # JPEG decodes at a fraction of its size
            upright = _to_rgb(ImageOps.exif_transpose(image))
    except InputError:
        raise
    except UnidentifiedImageError as error:
        raise InputError(f"{name} is not a picture that can be read (JPEG, PNG or WebP)") from error
    except Image.DecompressionBombError as error:
        raise InputError(f"{name} has far too many pixels ({error}); scale it down first") from error
    except Exception as error:  # a damaged file makes Pillow's decoders raise nearly anything
        raise InputError(f"{name} is damaged: {error}") from error
    size = fit_side(*upright.size)
    if size != upright.size:
        upright = upright.resize(size, Image.Resampling.LANCZOS)
    return np.asarray(upright)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey: Pillow would clip it at 255
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")
