"""Still pictures from files: checked by their header, turned upright, and converted to sRGB.

Pillow reads; pi-heif reads HEIC, which phones write.
"""

import contextlib
import logging
import re
import warnings
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from personalive.errors import InputError, first_line
from personalive.media import colour
from personalive.types import RGBArray

logger = logging.getLogger(__name__)

IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "TIFF", "JPEG2000", "GIF", "BMP")
"""Pillow's names."""
SIGNATURES = {
    "JPEG": re.compile(rb"\xff\xd8\xff"),
    "PNG": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "WebP": re.compile(rb"RIFF.{4}WEBP", re.DOTALL),
    "HEIC": re.compile(rb".{4}ftyp.{0,48}(?:heic|heix|heim|heis|hevc)", re.DOTALL),
    "AVIF": re.compile(rb".{4}ftyp.{0,48}avi[fs]", re.DOTALL),
    "TIFF": re.compile(rb"II[*+]\0|MM\0[*+]"),
    "JPEG 2000": re.compile(rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"),
    "BMP": re.compile(rb"BM.{4}\0{4}", re.DOTALL),
    "GIF": re.compile(rb"GIF8[79]a"),
}
"""How files begin, by the format's name for people."""
FORMATS_TEXT = "JPEG, PNG, WebP, HEIC, AVIF, TIFF, JPEG 2000, BMP or GIF"
"""The same and HEIC, in words."""
MAX_PIXELS = 80_000_000
"""The most pixels of a picture or video frame that is decoded (8K has 33 million)."""
MAX_SIDE = 2048
"""Longest side, in pixels, of a picture after reading: larger ones are scaled down to it."""
LARGE_SIDE = 8192
"""The same where a small part of the picture will be used."""
ANIMATED = ("GIF", "WEBP", "PNG", "AVIF", "TIFF")
"""Formats, by Pillow's names, whose further pictures are as good as the first. JPEG's are previews and maps of depth or
brightness."""
SUBFILE, DNG_VERSION = 254, 50706
"""TIFF's tags: what a picture is in its file (1: a preview); present in Adobe's raw files."""
MOST_PICTURES = 1000
"""The most pictures of one file that are looked at."""
MIN_SIDE = 16
"""Shortest side, in pixels, in which a face is worth searching for."""


def media_types() -> dict[str, str]:
    """Media types of pictures that can be read, by suffix."""
    types = {
        suffix: Image.MIME[kind] for suffix, kind in Image.registered_extensions().items() if kind in IMAGE_FORMATS
    }
    return types | dict.fromkeys((".heic", ".heif"), "image/heic")


def require_file(path: Path, what: str) -> None:
    """Check that `path` is a file with something in it; `what` names it in the message.

    Raises:
        InputError: it does not exist, is a folder or something else that is not a file, is empty or cannot be read.
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
        raise InputError(f"{what} {str(path)!r} cannot be read: {error}") from error


def check_size(width: int, height: int, name: str, max_pixels: int = MAX_PIXELS) -> None:
    """Refuse sizes that are not worth decoding, or that would fill the memory.

    Raises:
        InputError: a side is too short, or the picture has too many pixels.
    """
    if min(width, height) < MIN_SIDE:
        raise InputError(f"{name} has {width}x{height} pixels; each side needs {MIN_SIDE} or more")
    if width * height > max_pixels:
        raise InputError(
            f"{name} has {width}x{height} pixels, more than the {max_pixels / 1e6:g} million that are allowed; "
            "scale it down first"
        )


def fit_side(width: int, height: int, side: int = MAX_SIDE) -> tuple[int, int]:
    """The size to which a picture of this size is scaled: the same shape, no side longer than `side`."""
    scale = min(1.0, side / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def is_image(path: Path) -> bool:
    """Whether the file starts like a picture of a known format (nothing is decoded)."""
    with path.open("rb") as file:
        return _kind(file) is not None


def is_gif(path: Path) -> bool:
    """Whether the file starts like a GIF, which may be a picture or a video."""
    with path.open("rb") as file:
        return file.read(6) in (b"GIF87a", b"GIF89a")


def is_animated(path: Path) -> bool:
    """Whether a picture's file holds several, to be shown one after the other; so does a damaged GIF."""
    with path.open("rb") as file, warnings.catch_warnings(action="ignore"):
        try:
            image = _open(file)
            return image.format in ("GIF", "WEBP", "PNG", "AVIF") and getattr(image, "n_frames", 1) > 1
        except Exception:  # a damaged file makes decoders raise nearly anything
            return _kind(file) == "GIF"


def resize(image: RGBArray, width: int, height: int) -> RGBArray:
    """A picture at another size, uint8 [height, width, 3]; itself if it has that size."""
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


def fitted(image: RGBArray, side: int = MAX_SIDE) -> RGBArray:
    """A picture scaled down so that no side is longer than `side`; itself if it fits."""
    return resize(image, *fit_side(image.shape[1], image.shape[0], side))


def read_image(path: Path) -> RGBArray:
    """Read a picture from a file; see `decode_images`. Of several in one file, the first.

    Raises:
        InputError: there is no such file, or it is not a picture, damaged, too small, or too large to decode safely.
    """
    with contextlib.closing(read_images(path)) as images:
        return next(images)


def read_images(path: Path, side: int = MAX_SIDE) -> Generator[RGBArray, None, None]:
    """Read the pictures of a file; arguments and errors as for `decode_images`, and if there is no such file."""
    require_file(path, "the image")
    with path.open("rb") as file:
        yield from decode_images(file, f"the image {path}", side=side)


def decode_image(file: BinaryIO, name: str, *, max_pixels: int = MAX_PIXELS) -> RGBArray:
    """Read one picture in one of `FORMATS_TEXT`, of several in one file the first; see `decode_images`."""
    with contextlib.closing(decode_images(file, name, max_pixels=max_pixels)) as images:
        return next(images)


def decode_images(
    file: BinaryIO, name: str, *, max_pixels: int = MAX_PIXELS, side: int = MAX_SIDE
) -> Generator[RGBArray, None, None]:
    """Read the pictures in one of `FORMATS_TEXT`: one, or the frames of an animation, or the pages of a TIFF.

    The orientation stored by a camera is applied, an ICC profile or HDR tags are converted to sRGB, transparent parts
    become white, palettes and greys become RGB, and a picture with a longer side than `side` is scaled down.

    Args:
        file: opened for reading bytes, seekable.
        name: for messages.
        max_pixels: larger pictures are not decoded.
        side: the longest side, in pixels.

    Yields:
        uint8 [height, width, 3]: at least one. Damaged ones after the first end it.

    Raises:
        InputError: it is not a picture, damaged, too small, or too large to decode safely.
    """
    with _refusing_damage(file, name):
        image = _open(file)
        _refuse_raw(image, name)
        check_size(image.width, image.height, name, max_pixels)
        image.draft(image.mode, (side, side))  # JPEG decodes at a fraction of its size
        first = _shown(image, name, side)
    with image:
        yield first
        try:
            for index in range(1, _count(image, file, name)):
                with _refusing_damage(file, name):
                    image.seek(index)
                    check_size(image.width, image.height, name, max_pixels)
                    shown = _shown(image, name, side)
                yield shown
        except InputError as error:
            logger.warning("%s: only the pictures before the damage are looked at", error)


def _count(image: Image.Image, file: BinaryIO, name: str) -> int:
    """How many pictures of an open file are looked at."""
    with _refusing_damage(file, name):
        return min(getattr(image, "n_frames", 1), MOST_PICTURES) if image.format in ANIMATED else 1


@contextlib.contextmanager
def _refusing_damage(file: BinaryIO, name: str) -> Iterator[None]:
    """Decoders' errors in our words."""
    try:
        with warnings.catch_warnings(action="ignore"):  # Pillow's, of what is said here better
            yield
    except InputError:
        raise
    except UnidentifiedImageError as error:
        kind = _kind(file)
        if kind is not None:
            raise InputError(f"{name} starts like a {kind} file, but is cut off or damaged") from error
        raise InputError(f"{name} is not a picture that can be read ({FORMATS_TEXT})") from error
    except Image.DecompressionBombError as error:
        raise InputError(f"{name} has far too many pixels ({error}); scale it down first") from error
    except Exception as error:  # a damaged file makes decoders raise nearly anything
        raise InputError(f"{name} is damaged: {first_line(error)}") from error


def _shown(image: Image.Image, name: str, side: int) -> RGBArray:
    """The picture on which an open file is, decoded."""
    image.load()
    return fitted(np.asarray(_to_rgb(_upright(image, name), name)), side)


def _kind(file: BinaryIO) -> str | None:
    """The format of a picture by its first bytes. The file is read from its start, and rewound."""
    file.seek(0)
    head = file.read(64)
    file.seek(0)
    return next((name for name, start in SIGNATURES.items() if start.match(head)), None)


def _open(file: BinaryIO) -> Image.Image:
    """The picture, of which only the header has been read."""
    if _kind(file) != "HEIC":
        return Image.open(file, formats=IMAGE_FORMATS)
    import pi_heif

    # 8 bits a channel, which `colour` converts to sRGB. libheif turns it upright, as the format requires.
    image: Image.Image = pi_heif.HeifImageFile(file)
    return image


def _refuse_raw(image: Image.Image, name: str) -> None:
    """Cameras' raw files are TIFFs whose first picture is a small preview."""
    if isinstance(image, TiffImageFile) and (image.tag_v2.get(SUBFILE, 0) & 1 or DNG_VERSION in image.tag_v2):
        raise InputError(f"{name} is a camera's raw file, which holds only a small preview as a picture: export a JPEG")


def _upright(image: Image.Image, name: str) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception as error:  # EXIF is written by thousands of programs, and the picture is fine without it
        logger.warning("%s: its EXIF data cannot be read (%s), so the picture is not turned", name, error)
        return image


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        image = _to_grey(image, name)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image.convert("RGBA")
        layer.info = image.info  # conversions may lose the profile
        rgb = _to_srgb(layer.convert("RGB") if image.mode != "LA" else image.getchannel("L"), image.info)
        white = Image.new("RGB", layer.size, "white")
        return Image.composite(rgb, white, layer.getchannel("A"))
    if image.mode == "P":
        return _to_srgb(image.convert("RGB"), image.info)
    return _to_srgb(image, image.info)


def _to_srgb(image: Image.Image, info: dict[Any, Any]) -> Image.Image:
    """RGB in sRGB, of a picture without transparency that `info` describes."""
    if info.get("icc_profile"):
        image.info = info
        image = colour.from_icc(image)
    elif nclx := info.get("nclx_profile"):
        table = colour.to_srgb(int(nclx["color_primaries"]), int(nclx["transfer_characteristics"]))
        if table is not None:
            return image.convert("RGB").filter(table)
    return image.convert("RGB")


def _to_grey(image: Image.Image, name: str) -> Image.Image:
    """A grey picture of 16 or 32 bits, which Pillow would clip at 255, in 8 bits."""
    values = np.asarray(image)
    if image.mode == "F":  # no standard says what is white
        top = 1.0 if values.max(initial=0.0) <= 1.0 else 255.0 if values.max() <= 255.0 else 65535.0
        logger.warning("%s holds fractions: %g is taken as white", name, top)
        scaled = np.nan_to_num(values) * (255.0 / top)
    else:
        scaled = values / (257.0 if values.max(initial=0) <= 65535 else 2.0**24)
    grey = Image.fromarray(np.clip(scaled + 0.5, 0, 255).astype(np.uint8))
    grey.info = {key: value for key, value in image.info.items() if key != "transparency"}
    return grey
