"""Runs the command line in a process of its own and measures it."""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from personalive.testing.pictures import moving_face, photograph, save_image, save_video


@dataclass(frozen=True)
class Run:
    """One run of the command line."""

    seconds: float
    peak_mib: float
    """The most memory that the process held at once, not counting the encoder and decoder that it starts."""


def inputs(folder: Path, frames: int) -> tuple[Path, Path]:
    """A portrait and a driving video of some frames, in which a face moves back and forth."""
    portrait = save_image(folder / "portrait.png", photograph())
    there = moving_face(min(frames, 20))
    pictures = (there + there[::-1]) * (frames // (2 * len(there)) + 1)
    return portrait, save_video(folder / f"driver_{frames}.mp4", pictures[:frames])


def animate(folder: Path, frames: int, *options: str) -> Run:
    """Animate a video of some frames with the demo model on the CPU.

    Raises:
        RuntimeError: the command failed.
    """
    portrait, driver = inputs(folder, frames)
    command = [sys.executable, "-m", "personalive.cli.main", "animate"]
    command += ["--ref_image", str(portrait), "--driving_video", str(driver)]
    command += [
        "--output",
        str(folder / f"out_{frames}.mp4"),
        "--overwrite",
        "--model",
        "demo",
        "--device",
        "cpu",
        *options,
    ]
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    if status:
        raise RuntimeError(f"{' '.join(command)} ended with status {os.waitstatus_to_exitcode(status)}")
    return Run(seconds, usage.ru_maxrss / 1024)
