"""`personalive benchmark`: how fast this machine is, in a few minutes and without downloading weights."""

import dataclasses
import gc
import json
import logging
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

import personalive
from personalive.accel.accelerator import Accelerator
from personalive.benchmark import whole_job
from personalive.benchmark.lifelike import lifelike
from personalive.benchmark.random_model import random_model
from personalive.config import CHUNK, WINDOW, ModelConfig
from personalive.engine.schedule import inner_steps
from personalive.errors import InputError, PersonaLiveError
from personalive.loading import ModelChoice
from personalive.onnx.networks import OnnxNetworks
from personalive.pipeline import PersonaLive

logger = logging.getLogger(__name__)

VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "--accelerate none": {"name": "none"},
    "--low_memory": {"low_memory": True},
    "--quantize fp8": {"quantize": "fp8"},
    "--accumulate fp16": {"accumulate": "fp16"},
}
"""What is measured on a GPU, by the option that chooses it."""
CALLS, CALLS_CPU = 20, 3
PART_RUNS = 5
JOB_FRAMES, JOB_FRAMES_CPU = 400, 32
"""Frames of the animation from file to file."""

Row = tuple[str, dict[str, float | str]]


def measure(device: torch.device, size: int | None = None) -> Iterator[Row]:
    """Everything, row by row: what was measured, and its figures.

    Args:
        size: width and height of the frames; default: the model's.
    """
    for name, load in variants(device):
        try:
            began = time.perf_counter()
            model = load()
            started = time.perf_counter() - began
            _release(device)  # making weights up takes more memory than reading them
            side = size or model.config.size
            ready: dict[str, float | str] = {"model ready, s": round(started, 1), "runs in": runs_in(model)}
            yield f"call, {name}", calls(model, side) | ready
            if name == "default":
                for part, ms in parts(model, side):
                    yield f"part, {part}", {"ms": ms}
                yield "file to file, frames a second", from_file_to_file(model, side)
        except (InputError, torch.OutOfMemoryError) as error:
            yield f"call, {name}", {"not measured": str(error).partition("\n")[0]}
        model = None  # type: ignore[assignment]
        _release(device)


def variants(device: torch.device) -> Iterator[tuple[str, Callable[[], PersonaLive]]]:
    """What is measured: by the option that chooses it, what makes the model.

    On a GPU it has the published sizes and weights by chance; on a CPU it is the demo model, as files are made with it,
    and once more in PyTorch if that is another way.
    """
    if device.type == "cuda":
        for name, choices in VARIANTS.items():
            yield name, partial(_random, device, choices)
        return
    choice = ModelChoice(model="demo", device=str(device))
    yield "default", choice.for_files().load
    if choice.for_files() != choice:
        yield "--accelerate graphs", choice.replace(accelerate="graphs").load


def _random(device: torch.device, choices: dict[str, Any]) -> PersonaLive:
    return random_model(ModelConfig(), Accelerator(device, torch.float16, **choices))


def runs_in(model: PersonaLive) -> str:
    """What computes a model's networks."""
    return model.networks.runtime_name if isinstance(model.networks, OnnxNetworks) else "PyTorch"


def calls(model: PersonaLive, size: int) -> dict[str, float | str]:
    """What a call of four frames takes, and the memory."""
    on_gpu = model.device.type == "cuda"
    stream, prepare = whole_job.started(model, size)
    box = (size // 8, size // 8, size - size // 8, size - size // 8)
    driving = prepare.driving(lifelike(2 * CHUNK, size), [box] * 2 * CHUNK)
    times = []
    for index in range((CALLS if on_gpu else CALLS_CPU) + 3):
        began = time.perf_counter()
        stream.push(driving[index % 2 * CHUNK :][:CHUNK])
        times.append(time.perf_counter() - began)
    usual = median(times[3:])
    found: dict[str, float | str] = {"ms": round(usual * 1e3, 1), "frames a second": round(CHUNK / usual, 1)}
    if on_gpu:
        found["reserved, GiB"] = round(torch.cuda.max_memory_reserved(model.device) / 2**30, 2)
    return found


@torch.inference_mode()
def parts(model: PersonaLive, size: int) -> Iterator[tuple[str, float]]:
    """Milliseconds of each network in a call."""
    config, networks = model.config, model.networks
    latent = size // config.vae.factor
    stream, _ = whole_job.started(model, size)
    reference = stream.require_state().reference

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device=model.device).to(model.dtype)

    encoder, side = config.motion_encoder, config.motion_extractor.image_size
    window, motion = random(WINDOW, config.vae.latent_channels, latent, latent), reference.motion.expand(WINDOW, -1, -1)
    pose = random(WINDOW, config.unet.block_channels[0], latent, latent)
    faces, images = random(CHUNK, 3, encoder.image_size, encoder.image_size), random(CHUNK, 3, side, side)
    times = inner_steps(4)[0].timesteps
    runs: dict[str, Callable[[], object]] = {
        "denoising UNet": lambda: networks.denoise(window, times, motion, pose, reference.features),
        "VAE decode": lambda: networks.decode(window[:CHUNK]),
        "motion encoder": lambda: networks.encode_motion(faces),
        "motion extractor": lambda: networks.extract_pose(images),
        "pose guider": lambda: networks.guide(torch.zeros(CHUNK, 21, 3, device=model.device), size, size),
    }
    for name, run in runs.items():
        spent = []
        for _ in range(PART_RUNS + 1 if model.device.type == "cuda" else 2):
            began = time.perf_counter()
            run()
            if model.device.type == "cuda":
                torch.cuda.synchronize(model.device)
            spent.append(time.perf_counter() - began)
        yield name, round(median(spent[1:]) * 1e3, 2)


def from_file_to_file(model: PersonaLive, size: int) -> dict[str, float | str]:
    """Reading, the model and writing alone, and all together."""
    on_gpu = model.device.type == "cuda"
    with tempfile.TemporaryDirectory() as folder:
        frames, count = (JOB_FRAMES, CALLS) if on_gpu else (JOB_FRAMES_CPU, CALLS_CPU)
        found = whole_job.measure(model, size, frames, count, Path(folder))
    return {name: round(value, 1) for name, value in dataclasses.asdict(found).items()}


def machine(device: torch.device) -> dict[str, str]:
    """What was measured on."""
    described = {
        "personalive": personalive.__version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "system": platform.platform(),
        "processor": _processor(),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        described["gpu"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
        described["cuda"] = str(torch.version.cuda)
    return described


def run(device: torch.device, output: Path | None) -> None:
    """Measure, print a table as it goes, and write everything as JSON.

    Raises:
        PersonaLiveError: the file cannot be written; that is found out before anything is measured.
    """
    results: dict[str, Any] = {"machine": machine(device)}
    for name, value in results["machine"].items():
        print(f"{name:32} {value}")
    _write(output, results)
    for name, figures in measure(device):
        results[name] = figures
        print(f"{name:32} {_line(figures)}", flush=True)
        _write(output, results)


def _line(figures: dict[str, float | str]) -> str:
    return "   ".join(f"{name} {value}" for name, value in figures.items())


def _write(output: Path | None, results: dict[str, Any]) -> None:
    if output is None:
        return
    try:
        output.write_text(json.dumps(results, indent=1) + "\n")
    except OSError as error:
        raise PersonaLiveError(f"the figures cannot be written to {output}: {error}") from error


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _release(device: torch.device) -> None:
    """Return a model's memory before the next one is made."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
