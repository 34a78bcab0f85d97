"""The demo model on the CPU, from video file to video file: frames per second, and time to the first one.

    python -m benchmarks.cpu --output benchmarks/results/cpu.json

It animates two lengths. Their difference is the time that frames take; the rest is start-up.
"""

import argparse
import os
import platform
import tempfile
from pathlib import Path

from benchmarks.command import animate
from benchmarks.measuring import Results


def processor() -> str:
    """The CPU's name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/cpu.json"))
    parser.add_argument("--frames", type=int, nargs=2, default=[20, 220])
    options = parser.parse_args()
    results = Results(options.output)
    results.add("processor", f"{processor()}, {len(os.sched_getaffinity(0))} cores")
    with tempfile.TemporaryDirectory() as folder:
        few, many = (
            animate(Path(folder), frames, "--max_frames", "0", "--accelerate", "graphs") for frames in options.frames
        )
    per_frame = (many.seconds - few.seconds) / (options.frames[1] - options.frames[0])
    results.add("frames per second", round(1 / per_frame, 2))
    results.add("start in seconds", round(few.seconds - options.frames[0] * per_frame, 2))
    results.add("peak memory in MiB", round(many.peak_mib))


if __name__ == "__main__":
    main()
