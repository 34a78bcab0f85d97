"""The kinds of results: what ffmpeg is told for each, and what it leaves to be written into the file."""

import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from xml.sax.saxutils import escape

from personalive.errors import OutputError
from personalive.types import VideoCodec

FRAMES_NAME = "%05d.png"
"""Name of an output that stands for a folder of pictures, numbered from 1."""
GIF_RATE = 50
"""The most frames a second that players show of a GIF."""
BLOCK = 1 << 20
WEBP_QUALITY = 1.2
"""Points of WebP's quality, of 100, that one step of the constant rate factor costs."""


@dataclass(frozen=True)
class VideoFormat:
    """What the encoder must know before the first frame."""

    width: int
    height: int
    rate: Fraction
    comment: str
    """Stored in the file: that it is synthetic, and how it was made."""
    codec: VideoCodec | None = None
    """None: the usual one of the kind of file."""
    quality: int | None = None
    """Constant rate factor, lower is better; None: the usual one of the codec."""


@dataclass(frozen=True)
class Kind:
    """A kind of file that ffmpeg writes."""

    muxer: tuple[str, ...]
    codecs: Mapping[str, tuple[str, ...]]
    """ffmpeg's arguments by codec; the first is the usual one."""
    crf: Mapping[str, int]
    """Usual constant rate factors; a codec without one has none."""
    copied_sound: tuple[str, ...] = ()
    """Codecs whose packets every player takes as they are in such a file; others are encoded."""
    sound: tuple[str, ...] = ()
    """ffmpeg's arguments for encoded sound; none: such a file is silent."""


_THREADS = str(max(2, min(4, (os.cpu_count() or 1) // 4)))
"""Of each encoder: the model needs the other cores. With more of them the last frames, which encoders keep back to look
ahead, are written sooner after the model has ended."""
# x264's "fast" comes as close to the frames as "medium", its default, at the same constant rate factor, in a fifth to a
# third less time (benchmarks/decisions/presets.py).
_H264 = ("libx264", "-preset", "fast", "-threads", _THREADS)
_H265 = ("libx265", "-preset", "medium", "-tag:v", "hvc1", "-x265-params", f"log-level=error:pools={_THREADS}")
_AV1 = ("libsvtav1", "-preset", "8", "-svtav1-params", f"lp={_THREADS}")
_VP9 = ("libvpx-vp9", "-b:v", "0", "-row-mt", "1", "-threads", _THREADS, "-deadline", "good", "-cpu-used", "3")
KINDS = {
    ".mp4": Kind(
        ("-movflags", "+faststart", "-f", "mp4"),
        {"h264": _H264, "h265": _H265, "av1": _AV1},
        {"h264": 18, "h265": 20, "av1": 24},
        ("aac", "mp3"),
        ("aac", "-b:a", "192k"),
    ),
    ".webm": Kind(
        ("-f", "webm"),
        {"vp9": _VP9, "av1": _AV1},
        {"vp9": 24, "av1": 24},
        ("opus", "vorbis"),
        ("libopus", "-b:a", "128k"),
    ),
    ".gif": Kind(("-loop", "0", "-f", "gif"), {"gif": ("gif",)}, {}),
    ".webp": Kind(("-loop", "0", "-f", "webp"), {"webp": ("libwebp_anim", "-threads", _THREADS)}, {"webp": 18}),
}


def kind_of(path: Path) -> Kind:
    """The kind of file that a name asks for.

    Raises:
        OutputError: another ending.
    """
    kind = KINDS.get(path.suffix.lower())
    if kind is None:
        raise OutputError(
            f"the output {path} must be a file whose name ends with {', '.join(KINDS)}, or FOLDER/{FRAMES_NAME}"
        )
    return kind


def is_silent(path: Path) -> bool:
    """Whether the kind of result that a name asks for has no sound."""
    return path.name == FRAMES_NAME or not kind_of(path).sound


def check_choices(path: Path, codec: VideoCodec | None, quality: int | None) -> None:
    """Refuse a codec or a quality that the kind of result does not have.

    Raises:
        OutputError: as above.
    """
    codecs = {} if path.name == FRAMES_NAME else kind_of(path).codecs
    if codec is not None and codec not in codecs:
        fitting = f"it takes {' or '.join(codecs)}" if len(codecs) > 1 else "it has no choice of codec"
        raise OutputError(f"codec is {codec}: it does not go into {path.name}; {fitting}")
    if quality is not None and (path.name == FRAMES_NAME or not kind_of(path).crf):
        raise OutputError(f"quality is {quality}: {path.name} has no choice of quality")


def encode_arguments(kind: Kind, video: VideoFormat) -> list[str]:
    """ffmpeg's arguments, except for the output's name, that encode raw frames from its standard input."""
    usual, *_ = kind.codecs
    codec: str = video.codec or usual
    return [
        *("-hide_banner", "-loglevel", "error", "-y"),
        *("-f", "rawvideo", "-pix_fmt", "rgb24", "-video_size", f"{video.width}x{video.height}"),
        *("-framerate", str(video.rate), "-i", "pipe:0", "-an", "-vf", _filters(codec, video)),
        *("-c:v", *kind.codecs[codec], *_quality(kind, codec, video)),
        *("-metadata", f"comment={video.comment}", *kind.muxer),
    ]


def _filters(codec: str, video: VideoFormat) -> str:
    if codec == "gif":  # a palette for each frame: memory does not grow, and colours are best
        rate = f"fps={min(video.rate, Fraction(GIF_RATE))},"
        return f"{rate}split[a][b];[a]palettegen=stats_mode=single[p];[b][p]paletteuse=new=1:dither=sierra2_4a"
    if codec == "webp":
        return "format=yuv420p"  # full range and BT.601, as WebP has it
    # Players assume HD colours, but ffmpeg's default for RGB is SD: convert to HD and tag it. Sides must be even.
    tags = "setparams=colorspace=bt709:color_primaries=bt709:color_trc=bt709:range=tv"
    even = "crop=trunc(iw/2)*2:trunc(ih/2)*2:0:0," if video.width % 2 or video.height % 2 else ""
    return f"{even}scale=out_color_matrix=bt709:out_range=tv,format=yuv420p,{tags}"


def _quality(kind: Kind, codec: str, video: VideoFormat) -> list[str]:
    if codec not in kind.crf:
        return []
    crf = kind.crf[codec] if video.quality is None else video.quality
    return ["-quality", str(round(100 - WEBP_QUALITY * crf))] if codec == "webp" else ["-crf", str(crf)]


def write_comment(descriptor: int, suffix: str, comment: str) -> None:
    """Write the comment into a finished file of a kind for which ffmpeg does not."""
    with os.fdopen(os.dup(descriptor), "r+b") as file:
        if suffix == ".gif":
            _gif_comment(file, comment.encode()[:255])
        elif suffix == ".webp":
            _webp_comment(file, comment)


def _gif_comment(file: "io.BufferedRandom", text: bytes) -> None:
    """A comment extension before the first frame, where readers look for it."""
    file.seek(0)
    head = file.read(13)
    if head[:6] != b"GIF89a":
        raise OutputError("ffmpeg's GIF does not begin as a GIF should")
    palette = 3 << ((head[10] & 7) + 1) if head[10] & 0x80 else 0
    _insert(file, len(head) + palette, b"!\xfe" + bytes([len(text)]) + text + b"\0")


def _insert(file: "io.BufferedRandom", place: int, data: bytes) -> None:
    """Insert bytes, moving what follows block by block."""
    end = file.seek(0, os.SEEK_END)
    while end > place:
        start = max(place, end - BLOCK)
        file.seek(start)
        block = file.read(end - start)
        file.seek(start + len(data))
        file.write(block)
        end = start
    file.seek(place)
    file.write(data)


def _webp_comment(file: "io.BufferedRandom", comment: str) -> None:
    """An XMP chunk at the end, announced by the flag in the first chunk."""
    file.seek(0)
    head = bytearray(file.read(30))
    if head[:4] != b"RIFF" or head[8:16] != b"WEBPVP8X":
        raise OutputError("ffmpeg's WebP has no place for metadata")
    xmp = XMP.format(escape(comment)).encode()
    chunk = b"XMP " + len(xmp).to_bytes(4, "little") + xmp + bytes(len(xmp) % 2)
    size = file.seek(0, os.SEEK_END)
    file.write(chunk)
    head[4:8] = (size + len(chunk) - 8).to_bytes(4, "little")
    head[20] |= 4
    file.seek(0)
    file.write(head)


XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:description><rdf:Alt>'
    '<rdf:li xml:lang="x-default">{}</rdf:li></rdf:Alt></dc:description></rdf:Description></rdf:RDF></x:xmpmeta>'
)
