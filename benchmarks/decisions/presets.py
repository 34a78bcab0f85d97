"""x264's presets at one constant rate factor: what each takes, how large the file is, and how close to its frames.

    python -m benchmarks.decisions.presets --output benchmarks/results/presets.json

A photographed face that moves and the frames of `benchmark.lifelike`, at 512×512, on two threads as in the package.
"""

import argparse
import re
import resource
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.measuring import Results
from personalive.benchmark.lifelike import lifelike
from personalive.media.encoding import KINDS
from personalive.media.ffmpeg import find_ffmpeg
from personalive.testing.pictures import photograph
from personalive.types import RGBArray

SIZE, RATE = 512, 25
PRESETS = ("superfast", "veryfast", "faster", "fast", "medium")
SSIM = re.compile(r"SSIM .*All:([0-9.]+)")


def moving_photograph(count: int) -> list[RGBArray]:
    """The photographed head turning and nodding a little, as a talking one does."""
    picture, frames = Image.fromarray(photograph()), []
    for index in range(count):
        angle, x, y = 3 * np.sin(index / 9), 6 * np.sin(index / 13), 4 * np.sin(index / 7)
        frames.append(np.asarray(picture.rotate(angle, Image.Resampling.BICUBIC, translate=(x, y))))
    return frames


def encode(frames: Sequence[RGBArray], preset: str, crf: int, folder: Path) -> dict[str, Any]:
    raw, out = folder / "raw.rgb", folder / "out.mp4"
    if not raw.exists():
        raw.write_bytes(b"".join(frame.tobytes() for frame in frames))
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-video_size", f"{SIZE}x{SIZE}", "-framerate", str(RATE)]
    source += ["-i", str(raw)]
    colours = "scale=out_color_matrix=bt709:out_range=tv,format=yuv420p"
    codec = ["-vf", colours, "-c:v", "libx264", "-preset", preset, "-crf", str(crf), "-threads", "2"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    subprocess.run([find_ffmpeg(), "-y", "-loglevel", "error", *source, *codec, str(out)], check=True)
    seconds = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
    graph = f"[1:v]{colours}[a];[0:v][a]ssim"
    compared = [find_ffmpeg(), "-hide_banner", "-i", str(out), *source, "-lavfi", graph, "-f", "null", "-"]
    log = subprocess.run(compared, check=True, capture_output=True, text=True).stderr
    found = SSIM.search(log)
    assert found is not None
    return {
        "CPU ms a frame": round(seconds / len(frames) * 1e3, 2),
        "kbit/s": round(out.stat().st_size * 8 * RATE / len(frames) / 1e3),
        "SSIM": float(found[1]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/presets.json"))
    parser.add_argument("--frames", type=int, default=200)
    options = parser.parse_args()
    results = Results(options.output)
    for name, frames in (
        ("photograph", moving_photograph(options.frames)),
        ("lifelike", lifelike(options.frames, SIZE)),
    ):
        with tempfile.TemporaryDirectory() as folder:
            for preset in PRESETS:
                row = encode(frames, preset, KINDS[".mp4"].crf["h264"], Path(folder))
                results.add(f"{name}, {preset}", row)


if __name__ == "__main__":
    main()
