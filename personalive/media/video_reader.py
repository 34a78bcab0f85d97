"""Video files: what they hold, and their frames in time order, upright, at a chosen rate.

PyAV reads. Only container formats on a list are opened, so that no playlist inside an upload makes the decoder open
other files or addresses.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from personalive.errors import InputError
from personalive.media.images import check_size, fit_side, require_file
from personalive.types import RGBArray

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

# PyAV is imported where it is used: everything else of the package works without it.

CONTAINERS = "mov,matroska,webm,avi,mpegts,mpeg,flv,ogg,asf,gif"
"""FFmpeg's names of the container formats that may be opened."""
MIN_RATE, MAX_RATE = 1, 240
"""Frames a second that make sense for a driving video."""
DEFAULT_RATE = Fraction(25)
"""Used when a file says nothing about its rate."""
CLOCK = 1_000_000
"""Units a second of FFmpeg's times of whole files."""


@dataclass(frozen=True)
class VideoInfo:
    """What a video file holds. Times are in seconds."""

    path: Path
    width: int
    height: int
    """Pixels as shown: turned upright, with square pixels, and scaled down to `images.MAX_SIDE` where larger."""
    rate: Fraction
    """Frames a second: that of the file, or the nominal one where the rate varies."""
    duration: Fraction
    """From the start of the first frame to the end of the last."""
    first: Fraction
    """Time stamp of the first frame."""
    start: Fraction
    """The same, counted from the start of the file: how much earlier than the picture the sound may begin."""
    sound: str | None
    """FFmpeg's name of the sound's codec; None: silent."""

    def frames_at(self, rate: Fraction) -> int:
        """How many frames `read_frames` gives at this rate, for a file without damage."""
        return max(1, round(self.duration * rate))


def probe(path: Path) -> VideoInfo:
    """Look through a video file without decoding it.

    Raises:
        InputError: no such file, no video, no frames, cut off, or frames too large to decode safely.
    """
    with _open(path) as container:
        stream = _video_stream(container, path)
        codec = stream.codec_context
        check_size(codec.width, codec.height, f"the video {path}")
        scan = _scan(container, stream, path)
        _check_complete(container, stream, scan, path)
        rate = _nominal_rate(stream)
        last = Fraction(scan.last_duration) or 1 / rate
        start = Fraction(container.start_time or 0, CLOCK)
        aspect = stream.sample_aspect_ratio or Fraction(1)
        sound = container.streams.audio[0].codec_context.codec.canonical_name if container.streams.audio else None
        shown = round(codec.width * aspect), codec.height
    check_size(*shown, f"the video {path}")
    width, height = fit_side(*shown)
    if _first_rotation(path) % 180:
        width, height = height, width
    return VideoInfo(path, width, height, rate, scan.last - scan.first + last, scan.first, scan.first - start, sound)


def read_frames(info: VideoInfo, rate: Fraction | None = None) -> Iterator[RGBArray]:
    """The frames of a video, resampled in time to a constant `rate` (None: the file's own); the duration stays.

    Each frame given is the one that is on screen in the middle of its time slot, so a file of constant rate gives
    exactly its frames and small errors of its time stamps do not matter. Damaged frames are passed over, and the one
    before stays on screen. Memory does not depend on the length of the file.

    Returns:
        uint8 [height, width, 3] each, of the size in `info`; a repeated frame is the same array.

    Raises:
        InputError: not one frame can be decoded.
    """
    with _open(info.path) as container:
        stream = _video_stream(container, info.path)
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = 2
        yield from resample(_decode(container, stream, info), rate or info.rate, info.duration)


def resample(timed: Iterable[tuple[Fraction, RGBArray]], rate: Fraction, duration: Fraction) -> Iterator[RGBArray]:
    """Frames at a constant `rate` from frames with rising time stamps; the last one stays until `duration`.

    Times are seconds from the start. `round(duration * rate)` frames come out, but at least one.
    """
    shown: RGBArray | None = None
    given = 0
    for time, image in timed:
        while shown is not None and Fraction(2 * given + 1, 2) / rate < time:
            yield shown
            given += 1
        shown = image
    while shown is not None and (given == 0 or Fraction(2 * given + 1, 2) / rate < duration):
        yield shown
        given += 1


@dataclass
class _Scan:
    packets: int
    first: Fraction
    last: Fraction
    last_duration: Fraction
    end: Fraction
    """Latest time stamp of any stream."""


def _open(path: Path) -> "InputContainer":
    import av

    require_file(path, "the video")
    try:
        return av.open(f"file:{path}", options={"format_whitelist": CONTAINERS, "protocol_whitelist": "file"})
    except (av.FFmpegError, ValueError) as error:
        raise InputError(f"{path} is not a video that can be read, or it is cut off or damaged") from error


def _video_stream(container: "InputContainer", path: Path) -> "VideoStream":
    from av.stream import Disposition

    for stream in container.streams.video:
        # a music file's cover is a "video" of one picture
        if not stream.disposition & Disposition.attached_pic and stream.codec_context is not None:
            return stream
    kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
    raise InputError(f"{path} has no video frames: it holds {kinds}")


def _scan(container: "InputContainer", stream: "VideoStream", path: Path) -> _Scan:
    """Read every packet, decode none: headers do not always know counts and times, and a cut shows only here."""
    import av

    times: dict[str, Fraction] = {}
    packets, last_duration, end = 0, Fraction(0), Fraction(0)
    try:
        for packet in container.demux():
            if packet.pts is None or packet.time_base is None or packet.is_discard:
                packets += packet.stream is stream and packet.size > 0
                continue
            time = packet.pts * packet.time_base
            duration = (packet.duration or 0) * packet.time_base
            end = max(end, time + duration)
            if packet.stream is not stream:
                continue
            packets += 1
            times["first"] = min(times.get("first", time), time)
            if time >= times.get("last", time):
                times["last"], last_duration = time, duration
    except (av.FFmpegError, IndexError) as error:  # PyAV: IndexError for a stream that only turns up inside the file
        raise InputError(f"the video {path} is damaged or cut off after {packets} frames: {error}") from error
    if packets == 0:
        raise InputError(f"the video {path} has no frames")
    if not times:  # a format without time stamps: constant rate
        times = {"first": Fraction(0), "last": (packets - 1) / _nominal_rate(stream)}
    return _Scan(packets, times["first"], times["last"], last_duration, end)


def _check_complete(container: "InputContainer", stream: "VideoStream", scan: _Scan, path: Path) -> None:
    announced = stream.frames
    if announced - scan.packets > max(2, announced // 50):
        raise InputError(
            f"the video {path} is cut off: {scan.packets} of its {announced} frames are there; "
            "copy or download it again"
        )
    if container.duration is None or container.format.name.startswith("mov"):
        return
    length = Fraction(container.duration, CLOCK)
    there = scan.end - Fraction(container.start_time or 0, CLOCK)
    if length - there > max(Fraction(1, 2), length / 20):
        raise InputError(
            f"the video {path} is cut off: {float(there):.1f} of its {float(length):.1f} seconds are there; "
            "copy or download it again"
        )


def _nominal_rate(stream: "VideoStream") -> Fraction:
    """The rate that the file names, the first of its three guesses that is sensible."""
    for rate in (stream.guessed_rate, stream.average_rate, stream.base_rate):
        if rate and MIN_RATE <= rate <= MAX_RATE:
            return Fraction(rate)
    return DEFAULT_RATE


def _first_rotation(path: Path) -> int:
    with _open(path) as container:
        for frame in _frames(container, _video_stream(container, path)):
            return int(frame.rotation)
    raise InputError(f"no frame of the video {path} can be decoded: it is damaged or its codec is not known")


def _frames(container: "InputContainer", stream: "VideoStream") -> Iterator["VideoFrame"]:
    """Every frame that can be decoded."""
    import av

    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
            if packet is None:
                return
            yield from packet.decode()
        except av.EOFError:
            return
        except IndexError:
            return
        except av.FFmpegError:
            continue


def _decode(container: "InputContainer", stream: "VideoStream", info: VideoInfo) -> Iterator[tuple[Fraction, RGBArray]]:
    time = Fraction(-1) / info.rate
    for frame in _frames(container, stream):
        stamp = time
        if frame.pts is not None and frame.time_base is not None:
            stamp = frame.pts * frame.time_base - info.first
        time = stamp if stamp > time else time + 1 / info.rate
        yield time, _upright(frame, info)
    if time < 0:
        raise InputError(f"no frame of the video {info.path} can be decoded")


def _upright(frame: "VideoFrame", info: VideoInfo) -> RGBArray:
    quarter_turns = round(frame.rotation / 90) % 4
    width, height = (info.height, info.width) if quarter_turns % 2 else (info.width, info.height)
    image = frame.to_ndarray(format="rgb24", width=width, height=height, interpolation="AREA")
    return np.ascontiguousarray(np.rot90(image, quarter_turns))
