"""Speed, memory and error of the model on one GPU, per part and for whole calls; random weights, nothing is downloaded.

    python -m benchmarks.gpu --output benchmarks/results/gpu.json

A call takes images on the host and returns 4 uint8 frames on the host. Every measurement is independent: one that fails
is noted, and the others continue.
"""

import time

STARTED = time.perf_counter()

import argparse  # noqa: E402
import gc  # noqa: E402
import resource  # noqa: E402
import statistics  # noqa: E402
from collections.abc import Callable  # noqa: E402
from concurrent.futures import ThreadPoolExecutor  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any, get_args  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402

from benchmarks.gpu_model import GPU, Animation, Pixels, build, gibibytes, spread  # noqa: E402
from benchmarks.measuring import Results, milliseconds, wall_milliseconds  # noqa: E402
from personalive.accel.accelerator import Accelerator  # noqa: E402
from personalive.config import CHUNK, WINDOW, ModelConfig  # noqa: E402
from personalive.engine.schedule import inner_steps  # noqa: E402
from personalive.pipeline import PersonaLive  # noqa: E402
from personalive.types import AcceleratorName, AccumulateName, QuantizeName  # noqa: E402

IMPORTED = time.perf_counter()
TFLOP = {"denoise": 24.052, "denoise per keyframe": 2.369, "decode": 10.058, "encode_motion": 0.397, "guide": 0.059,
         "extract_pose": 0.047}  # fmt: skip
"""Of one call at 512×512 (docs/reference/streaming.md section 16), so that rates compare with other implementations."""


class Benchmark:
    """The measurements of one acceleration."""

    def __init__(self, results: Results, options: argparse.Namespace) -> None:
        self.results, self.options = results, options
        self.dtype = getattr(torch, options.dtype)
        self.config = ModelConfig()
        self.name = f"{options.accelerate}, {options.dtype}"
        self.name += "" if options.quantize == "none" else f", {options.quantize}"
        self.name += "" if options.accumulate == "fp32" else f", {options.accumulate} sums"
        self.name += ", tiny VAE" if options.tiny_vae else ""

    def start(self) -> PersonaLive:
        """Everything from the start of the process to the first frame, but for weights: they are made up, not read."""
        times = {"import_s": IMPORTED - STARTED}
        began = time.perf_counter()
        self.choice = choice = Accelerator(
            GPU,
            self.dtype,
            self.options.accelerate,
            low_memory=self.options.low_memory,
            quantize=self.options.quantize,
            accumulate=self.options.accumulate,
        )
        times["choose_s"] = time.perf_counter() - began
        began = time.perf_counter()
        model = build(self.config, self.dtype, choice, tiny_vae=self.options.tiny_vae, times=times)
        torch.cuda.synchronize()
        times["build_s"] = time.perf_counter() - began - times["weights_made_up_s"]
        began = time.perf_counter()
        animation = Animation(model, self.options.size)
        times["reference_s"] = time.perf_counter() - began
        began = time.perf_counter()
        animation.push()
        times["first_call_s"] = time.perf_counter() - began
        began = time.perf_counter()
        animation.push()
        times["second_call_s"] = time.perf_counter() - began
        times["until_first_frame_s"] = time.perf_counter() - STARTED - times["weights_made_up_s"]
        self.results.add(f"start, {self.name}", {name: round(value, 2) for name, value in times.items()})
        return model

    def calls(self, model: PersonaLive) -> None:
        for keyframes in self.options.keyframes:
            with self.results.attempt(f"call, {keyframes} keyframes"):
                animation = Animation(model, self.options.size, keyframes)
                for _ in range(keyframes + 3):
                    animation.push()
                assert animation.stream.keyframe_count == keyframes
                row = spread(wall_milliseconds(animation.push, self.options.repeats))
                self.results.add(f"call, {keyframes} keyframes, {self.name}", row | gibibytes())
                if keyframes == 0:
                    self.host(animation)

    def host(self, animation: Animation) -> None:
        """What a call takes with the preparation of its pictures, in another thread and in its own."""
        with ThreadPoolExecutor(1) as pool:
            runs: dict[str, Callable[[], Any]] = {
                "pictures prepared by another thread meanwhile": lambda: animation.push_ahead(pool),
                "pictures prepared within the call": animation.push_pictures,
                "preparation of four pictures alone": animation.prepare,
            }
            for name, run in runs.items():
                run()
                self.results.add(f"{name}, {self.name}", spread(wall_milliseconds(run, self.options.repeats)))
        torch.cuda.synchronize()
        times = []
        for _ in range(self.options.repeats):
            started = time.perf_counter()
            networks, chunk = animation.stream.networks, animation.next_chunk()
            assert chunk.faces is not None  # made with boxes
            images, faces = networks.upload([chunk.pose_images]), networks.upload([chunk.faces])
            times.append((time.perf_counter() - started) * 1e3)
            torch.cuda.synchronize()
            del images, faces
        self.results.add("host's time to start both uploads, ms", round(statistics.median(times), 3))

    @torch.inference_mode()
    def parts(self, model: PersonaLive) -> None:
        size, config = self.options.size, self.config
        latent, frames = size // config.vae.factor, torch.Generator("cuda").manual_seed(0)

        def random(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=frames, device="cuda").to(self.dtype)

        animation = Animation(model, size)
        reference = animation.stream.require_state().reference
        times, networks = inner_steps(4)[0].timesteps, model.networks
        motion, pose = random(WINDOW, 32, 16), random(WINDOW, config.unet.block_channels[0], latent, latent)
        window = random(WINDOW, 4, latent, latent)
        features: list[Any] = [reference.features]
        for _ in range(3):
            features.append(features[-1].with_keyframe(reference.features))
        faces, images = random(CHUNK, 3, 224, 224), random(CHUNK, 3, 256, 256)
        keypoints = random(CHUNK, 21, 3).float()
        runs: dict[str, Any] = {
            "extract_pose": lambda: networks.extract_pose(images),
            "encode_motion": lambda: networks.encode_motion(faces),
            "guide": lambda: networks.guide(keypoints, size, size),
            "decode": lambda: networks.decode(window[:CHUNK]),
            "encode_reference": lambda: networks.encode_reference(window[:1], reference.embedding),
        }
        for count, known in enumerate(features):
            runs[f"denoise, {count} keyframes"] = lambda known=known: networks.denoise(
                window, times, motion, pose, known
            )
        for name, run in runs.items():
            with self.results.attempt(name):
                row = {"ms": round(milliseconds(run, 10), 3)}
                kind, _, rest = name.partition(", ")
                if kind in TFLOP and size == 512:
                    work = TFLOP[kind] + TFLOP["denoise per keyframe"] * (int(rest.split()[0]) if rest else 0)
                    row |= {"tflop": work, "tflops": round(work / row["ms"] * 1e3, 1)}
                self.results.add(f"part: {name}, {self.name}", row)

    def profile(self, model: PersonaLive) -> None:
        """Kernels by time over a few calls."""
        animation = Animation(model, self.options.size)
        for _ in range(3):
            animation.push()
        calls = 3
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
            for _ in range(calls):
                animation.push()
            torch.cuda.synchronize()
        rows = sorted(profiler.key_averages(), key=lambda event: -event.self_device_time_total)
        total = sum(event.self_device_time_total for event in rows) / calls / 1e3
        self.results.add(f"kernels: sum in ms, {self.name}", round(total, 2))
        self.results.values[f"kernels, {self.name}"] = [
            [event.key[:110], round(event.self_device_time_total / calls / 1e3, 3), event.count // calls]
            for event in rows[:60]
        ]
        for key, ms, count in self.results.values[f"kernels, {self.name}"][:28]:
            print(f"  {ms:8.3f} ms {count:5} x {key}")

    def endurance(self, model: PersonaLive) -> None:
        """Whether time and memory stay as they are."""
        animation = Animation(model, self.options.size)
        times: list[float] = []
        memory: list[dict[str, float]] = []
        for call in range(self.options.long // CHUNK):
            times += wall_milliseconds(animation.push, 1)
            if call + 1 in (100, self.options.long // CHUNK):
                memory.append(held())
            if call % 250 == 0:
                print(f"  call {call}: {statistics.median(times[-50:]):.2f} ms", flush=True)
        early, late = statistics.median(times[50:150]), statistics.median(times[-100:])
        row: dict[str, Any] = {
            "frames": len(times) * CHUNK,
            "calls_50_to_150_ms": round(early, 3),
            "last_100_calls_ms": round(late, 3),
            "slower_percent": round(100 * (late / early - 1), 2),
        }
        for name in memory[0]:
            first, last = memory[0][name], memory[-1][name]
            row |= {f"{name}_gib, call 100 and end": [round(first, 4), round(last, 4)]}
            row |= {f"{name}, more_percent": round(100 * (last / first - 1), 2)}
        self.results.add(f"endurance, {self.name}", row)

    def agreement(self, model: PersonaLive) -> None:
        """Frames against those of the unaccelerated model, and of both against float32.

        Random weights in full size magnify rounding: all three come out alike, so this finds gross faults only. What
        acceleration does to pictures is for `benchmarks.precision`.
        """
        mine = self._frames(model)
        model_free(model)
        plain = self._frames(build(self.config, self.dtype, None))
        exact = self._frames(build(self.config, torch.float32, None))
        rows = {
            "accelerated against plain": (mine, plain),
            "accelerated against float32": (mine, exact),
            "plain against float32": (plain, exact),
        }
        for name, (a, b) in rows.items():
            a, b = a.astype(np.float32), b.astype(np.float32)
            per_frame = np.sqrt(((a - b) ** 2).sum(axis=(1, 2, 3)) / (b**2).sum(axis=(1, 2, 3)))
            row = {"mean": round(float(per_frame.mean()), 5), "max": round(float(per_frame.max()), 5)}
            row["mean_difference_of_255"] = round(float(np.abs(a - b).mean()), 4)
            self.results.add(f"relative L2 per frame: {name}, {self.name}", row)

    def _frames(self, model: PersonaLive) -> Pixels:
        animation = Animation(model, self.options.size, keyframes=1)
        frames = np.concatenate([animation.push() for _ in range(8)])
        del animation, model
        gc.collect()
        torch.cuda.empty_cache()
        return frames


def held() -> dict[str, float]:
    """GiB that the process has at most had on the host and that PyTorch has reserved on the device and in tensors."""
    return {
        "reserved": torch.cuda.memory_reserved() / 2**30,
        "tensors": torch.cuda.memory_allocated() / 2**30,
        "host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def model_free(model: PersonaLive) -> None:
    """Return the GPU's memory, even if something still refers to the model."""
    vars(model.networks).clear()
    gc.collect()
    torch.cuda.empty_cache()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/gpu.json"))
    parser.add_argument("--accelerate", choices=get_args(AcceleratorName), default="graphs")
    parser.add_argument("--dtype", choices=("float16", "bfloat16"), default="float16")
    parser.add_argument("--low_memory", action="store_true")
    parser.add_argument("--quantize", choices=get_args(QuantizeName), default="none")
    parser.add_argument("--accumulate", choices=get_args(AccumulateName), default="fp32")
    parser.add_argument("--tiny_vae", action="store_true", help="a tiny decoder with random weights")
    parser.add_argument("--size", type=int, default=512, help="width and height in pixels")
    parser.add_argument("--keyframes", type=int, nargs="*", default=[0, 1, 2, 3])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--long", type=int, default=0, help="frames of the endurance run")
    parser.add_argument("--skip", nargs="*", default=[], help="calls, parts, profile, agreement")
    options = parser.parse_args()
    benchmark = Benchmark(Results(options.output), options)
    benchmark.results.add("options", {name: str(value) for name, value in vars(options).items()})
    model = benchmark.start()
    steps = ["calls", "parts", "profile"]
    steps += (["endurance"] if options.long else []) + ["agreement"]
    for step in steps:
        if step in options.skip:
            continue
        with benchmark.results.attempt(step):
            torch.cuda.reset_peak_memory_stats()
            getattr(benchmark, step)(model)
    benchmark.results.add("attention", benchmark.choice.attention.choices)


if __name__ == "__main__":
    main()
