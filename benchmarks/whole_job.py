"""From a video file to a video file on one GPU, with random weights and frames as real results are.

    python -m benchmarks.whole_job --output benchmarks/results/whole_job.json

Reading, the model and writing are measured alone, then all together: 800 frames of 512×512 with sound, face boxes by
keypoints. `personalive benchmark` does the same in less time.
"""

import argparse
import dataclasses
import tempfile
from pathlib import Path

import torch

from benchmarks.measuring import Results
from personalive.accel.accelerator import Accelerator
from personalive.benchmark.random_model import random_model
from personalive.benchmark.whole_job import measure
from personalive.config import ModelConfig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/whole_job.json"))
    parser.add_argument("--frames", type=int, default=800)
    parser.add_argument("--size", type=int, default=512, help="width and height in pixels")
    parser.add_argument("--calls", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=1)
    options = parser.parse_args()
    results = Results(options.output)
    model = random_model(ModelConfig(), Accelerator(torch.device("cuda"), torch.float16))
    for index in range(options.repeats):
        with tempfile.TemporaryDirectory() as folder:
            row = measure(model, options.size, options.frames, options.calls, Path(folder))
        rounded = {name: round(value, 2) for name, value in dataclasses.asdict(row).items()}
        results.add(f"frames a second, run {index + 1}", rounded)


if __name__ == "__main__":
    main()
