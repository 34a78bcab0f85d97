"""Encoding by ffmpeg in a process of its own beside encoding by PyAV in this one: what each takes of this process.

    python -m benchmarks.decisions.encoders --output benchmarks/results/encoders.json

Both encode the demo driver's frames at 512×512 with x264 at its defaults and CRF 18. What counts is the CPU time of
this process, as that is where a model runs.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.measuring import Results
from personalive.media.encoding import KINDS, VideoFormat
from personalive.media.video_reader import probe, read_frames
from personalive.media.video_writer import VideoWriter
from personalive.types import RGBArray

SIZE, RATE = 512, 25
ROOT = Path(__file__).parents[2]


def frames(count: int) -> list[RGBArray]:
    """The demo driver's frames, enlarged, forth and back until there are enough."""
    small = list(read_frames(probe(ROOT / "demo" / "driver.mp4")))
    large = [np.asarray(Image.fromarray(frame).resize((SIZE, SIZE), Image.Resampling.LANCZOS)) for frame in small]
    there_and_back = large + large[-2:0:-1]
    return [there_and_back[index % len(there_and_back)] for index in range(count)]


def by_process(pictures: Sequence[RGBArray], path: Path) -> None:
    """As the package does it."""
    with VideoWriter(path, VideoFormat(SIZE, SIZE, Fraction(RATE), "benchmark")) as writer:
        for picture in pictures:
            writer.write(picture[None])
        writer.finish()


def by_library(pictures: Sequence[RGBArray], path: Path) -> None:
    """With PyAV."""
    import av
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"crf": str(KINDS[".mp4"].crf["h264"])})
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = SIZE, SIZE, "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def measure(encode: Callable[[Sequence[RGBArray], Path], None], pictures: Sequence[RGBArray]) -> dict[str, float]:
    """Milliseconds a frame, by the clock and of this process's CPU time: medians of three runs."""
    wall, own = [], []
    for _ in range(3):
        with tempfile.TemporaryDirectory() as folder:
            began, cpu = time.perf_counter(), time.process_time()
            encode(pictures, Path(folder) / "out.mp4")
            wall.append((time.perf_counter() - began) / len(pictures) * 1e3)
            own.append((time.process_time() - cpu) / len(pictures) * 1e3)
    return {"ms a frame": round(statistics.median(wall), 2), "of this process": round(statistics.median(own), 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    parser.add_argument("--frames", type=int, default=300)
    options = parser.parse_args()
    results = Results(options.output)
    pictures = frames(options.frames)
    results.add("ffmpeg in a process of its own", measure(by_process, pictures))
    results.add("PyAV in this process", measure(by_library, pictures))


if __name__ == "__main__":
    main()
