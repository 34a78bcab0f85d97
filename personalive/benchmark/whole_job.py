"""From a video file to a video file: reading, the model and writing, each alone and all together."""

import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from statistics import median

import numpy as np

from personalive.animate.driving_reader import DrivingReader
from personalive.animate.job import animate
from personalive.animate.plan import plan_driving
from personalive.animate.replay import Presences
from personalive.assets import DEMO_PORTRAIT
from personalive.benchmark.lifelike import finishing, lifelike
from personalive.config import CHUNK, MAX_KEYFRAME_THRESHOLD
from personalive.engine.preprocess import Preprocessor
from personalive.engine.stream import Stream
from personalive.media.encoding import VideoFormat
from personalive.media.ffmpeg import find_ffmpeg
from personalive.media.images import read_image
from personalive.media.sound import Sound
from personalive.media.video_reader import probe
from personalive.media.write_ahead import write_ahead
from personalive.pipeline import PersonaLive
from personalive.settings import AnimateOptions
from personalive.types import RGBArray

RATE = Fraction(25)
OPTIONS = AnimateOptions(
    max_frames=0,
    crop="center",
    face_boxes="keypoints",
    keyframe_threshold=MAX_KEYFRAME_THRESHOLD,
    overwrite=True,
)
"""Nothing has to look for faces, so the extra for it need not be there; and there are no keyframes, which cost time."""
DISTINCT = 100
"""Different frames of a driver and of a result; longer ones repeat them."""


@dataclass(frozen=True)
class WholeJob:
    """Frames a second of each part alone, and of all together."""

    frames: int
    reading: float
    model: float
    """Calls one after another, their pictures ready, each one's frames taken out before the next begins."""
    writing: float
    together: float
    """From the first file that is opened to the finished result, encoding the portrait included."""
    seconds: float
    """What that took."""
    host_growth_mib: float
    """By how much the process' memory grew over the second half."""


def measure(model: PersonaLive, size: int, frames: int, calls: int, folder: Path) -> WholeJob:
    """Animate a driver of so many frames at size × size pixels, with sound.

    Args:
        calls: of the model alone.
        folder: for a few files, which are left there.
    """
    pictures = lifelike(min(frames, DISTINCT), size)
    driver = make_driver(pictures, frames, folder / "driver.mp4")
    run_job(model, driver, pictures, folder / "warm.mp4", options=OPTIONS.replace(max_frames=8 * CHUNK))
    reading, writing = _reading(model, driver, size, frames), _writing(pictures, driver, frames, folder / "written.mp4")
    alone = _calls(model, size, pictures, calls)
    began = time.perf_counter()
    memory = run_job(model, driver, pictures, folder / "result.mp4")
    seconds = time.perf_counter() - began
    growth = memory[-1] - memory[len(memory) // 2]
    return WholeJob(frames, reading, CHUNK / alone, writing, frames / seconds, seconds, growth)


def make_driver(pictures: Sequence[RGBArray], frames: int, path: Path) -> Path:
    """A video of so many frames, uint8 [h,w,3], which go round, with a tone."""
    silent = path.with_stem("silent")
    height, width, _ = pictures[0].shape
    with write_ahead(silent, VideoFormat(width, height, RATE, "benchmark"), overwrite=True) as writer:
        for index in range(frames):
            writer.write(pictures[index % len(pictures)][None])
        writer.finish()
    tone = ("-f", "lavfi", "-i", f"sine=frequency=440:duration={float(frames / RATE)}")
    command = [find_ffmpeg(), "-y", "-loglevel", "error", "-i", str(silent), *tone, "-c:v", "copy", str(path)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return path


def _reading(model: PersonaLive, driver: Path, size: int, frames: int) -> float:
    began = time.perf_counter()
    search = plan_driving(driver, (size, size), OPTIONS, None)
    try:
        while True:
            next(search)
    except StopIteration as end:
        plan = end.value
    with DrivingReader(plan, model.preprocessor(size, size), Presences(plan.rate, (), None)) as reader:
        found = sum(len(chunk.driving) for chunk in reader)
    assert found == frames
    return frames / (time.perf_counter() - began)


def _writing(pictures: Sequence[RGBArray], driver: Path, frames: int, path: Path) -> float:
    height, width, _ = pictures[0].shape
    chunks = [np.stack(pictures[start : start + CHUNK]) for start in range(0, len(pictures), CHUNK)]
    began = time.perf_counter()
    format_ = VideoFormat(width, height, RATE, "benchmark")
    with write_ahead(path, format_, sound=Sound(probe(driver)), overwrite=True) as writer:
        while writer.frames < frames:
            writer.write(chunks[writer.frames // CHUNK % len(chunks)])
        writer.finish()
    return frames / (time.perf_counter() - began)


def _calls(model: PersonaLive, size: int, pictures: Sequence[RGBArray], calls: int) -> float:
    """The median of a call's seconds."""
    stream, prepare = started(model, size)
    box = (size // 8, size // 8, size - size // 8, size - size // 8)
    driving = prepare.driving(pictures[: 5 * CHUNK], [box] * 5 * CHUNK)
    times = []
    for index in range(calls + CHUNK):
        start = index * CHUNK % len(driving)
        began = time.perf_counter()
        stream.push(driving[start : start + CHUNK])
        times.append(time.perf_counter() - began)
    return median(times[CHUNK:])


def started(model: PersonaLive, size: int) -> tuple[Stream, Preprocessor]:
    """A stream of the demo's portrait, and what prepares pictures for it."""
    stream = model.stream(width=size, height=size, keyframe_threshold=MAX_KEYFRAME_THRESHOLD)
    image = read_image(DEMO_PORTRAIT)
    stream.set_reference(stream.preprocessor.reference(image, (0, 0, image.shape[1], image.shape[0])))
    return stream, stream.preprocessor


def run_job(
    model: PersonaLive, driver: Path, pictures: Sequence[RGBArray], output: Path, options: AnimateOptions = OPTIONS
) -> list[float]:
    """Animate the demo's portrait; what is written are `pictures`, square, as those of random weights are noise.

    Returns:
        The process' memory in MiB after each step.
    """
    size = len(pictures[0])
    with finishing(model.networks, pictures):
        steps = animate(model, DEMO_PORTRAIT, driver, output, options.replace(width=size, height=size))
        return [_resident_mib() for _ in steps]


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
