"""The demo model as ONNX files on the CPU, beside the fused networks: networks one by one, and whole jobs.

    python -m benchmarks.onnx --output benchmarks/results/cpu_onnx.json
    python -m benchmarks.onnx --files FOLDER --sizes 256x256 --frames 0    # of `personalive export`; without whole jobs

All take turns in one process, so that what else runs on the machine slows all of them. Times are of two kinds: on the
clock, and of the processor, which other work changes less.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.cpu import processor
from benchmarks.measuring import Results
from personalive import weights
from personalive.accel.ops.onednn import multiplies_bf16
from personalive.animate.job import animate
from personalive.assets import DEMO_DRIVER, DEMO_PORTRAIT
from personalive.config import CHUNK, WINDOW
from personalive.engine import schedule
from personalive.engine.networks import Networks
from personalive.onnx.export import export
from personalive.onnx.manifest import Manifest
from personalive.onnx.networks import OnnxNetworks
from personalive.onnx.runtimes import OnnxRuntime, OpenVino, Runtime
from personalive.pipeline import PersonaLive
from personalive.settings import AnimateOptions

CPU = torch.device("cpu")
FUSED = "fused"


def models(files: Path) -> dict[str, PersonaLive]:
    """The demo model by what runs it; in bf16 too, as far as each does that, where the processor multiplies it."""
    manifest, threads = Manifest.read(files), torch.get_num_threads()
    runtimes: dict[str, Runtime] = {"ONNX Runtime": OnnxRuntime(CPU, threads), "OpenVINO": OpenVino(threads)}
    loaded = {FUSED: PersonaLive.from_pretrained("demo", device="cpu", dtype=torch.float32)}
    if multiplies_bf16():
        loaded["fused, bf16"] = PersonaLive.from_pretrained("demo", device="cpu")
        runtimes["OpenVINO, bf16"] = OpenVino(threads, rounded=True)
    return loaded | {
        name: PersonaLive(OnnxNetworks(files, manifest, CPU, runtime)) for name, runtime in runtimes.items()
    }


def calls(networks: Networks, size: tuple[int, int]) -> dict[str, Callable[[], Tensor]]:
    """What a step of four frames runs, and what a portrait and a keyframe do, by network."""
    config, random = networks.config, torch.Generator().manual_seed(0)
    channels, factor = config.unet.latent_channels, config.vae.factor

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random)

    latents = normal(WINDOW, channels, size[1] // factor, size[0] // factor)
    tokens = normal(WINDOW, config.motion_encoder.tokens, config.motion_encoder.token_width)
    pose = normal(WINDOW, config.unet.block_channels[0], *latents.shape[2:])
    embedding, keypoints = normal(1, 1, config.unet.cross_attention_dim), normal(CHUNK, 21, 3) / 3
    faces = normal(CHUNK, 3, *[config.motion_encoder.image_size] * 2)
    heads = normal(CHUNK, 3, *[config.motion_extractor.image_size] * 2)
    reference: Any = networks.encode_reference(latents[:1], embedding)
    times = schedule.inner_steps(4)[0].timesteps
    return {
        "denoising UNet": lambda: networks.denoise(latents, times, tokens, pose, reference),
        "VAE decoder": lambda: networks.decode(latents[:CHUNK]),
        "pose guider": lambda: networks.guide(keypoints, *size),
        "motion encoder": lambda: networks.encode_motion(faces),
        "motion extractor": lambda: networks.extract_pose(heads).canonical,
        "reference UNet": lambda: networks.encode_reference(latents[:1], embedding).tensors[-1],  # type: ignore[attr-defined]
    }


@torch.inference_mode()
def measure_networks(results: Results, loaded: Mapping[str, PersonaLive], size: tuple[int, int], rounds: int) -> None:
    """Processor and clock time of each call of each model, the least of some rounds, and the error."""
    runs = {name: calls(model.networks, size) for name, model in loaded.items()}
    for network in runs[FUSED]:
        expected = runs[FUSED][network]()
        errors = {name: float((run[network]() - expected).norm() / expected.norm()) for name, run in runs.items()}
        spent: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
        for _ in range(rounds):
            for name, run in runs.items():
                spent[name].append(timed(run[network]))
        for name, every in spent.items():
            clock, cpu = (round(min(column) * 1e3, 1) for column in zip(*every, strict=True))
            results.add(f"{network}, {size[0]}×{size[1]}, {name}", {"ms": clock, "cpu ms": cpu, "error": errors[name]})


def timed(run: Callable[[], Any]) -> tuple[float, float]:
    """Seconds on the clock and of the processor."""
    clock, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - clock, time.process_time() - cpu


def measure_jobs(results: Results, loaded: Mapping[str, PersonaLive], folder: Path, frames: int, rounds: int) -> None:
    """Frames a second from video file to video file, the median of some rounds after one that is not counted."""
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in loaded}
    options = AnimateOptions(max_frames=frames, overwrite=True)
    for turn in range(1 + rounds):
        for name, model in loaded.items():

            def job(model: PersonaLive = model) -> None:
                for _ in animate(model, DEMO_PORTRAIT, DEMO_DRIVER, folder / "result.mp4", options, cache=folder):
                    pass

            taken = timed(job)
            if turn:
                spent[name].append(taken)
    for name, every in spent.items():
        clock, cpu = (statistics.median(column) for column in zip(*every, strict=True))
        results.add(
            f"whole job of {frames} frames, {name}",
            {"frames a second": round(frames / clock, 2), "cpu seconds": round(cpu, 2)},
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/cpu_onnx.json"))
    parser.add_argument("--files", type=Path, help="of the demo model, in fp32 and free sizes; default: exported now")
    parser.add_argument("--sizes", nargs="*", default=["256x256", "512x512"])
    parser.add_argument("--frames", type=int, default=40, help="of whole jobs; 0: none")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    results = Results(options.output)
    threads, cores = torch.get_num_threads(), len(os.sched_getaffinity(0))
    results.add("processor", f"{processor()}, {cores} cores, {threads} threads")
    with tempfile.TemporaryDirectory() as name:
        files = options.files or Path(name) / "files"
        if options.files is None:
            list(export(weights.resolve("demo"), files))
        loaded = models(files)
        for size in options.sizes:
            width, height = map(int, size.split("x"))
            measure_networks(results, loaded, (width, height), options.rounds)
        if options.frames:
            measure_jobs(results, loaded, Path(name), options.frames, options.rounds)


if __name__ == "__main__":
    main()
