"""Whether memory grows with the length of a video: the demo model on the CPU, a short and a long one.

python -m benchmarks.memory --output benchmarks/results/memory.json
"""

import argparse
import tempfile
from pathlib import Path

from benchmarks.command import animate
from benchmarks.measuring import Results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/memory.json"))
    parser.add_argument("--frames", type=int, nargs=2, default=[300, 3000])
    options = parser.parse_args()
    results = Results(options.output)
    peaks = []
    with tempfile.TemporaryDirectory() as folder:
        for frames in options.frames:
            run = animate(Path(folder), frames)
            peaks.append(run.peak_mib)
            results.add(f"{frames} frames: peak in MiB", round(run.peak_mib))
            results.add(f"{frames} frames: seconds", round(run.seconds))
    results.add("growth in percent", round(100 * (peaks[1] / peaks[0] - 1), 2))


if __name__ == "__main__":
    main()
