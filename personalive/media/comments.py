"""The comment in a file's metadata, by which a result says that it is synthetic, and how it was made."""

from pathlib import Path
from xml.sax.saxutils import unescape

from PIL import Image

from personalive.errors import InputError
from personalive.media.credentials import plain
from personalive.media.images import IMAGE_FORMATS, is_image, require_file
from personalive.media.video_reader import metadata

MAX_XMP = 256 * 1024
"""Bytes of it that are read. Ours has a few hundred; that of editors, with the history of a picture, a few thousand."""


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
    return _text(info.get("comment", "")) or _description(_text(info.get("xmp", "")[:MAX_XMP]))


def _description(xmp: str) -> str:
    """The description in XMP, which WebP has in the place of a comment.

    Each part is looked for once, after the one before: a regular expression tries all beginnings with all ends, and a
    file with thousands of them keeps it busy for hours.
    """
    _, _, description = xmp.partition("<dc:description>")
    _, _, item = description.partition("<rdf:li")
    _, _, rest = item.partition(">")
    text, closed, _ = rest.partition("</rdf:li>")
    return unescape(text) if closed else ""


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
