"""The comment in a file's metadata, by which a result says that it is synthetic, and how it was made."""

import re
from pathlib import Path
from xml.sax.saxutils import unescape

from PIL import Image

from personalive.errors import InputError
from personalive.media.credentials import plain
from personalive.media.images import IMAGE_FORMATS, is_image, require_file
from personalive.media.video_reader import metadata

DESCRIPTION = re.compile(r"<dc:description>.*?<rdf:li[^>]*>(.*?)</rdf:li>", re.DOTALL)
"""In XMP, which WebP has in the place of a comment."""


def read_comment(path: Path) -> str:
    """A file's comment, on one line and of printable characters; empty if there is none.

    Raises:
        InputError: there is no such file.
    """
    require_file(path, "the file")
    if is_image(path):
        return plain(_of_picture(path))
    try:
        return plain(metadata(path).get("comment"))
    except InputError:  # neither a picture nor a video, or a damaged one
        return ""


def _of_picture(path: Path) -> str:
    try:
        with Image.open(path, formats=IMAGE_FORMATS) as image:
            info = {str(name).lower(): value for name, value in image.info.items()}
    except Exception:  # a damaged file makes decoders raise nearly anything
        return ""
    comment, xmp = (_text(info.get(name, "")) for name in ("comment", "xmp"))
    found = DESCRIPTION.search(xmp)
    return comment or (unescape(found[1]) if found else "")


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
