"""Video files: what they hold, and their frames in time order, upright, at a chosen rate.

PyAV reads. Only container formats on a list are opened, so that no playlist inside an upload makes the decoder open
other files or addresses.
"""

import itertools
import logging
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from personalive.errors import InputError
from personalive.media.images import check_size, fit_side, is_animated, read_image, require_file
from personalive.media.video_frames import Orientation, shown
from personalive.types import RGBArray

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

logger = logging.getLogger(__name__)

# PyAV is imported where it is used: everything else in the package works without it.

CONTAINERS = "mov,matroska,webm,avi,mpegts,mpeg,flv,ogg,asf,gif"
"""FFmpeg's names of the container formats that may be opened."""
MIN_RATE, MAX_RATE = 1, 240
"""Frames a second that make sense for a driving video."""
DEFAULT_RATE = Fraction(25)
"""Used for a single frame in a file that says nothing about its rate."""
RATE_TOLERANCE = 1.5
"""How many times longer the shortest, or shorter the usual, frame intervals may be than the file's rate says."""
GAP = 4
"""An interval this many times longer than the usual one is a gap, which says nothing about the rate."""
JUMP = 10
"""Seconds by which time stamps must leap ahead, in a stream whose clock may restart, to count as another recording that
was appended; it is FFmpeg's own limit, which its copy of the sound follows."""
INDEXED = {"mov", "matroska", "webm"}
"""FFmpeg's names of container formats with an index, and with a time stamp for every frame."""
SEEK_FROM = 4
"""Seconds from which frames before a part are passed over by the index, not by decoding them."""
CLOCK = 1_000_000
"""Units a second of FFmpeg's times for whole files."""


@dataclass(frozen=True)
class VideoInfo:
    """What a video file holds. Times are in seconds."""

    path: Path
    width: int
    height: int
    """Pixels as shown: turned upright, with square pixels, and scaled down to `images.MAX_SIDE` where larger."""
    rate: Fraction
    """Frames a second: what the file names if its time stamps agree, otherwise what they say."""
    duration: Fraction
    """From the start of the first frame to the end of the last."""
    first: Fraction
    """Time stamp of the first frame."""
    start: Fraction
    """The same, counted from the start of the file: how much earlier than the picture the sound may begin."""
    sound: str | None
    """FFmpeg's name of the sound's codec; None: silent."""
    quarters: int = 0
    """Quarter turns to the left that frames are given beyond what the file asks for; the size is that after them."""
    still: bool = False
    """Whether the file is a picture, of which `duration` says how long it is shown."""
    seekable: bool = False
    """Whether frames can be decoded from the middle on, as the file has an index and one clock."""
    stored: tuple[int, int] = (0, 0)
    """Width and height of the first frame as it is stored: what the size above was made from."""

    def turned(self, quarters: int) -> "VideoInfo":
        """The same video, turned further by quarter turns to the left."""
        width, height = (self.height, self.width) if quarters % 2 else (self.width, self.height)
        return replace(self, width=width, height=height, quarters=(self.quarters + quarters) % 4)

    def frames_at(self, rate: Fraction) -> int:
        """How many frames `read_frames` gives at this rate, for a file without damage."""
        return max(1, round(self.duration * rate))


def probe(path: Path) -> VideoInfo:
    """Look through a video file without decoding it.

    Raises:
        InputError: there is no such file, or it has no video or no frames, is cut off, or is too large to decode
        safely.
    """
    with _open(path) as container:
        stream = _video_stream(container, path)
        codec = stream.codec_context
        check_size(codec.width, codec.height, f"the video {path}")
        scan = _scan(container, stream, path)
        _check_complete(container, stream, scan, path)
        rate = _rate(stream, scan)
        last = scan.last_duration or 1 / rate
        start = Fraction(container.start_time or 0, CLOCK)
        aspect = stream.sample_aspect_ratio or Fraction(1)
        sound = container.streams.audio[0].codec_context.codec.canonical_name if container.streams.audio else None
        seekable = not scan.jumps and bool(INDEXED & set(container.format.name.split(",")))
    orientation, stored = _first_frame(path)
    size = round(stored[0] * aspect), stored[1]
    check_size(*size, f"the video {path}")
    width, height = fit_side(*size)
    if orientation.transposed:
        width, height = height, width
    duration = scan.last - scan.first + last
    since = scan.first - start
    return VideoInfo(path, width, height, rate, duration, scan.first, since, sound, seekable=seekable, stored=stored)


def probe_picture(path: Path, rate: Fraction, duration: Fraction) -> VideoInfo:
    """A picture as if it were a video that shows it for that many seconds.

    Raises:
        InputError: it cannot be read, or it holds several pictures that move.
    """
    if is_animated(path):
        raise InputError(f"{path} holds several pictures: of such files, only GIFs are read as videos; make it an MP4")
    height, width, _ = read_image(path).shape
    return VideoInfo(path, width, height, rate, duration, Fraction(0), Fraction(0), None, still=True)


def read_frames(info: VideoInfo, rate: Fraction | None = None, skip: int = 0) -> Generator[RGBArray, None, None]:
    """The frames of a video, resampled in time to a constant `rate` (None: the file's own); the duration stays.

    Each frame given is the one that is on screen in the middle of its time slot, so a file of constant rate gives
    exactly its frames and small errors of its time stamps do not matter. Damaged frames are skipped, and the one
    before stays on screen. Memory does not depend on the length of the file.

    Args:
        info: of the file; of a picture there is one frame.
        rate: frames a second.
        skip: the first frames at this rate, which are left out.

    Returns:
        uint8 [height, width, 3] each, of the size in `info`; a repeated frame is the same array.

    Raises:
        InputError: not one frame can be decoded.
    """
    if info.still:
        yield np.ascontiguousarray(np.rot90(read_image(info.path), info.quarters))
        return
    with _open(info.path) as container:
        stream = _video_stream(container, info.path)
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = 2
        rate = rate or info.rate
        since = Fraction(2 * skip + 1, 2) / rate
        if info.seekable and since > SEEK_FROM and stream.time_base is not None:
            before = info.first + since - 1  # a keyframe's neighbours may need the one before it
            container.seek(int(before / stream.time_base), stream=stream)
        timed = _decode(container, stream, info.turned(-info.quarters), since)
        if info.quarters:
            timed = ((time, np.ascontiguousarray(np.rot90(image, info.quarters))) for time, image in timed)
        yield from resample(timed, rate, info.duration, skip)


def resample(
    timed: Iterable[tuple[Fraction, RGBArray]], rate: Fraction, duration: Fraction, skip: int = 0
) -> Iterator[RGBArray]:
    """Frames at a constant `rate` from frames with rising time stamps; the last one stays until `duration`.

    Times are seconds from the start. It returns `round(duration * rate)` frames, but at least one, except for the first
    `skip` of them.
    """
    shown: RGBArray | None = None
    given = skip
    for time, image in timed:
        while shown is not None and Fraction(2 * given + 1, 2) / rate < time:
            yield shown
            given += 1
        shown = image
    while shown is not None and (given == skip or Fraction(2 * given + 1, 2) / rate < duration):
        yield shown
        given += 1


@dataclass
class _Scan:
    """What the packets of a file say. Times are in seconds."""

    packets: int
    first: Fraction
    last: Fraction
    last_duration: Fraction
    end: Fraction
    """Latest time stamp of any stream."""
    steps: list[Fraction]
    """Times from one frame to the next, in the order in which they are shown."""
    jumps: int = 0
    """How often the clock restarts."""


@dataclass
class _Clock:
    """Turns the time stamps of a stream into rising times, even if recordings were joined and their clocks restart."""

    may_jump: bool
    """Whether a leap ahead also means a new clock, as in broadcast formats; elsewhere it is a gap in the recording."""
    offset: Fraction = Fraction(0)
    jumps: int = 0
    _before: Fraction | None = field(default=None, init=False)
    _step: Fraction = field(default=Fraction(0), init=False)

    def adjust(self, packet: "Packet[Any]") -> None:
        """Write the rising time into a packet. Packets must come in the order of the file."""
        if packet.dts is None or packet.time_base is None:
            return
        time = packet.dts * packet.time_base + self.offset
        if self._before is not None:
            ahead = time - self._before
            # Decoding times never fall within one recording.
            if ahead < 0 or (self.may_jump and ahead > JUMP):
                self.jumps += 1
                self.offset += self._before + self._step - time
                time = self._before + self._step
            else:
                self._step = (packet.duration or 0) * packet.time_base or ahead
        self._before = time
        if self.offset:
            ticks = round(self.offset / packet.time_base)
            packet.dts += ticks
            packet.pts = None if packet.pts is None else packet.pts + ticks


def metadata(path: Path) -> dict[str, str]:
    """What a video says about itself, by names in small letters.

    Raises:
        InputError: it is not a video that can be read.
    """
    with _open(path) as container:
        tags = [container.metadata, *(stream.metadata for stream in container.streams.video)]
    return {name.lower(): value for each in tags for name, value in each.items()}


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
    """Read every packet, decode none: headers do not always have counts and times, and a cut file shows only here."""
    import av

    times: list[Fraction] = []
    packets, last_duration, end = 0, Fraction(0), Fraction(0)
    clock = _Clock(_may_jump(container))
    try:
        for packet in container.demux():
            if packet.stream is stream:
                clock.adjust(packet)
            if packet.pts is None or packet.time_base is None or packet.is_discard:
                packets += packet.stream is stream and packet.size > 0
                continue
            time = packet.pts * packet.time_base
            duration = (packet.duration or 0) * packet.time_base
            end = max(end, time + duration)
            if packet.stream is not stream:
                continue
            packets += 1
            if not times or time >= max(times[-8:]):
                last_duration = duration
            times.append(time)
    except (
        av.FFmpegError,
        IndexError,
    ) as error:  # PyAV: IndexError for a stream that only appears inside the file
        raise InputError(f"the video {path} is damaged or cut off after {packets} frames: {error}") from error
    if packets == 0:
        raise InputError(f"the video {path} has no frames")
    if clock.jumps:
        logger.warning(
            "the time stamps of %s restart %d time(s), as in joined recordings: the parts are played one after another",
            path,
            clock.jumps,
        )
    times.sort()  # packets come in the order of decoding
    if not times:  # a format without time stamps: constant rate
        times = [Fraction(0), (packets - 1) / (_named_rate(stream) or DEFAULT_RATE)]
        return _Scan(packets, times[0], times[1], last_duration, end, [])
    steps = [after - before for before, after in itertools.pairwise(times) if after > before]
    return _Scan(packets, times[0], times[-1], last_duration, end, steps, clock.jumps)


def _may_jump(container: "InputContainer") -> bool:
    """Whether it is a broadcast format, whose clock may restart anywhere."""
    return bool({"mpegts", "mpeg"} & set(container.format.name.split(",")))


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
    # Matroska's duration is that of its clock, which may start later; that of others is from their start.
    late = 0 if container.format.name.startswith("matroska") else Fraction(container.start_time or 0, CLOCK)
    there = scan.end - late
    if length - there > max(Fraction(1, 2), length / 20):
        raise InputError(
            f"the video {path} is cut off: {float(there):.1f} of its {float(length):.1f} seconds are there; "
            "copy or download it again"
        )


def _named_rate(stream: "VideoStream") -> Fraction | None:
    """The rate that the file names; None if there is none that makes sense (browsers' recordings say 1000 a second)."""
    average = stream.average_rate
    if average and not MIN_RATE <= average <= MAX_RATE:
        return None
    for rate in (stream.guessed_rate, average, stream.base_rate):
        if rate and MIN_RATE <= rate <= MAX_RATE:
            return Fraction(rate)
    return None


def _rate(stream: "VideoStream", scan: _Scan) -> Fraction:
    """Frames a second: what the file names, unless its time stamps contradict it; then what they say."""
    named = _named_rate(stream)
    if not scan.steps:
        return named or DEFAULT_RATE
    steps = sorted(scan.steps)
    short, usual = steps[len(steps) // 10], steps[len(steps) // 2]
    if named and short <= RATE_TOLERANCE / named and usual >= 1 / (RATE_TOLERANCE * named):
        return named
    regular = [step for step in steps if step <= GAP * usual]
    measured = len(regular) / sum(regular, Fraction(0))
    return min(max(measured, Fraction(MIN_RATE)), Fraction(MAX_RATE)).limit_denominator(1001)


def _first_frame(path: Path) -> tuple[Orientation, tuple[int, int]]:
    """How the first frame is turned, and its width and height as stored: the header may have those of a later one."""
    with _open(path) as container:
        for frame in _frames(container, _video_stream(container, path)):
            return Orientation.of(frame), (frame.width, frame.height)
    raise InputError(f"no frame of the video {path} can be decoded: it is damaged or its codec is not known")


def _frames(container: "InputContainer", stream: "VideoStream") -> Iterator["VideoFrame"]:
    """Every frame that can be decoded, with the times of `_Clock`."""
    import av

    packets = container.demux(stream)
    clock = _Clock(_may_jump(container))
    while True:
        try:
            packet = next(packets, None)
            if packet is None:
                return
            clock.adjust(packet)
            yield from packet.decode()
        except av.EOFError:
            return
        except IndexError:
            return
        except av.FFmpegError:
            continue


def _decode(
    container: "InputContainer", stream: "VideoStream", info: VideoInfo, since: Fraction
) -> Iterator[tuple[Fraction, RGBArray]]:
    """Each frame as a player shows it from a time on, with its time from the first frame on."""
    time = Fraction(-1) / info.rate
    frames = _on_screen_from(_frames(container, stream), info.first + since)
    for stamp, image in shown(frames, info.width, info.height, info.stored):
        since = time if stamp is None else stamp - info.first
        time = since if since > time else time + 1 / info.rate
        yield time, image
    if time < 0:
        raise InputError(f"no frame of the video {info.path} can be decoded")


def _on_screen_from(frames: Iterator["VideoFrame"], time: Fraction) -> Iterator["VideoFrame"]:
    """The frame that is on screen at a time, and those after it; the others are not worth converting."""
    before: VideoFrame | None = None
    for frame in frames:
        if frame.pts is not None and frame.time_base is not None and frame.pts * frame.time_base <= time:
            before = frame
            continue
        if before is not None:
            yield before
            before = None
        yield frame
    if before is not None:
        yield before
