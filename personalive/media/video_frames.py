"""Decoded video frames → RGB as a player shows them: deinterlaced, in sRGB, upright, with square pixels."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from personalive.media import colour
from personalive.types import RGBArray

if TYPE_CHECKING:
    from av.filter import Graph
    from av.video.frame import VideoFrame

MATRICES = {1: "bt709", 4: "fcc", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 9: "bt2020", 10: "bt2020"}
"""FFmpeg's names of the matrices between RGB and YCbCr, by their code points in H.273."""
RANGES = {1: "tv", 2: "pc"}
HD_HEIGHT = 720
"""Lines from which players take an untagged picture's colours as HD (BT.709), and below as SD (BT.601)."""


@dataclass(frozen=True)
class Orientation:
    """One of the eight ways to turn and mirror a picture: first transposed, then flipped."""

    transposed: bool
    flipped_x: bool
    flipped_y: bool

    @classmethod
    def of(cls, frame: "VideoFrame") -> "Orientation":
        """What a frame's display matrix asks for; turns are rounded to quarters."""
        data: Any = frame.side_data.get("DISPLAYMATRIX")
        if data is None:
            return cls(False, False, False)
        a, b, _, c, d = np.frombuffer(memoryview(data), dtype="<i4")[:5].tolist()
        if abs(a) >= abs(b):  # x' = a·x + c·y, y' = b·x + d·y
            return cls(False, a < 0, d < 0)
        return cls(True, c < 0, b < 0)

    def apply(self, image: RGBArray) -> RGBArray:
        """The picture [height, width, 3] as it should be shown."""
        if self.transposed:
            image = image.swapaxes(0, 1)
        return np.ascontiguousarray(image[:: -1 if self.flipped_y else 1, :: -1 if self.flipped_x else 1])


def shown(
    frames: Iterable["VideoFrame"], width: int, height: int, stored: tuple[int, int]
) -> Iterator[tuple[Fraction | None, RGBArray]]:
    """Frames as a player shows them, each with its time stamp in seconds, if it has one.

    Args:
        frames: decoded, in the order in which they are shown.
        width: of the upright pictures, in pixels.
        height: like `width`.
        stored: width and height, as stored, of frames of that shape; others are shown inside of it, in their own.

    Returns:
        uint8 [height, width, 3] each.
    """
    converter: _Converter | None = None
    interlaced = False
    for frame in frames:
        interlaced = interlaced or frame.interlaced_frame
        if converter is None or not converter.takes(frame, interlaced):
            if converter is not None:
                yield from converter.rest()
            converter = _Converter(frame, interlaced, (width, height), stored)
        yield from converter.push(frame)
    if converter is not None:
        yield from converter.rest()


class _Converter:
    """FFmpeg's filters for frames of one kind."""

    def __init__(self, frame: "VideoFrame", interlaced: bool, shown: tuple[int, int], stored: tuple[int, int]) -> None:
        """Prepare.

        Args:
            frame: of the kind.
            interlaced: whether the video has such frames.
            shown: width and height of the upright pictures.
            stored: width and height, as stored, of the frames for which that is the right shape.
        """
        self._kind = _kind(frame, interlaced)
        self._orientation = Orientation.of(frame)
        self._table = colour.to_srgb(frame.color_primaries, frame.color_trc)
        size = (shown[1], shown[0]) if self._orientation.transposed else shown
        self._graph = _graph(frame, interlaced, size, stored, "rgb24" if self._table is None else "rgb48le")

    def takes(self, frame: "VideoFrame", interlaced: bool) -> bool:
        return self._kind == _kind(frame, interlaced)

    def push(self, frame: "VideoFrame") -> Iterator[tuple[Fraction | None, RGBArray]]:
        self._graph.push(frame)
        yield from self._pull()

    def rest(self) -> Iterator[tuple[Fraction | None, RGBArray]]:
        """What the filters still hold: a deinterlacer waits for the next frame."""
        self._graph.push(None)
        yield from self._pull()

    def _pull(self) -> Iterator[tuple[Fraction | None, RGBArray]]:
        import av

        while True:
            try:
                frame: Any = self._graph.pull()
            except (av.BlockingIOError, av.EOFError):
                return
            image = frame.to_ndarray()
            if self._table is not None:
                image = colour.apply(self._table, image)
            time = None if frame.pts is None or frame.time_base is None else frame.pts * frame.time_base
            yield time, self._orientation.apply(image)


def _kind(frame: "VideoFrame", interlaced: bool) -> tuple[Any, ...]:
    tags = frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc
    return frame.width, frame.height, frame.format.name, Orientation.of(frame), interlaced, *tags


def _graph(
    frame: "VideoFrame", interlaced: bool, size: tuple[int, int], stored: tuple[int, int], pixels: str
) -> "Graph":
    from av.filter import Graph

    matrix = MATRICES.get(frame.colorspace, "bt709" if frame.height >= HD_HEIGHT else "smpte170m")
    across, down = frame.width / stored[0], frame.height / stored[1]
    inside = round(size[0] * across / max(across, down)), round(size[1] * down / max(across, down))
    scale = f"w={inside[0]}:h={inside[1]}:flags=area:in_color_matrix={matrix}"
    if frame.color_range in RANGES:
        scale += f":in_range={RANGES[frame.color_range]}"
    graph = Graph()
    nodes = [graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base)]
    if interlaced:
        nodes.append(graph.add("bwdif", "mode=send_frame:deint=interlaced"))
    nodes += [graph.add("scale", scale), graph.add("format", pixels)]
    if inside != size:  # the camera was turned, or the window resized: what is shown keeps its shape
        nodes.append(graph.add("pad", f"{size[0]}:{size[1]}:(ow-iw)/2:(oh-ih)/2"))
    nodes.append(graph.add("buffersink"))
    for before, after in itertools.pairwise(nodes):
        before.link_to(after)
    graph.configure()
    return graph
