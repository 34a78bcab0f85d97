"""Makes files as phones, browsers and editors make them. What is right comes from here, never from our own decoder."""

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pillow_heif
from PIL import Image

from personalive.testing.pictures import run_ffmpeg, save_video
from personalive.types import RGBArray

P3_TO_XYZ_D50 = np.array([[0.5151, 0.2920, 0.1571], [0.2412, 0.6922, 0.0666], [-0.0011, 0.0419, 0.7841]])
"""Display P3's primaries, adapted to the white point of ICC profiles."""
SRGB_TO_P3 = np.array([[0.8225, 0.1775, 0.0], [0.0332, 0.9668, 0.0], [0.0171, 0.0724, 0.9105]])
"""Linear sRGB → linear Display P3."""


def colours(width: int, height: int) -> RGBArray:
    """Smooth areas of saturated and dull colours, bright and dark, and a white frame."""
    y, x = np.mgrid[0:height, 0:width]
    u, v = x / width, y / height
    waves = (0.5 + 0.4 * np.sin(3 * u + 2 * v), 0.45 + 0.4 * np.cos(4 * v), 0.5 + 0.4 * np.sin(5 * u - 3 * v))
    picture = (np.stack(waves, axis=2) * 255).astype(np.uint8)
    picture[:4], picture[-4:], picture[:, :4], picture[:, -4:] = 255, 255, 255, 255
    return picture


def moving_colours(frames: int, width: int, height: int) -> list[RGBArray]:
    """`colours`, going to the left by two pixels a frame."""
    wide = colours(width + 2 * frames, height)
    return [np.ascontiguousarray(wide[:, 2 * index : 2 * index + width]) for index in range(frames)]


def p3_profile() -> bytes:
    """An ICC profile of Display P3's primaries with a gamma of 2.2."""

    def xyz(values: Sequence[float]) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    text = b"desc\0\0\0\0" + struct.pack(">I", 3) + b"P3\0" + bytes(78)
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(2.2 * 256)) + b"\0\0"
    tags = {b"desc": text, b"wtpt": xyz((0.9642, 1.0, 0.8249)), b"cprt": b"text\0\0\0\0none\0\0\0\0"}
    tags |= {name: xyz(P3_TO_XYZ_D50[:, i].tolist()) for i, name in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))}
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    table, body, start = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        data += bytes(-len(data) % 4)
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data
    head = struct.pack(">I4sI4s4s4s", start + len(body), bytes(4), 0x02100000, b"mntr", b"RGB ", b"XYZ ") + bytes(12)
    head += b"acsp" + bytes(28) + xyz((0.9642, 1.0, 0.8249))[8:]
    return head + bytes(128 - len(head)) + table + body


def in_p3(picture: RGBArray) -> RGBArray:
    """The numbers that show an sRGB picture on a Display P3 screen with a gamma of 2.2."""
    value = picture / 255.0
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    wide: npt.NDArray[np.float64] = np.clip(linear @ SRGB_TO_P3.T, 0, 1) ** (1 / 2.2)
    return (wide * 255 + 0.5).astype(np.uint8)


def save_still(path: Path, picture: RGBArray, *, profile: bytes | None = None, mode: str = "RGB") -> Path:
    """A picture in the format of the name, as exactly as the format can."""
    image = Image.fromarray(picture).convert(mode)
    extra = {"icc_profile": profile} if profile else {}
    if path.suffix == ".heic":
        pillow_heif.from_pillow(image).save(path, quality=95, chroma=444, **extra)
    else:
        image.save(path, quality=97, **extra)
    return path


def save_hdr(path: Path, frames: Sequence[RGBArray], transfer: str) -> Path:
    """A video in 10 bits, BT.2020, with SDR's white at 203 nits, as phones store what they film in daylight."""
    convert = (
        "zscale=min=gbr:tin=709:pin=709:rin=pc:m=2020_ncl:"
        f"t={transfer}:p=2020:r=tv:npl=203,format=yuv420p10le,"
        f"setparams=colorspace=bt2020nc:color_primaries=bt2020:color_trc={transfer}:range=tv"
    )
    codec = ("-vf", convert, "-c:v", "libx265", "-x265-params", "log-level=none", "-crf", "12")
    return save_video(path, frames, 25, options=codec)


def save_tagged(path: Path, frames: Sequence[RGBArray], matrix: str, color_range: str) -> Path:
    """A video with this matrix and range, tagged as such."""
    convert = (
        f"scale=out_color_matrix={matrix}:out_range={color_range},format=yuv444p,"
        f"setparams=colorspace={ {'bt601': 'smpte170m', 'bt2020': 'bt2020nc'}.get(matrix, matrix) }:range={color_range}"
    )
    return save_video(path, frames, 25, options=("-vf", convert, "-c:v", "libx264", "-crf", "8"))


def save_interlaced(path: Path, frames: Sequence[RGBArray]) -> Path:
    """A video whose frames hold two moments each: 50 fields a second of frames at 50 a second."""
    weave = ("-vf", "tinterlace=interleave_top,setparams=field_mode=tff,format=yuv420p", "-flags", "+ilme+ildct")
    return save_video(path, frames, 50, options=(*weave, "-c:v", "mpeg2video", "-q:v", "2"))


def save_without_rate(path: Path, frames: Sequence[RGBArray], milliseconds: Sequence[int], rate: int = 1000) -> Path:
    """A WebM as browsers record it: time stamps in milliseconds, and a rate that means nothing."""
    with av.open(str(path), "w", format="webm") as container:
        stream = container.add_stream("libvpx", rate=rate)
        stream.width, stream.height, stream.pix_fmt = frames[0].shape[1], frames[0].shape[0], "yuv420p"
        stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        for picture, time in zip(frames, milliseconds, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def save_joined(path: Path, parts: Sequence[Sequence[RGBArray]]) -> Path:
    """Recordings one after another in one transport stream, each with the clock of its own."""
    data = b""
    for index, frames in enumerate(parts):
        part = save_video(path.with_name(f"part{index}.ts"), frames, 25)
        data += part.read_bytes()
    path.write_bytes(data)
    return path


def save_turned(path: Path, source: Path, turn: int, mirrored: bool, flipped: bool) -> Path:
    """A copy of a video with a display matrix."""
    matrix = ("-display_rotation", str(turn), *(("-display_hflip",) if mirrored else ()))
    matrix += ("-display_vflip",) if flipped else ()
    run_ffmpeg(*matrix, "-noautorotate", "-i", str(source), "-c", "copy", str(path))
    return path
