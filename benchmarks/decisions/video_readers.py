"""What PyAV and decord make of the same files: whether they open, the size shown, and how many frames come out.

decord is not a dependency; install it by hand into a folder of its own:

    pip install --no-deps --target /tmp/decord decord==0.6.0
    PYTHONPATH=/tmp/decord:$PYTHONPATH python -m benchmarks.decisions.video_readers \
        --output benchmarks/results/video_readers.json

The files are made here, by the ffmpeg that comes with imageio-ffmpeg, from frames that ffmpeg draws.
"""

import argparse
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import imageio_ffmpeg

from benchmarks.measuring import Results
from personalive.media.video_reader import probe, read_frames

RATE = 25
"""Frames a second at which every file is read; decord has no such setting and gives what is stored."""


@dataclass(frozen=True)
class Case:
    """One file, and what a viewer sees of it."""

    name: str
    suffix: str
    arguments: tuple[str, ...]
    """Of ffmpeg, between the drawn picture and the file."""
    size: tuple[int, int]
    """Width and height as shown."""
    frames: int
    """At `RATE` frames a second."""
    piped: bool = False
    """Written through a pipe: the muxer cannot go back and note a duration, as in a browser's recording."""


DRAWN = "testsrc=size=320x240:rate=25:duration=2"
# Frames 0 to 24, then a pause of 1.36 seconds, then frames 25 to 39: 40 frames in 2.96 seconds.
GAP = "select='lt(n,40)',setpts='(N+gte(N,25)*34)/25/TB'"
CASES = (
    Case("MP4 (H.264)", ".mp4", ("-c:v", "libx264", "-pix_fmt", "yuv420p"), (320, 240), 50),
    Case("WebM as browsers record it", ".webm", ("-c:v", "libvpx", "-live", "1", "-f", "webm"), (320, 240), 50, True),
    Case("GIF", ".gif", (), (320, 240), 50),
    Case("MPEG program stream", ".mpg", ("-c:v", "mpeg2video", "-f", "mpeg"), (320, 240), 50),
    Case("MPEG transport stream (H.264)", ".ts", ("-c:v", "libx264", "-pix_fmt", "yuv420p"), (320, 240), 50),
    Case("pixel aspect 4:3", ".mp4", ("-vf", "setsar=4/3", "-c:v", "libx264", "-pix_fmt", "yuv420p"), (427, 240), 50),
    Case(
        "variable rate with a gap",
        ".webm",
        ("-vf", GAP, "-fps_mode", "vfr", "-c:v", "libvpx", "-enc_time_base", "1/1000"),
        (320, 240),
        74,
    ),
)


def make(case: Case, folder: Path) -> Path:
    """Write the case's file."""
    path = folder / f"{case.name.replace(' ', '_').replace(':', '_')}{case.suffix}"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", "-f", "lavfi", "-i", DRAWN, *case.arguments]
    if case.piped:
        made = subprocess.run([*command, "pipe:1"], check=True, stdout=subprocess.PIPE)
        path.write_bytes(made.stdout)
    else:
        subprocess.run([*command, str(path)], check=True)
    return path


def by_this_package(path: Path) -> tuple[tuple[int, int], int]:
    """Size and number of frames as `personalive.media.video_reader` reads them."""
    info = probe(path)
    return (info.width, info.height), sum(1 for _ in read_frames(info, Fraction(RATE)))


def by_decord(path: Path) -> tuple[tuple[int, int], int]:
    """Size and number of frames as decord reads them."""
    import decord  # type: ignore[import-not-found, unused-ignore]

    reader: Any = decord.VideoReader(str(path))
    frames = [reader[index].asnumpy() for index in range(len(reader))]
    return (frames[0].shape[1], frames[0].shape[0]), len(frames)


def tell(read: Callable[[Path], tuple[tuple[int, int], int]], path: Path, case: Case) -> str:
    """What a reader makes of a file, and whether that is right."""
    try:
        size, frames = read(path)
    except Exception as error:  # whatever a reader raises is its answer
        return f"refused: {str(error).strip().splitlines()[0].rpartition('] ')[2][:90]}"
    right = "right" if (size, frames) == (case.size, case.frames) else "WRONG"
    return f"{size[0]}×{size[1]}, {frames} frames: {right}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    options = parser.parse_args()
    results = Results(options.output)
    try:
        import decord
    except ImportError as error:
        parser.error(f"decord is missing: {error}. See --help.")
    results.add("decord", decord.__version__)
    with tempfile.TemporaryDirectory() as folder:
        for case in CASES:
            path = make(case, Path(folder))
            results.add(
                case.name,
                {
                    "shown": f"{case.size[0]}×{case.size[1]}, {case.frames} frames",
                    "PyAV": tell(by_this_package, path, case),
                    "decord": tell(by_decord, path, case),
                },
            )


if __name__ == "__main__":
    main()
