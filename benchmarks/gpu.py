"""Speed, memory and error of the model on one GPU, per part and for whole calls; random weights, nothing is downloaded.

    python -m benchmarks.gpu --output benchmarks/results/gpu.json

A call takes host images in and gives uint8 frames on the host: 4 frames. Every measurement is independent: one that
fails is written down and the others go on.
"""

import time

STARTED = time.perf_counter()

import argparse  # noqa: E402
import gc  # noqa: E402
import math  # noqa: E402
import statistics  # noqa: E402
from collections.abc import Callable, Sequence  # noqa: E402
from concurrent.futures import Future, ThreadPoolExecutor  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any, TypeAlias  # noqa: E402

import numpy as np  # noqa: E402
import numpy.typing as npt  # noqa: E402
import torch  # noqa: E402

from benchmarks.measuring import Results, milliseconds, wall_milliseconds  # noqa: E402
from personalive import acceleration, models  # noqa: E402
from personalive.acceleration import ACCELERATIONS, Acceleration  # noqa: E402
from personalive.config import FRAMES, WINDOW, ModelConfig  # noqa: E402
from personalive.driving import DrivingFrames  # noqa: E402
from personalive.keyframes import KeyframeDecision, KeyframeTest  # noqa: E402
from personalive.pipeline import PersonaLive  # noqa: E402
from personalive.sampler import inner_steps  # noqa: E402
from personalive.stream import Stream  # noqa: E402
from personalive.transfer import upload  # noqa: E402
from tests.weight_rule import CORRECTIONS, is_ruled  # noqa: E402

IMPORTED = time.perf_counter()
GPU = torch.device("cuda")
Pixels: TypeAlias = npt.NDArray[np.uint8]
TFLOP = {"denoise": 24.052, "denoise per keyframe": 2.369, "decode": 10.058, "encode_motion": 0.397, "guide": 0.059,
         "extract_pose": 0.047}  # fmt: skip
"""Of one call at 512×512 (spec/streaming.md section 16), so that achieved rates compare with other implementations."""


def fill(network: torch.nn.Module, name: str, seed: int) -> None:
    """Random weights with the scales of the weight rule, drawn on the device: quick, and the same at each run."""
    with torch.no_grad():
        for index, (key, tensor) in enumerate(network.state_dict().items()):
            if not is_ruled(key):
                continue
            generator = torch.Generator(tensor.device).manual_seed(seed * 100_003 + index)
            normal = torch.randn(tensor.shape, generator=generator, device=tensor.device)
            tensor.copy_(_ruled(normal, name, key))


def _ruled(normal: torch.Tensor, name: str, key: str) -> torch.Tensor:
    last = key.rpartition(".")[2]
    if last == "running_mean":
        value = 0.1 * normal
    elif last == "running_var":
        value = 1 + 0.1 * normal.abs()
    elif last in ("gamma", "beta"):
        value = 0.2 * normal
    elif normal.dim() >= 2:
        value = normal * ((2.0 if name == "pose_guider" else 1.0) / math.sqrt(normal[0].numel()))
    else:
        value = 1 + 0.1 * normal if normal.dim() == 1 and last == "weight" else 0.02 * normal
    factor, offset = CORRECTIONS.get((name, key), (1.0, 0.0))
    if name == "denoising_unet" and "motion_modules." in key and key.endswith(("to_k.weight", "to_v.weight")):
        factor = 0.3
    return value * factor + offset


def build(
    config: ModelConfig, dtype: torch.dtype, choice: Acceleration | None, device: torch.device = GPU
) -> PersonaLive:
    """A model with random weights."""
    networks = {}
    for number, name in enumerate(models.NETWORKS):
        with torch.device("meta"):
            network = models.build_network(name, config)
        tables = {key: b.clone() for key, b in network.named_buffers() if not b.is_meta}
        network = models.cast(network, dtype).to_empty(device=device)
        for key, table in tables.items():
            owner, _, last = key.rpartition(".")
            buffer = network.get_submodule(owner).get_buffer(last)
            buffer.copy_(table)
        fill(network, name, number)
        networks[name] = network
    return PersonaLive(config, networks, dtype, choice)


def pictures(count: int, size: int, seed: int) -> list[Pixels]:
    """Coloured blocks that move a little from frame to frame."""
    generator = np.random.default_rng(seed)
    blocks = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    image = np.kron(blocks, np.ones((size // 8, size // 8, 1), dtype=np.uint8))
    return [np.roll(image, 3 * frame, axis=1) for frame in range(count)]


class Keyframes:
    """Makes a keyframe at each of the first calls until there are as many as wanted."""

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted

    def __call__(self, test: KeyframeTest) -> KeyframeDecision:
        return KeyframeDecision(None, test.keyframes < self.wanted)


class Animation:
    """A stream with prepared driving frames, which go round."""

    def __init__(self, model: PersonaLive, size: int, keyframes: int = 0, seed: int = 0) -> None:
        self.stream = Stream(model, width=size, height=size, emit_ramp=True, keyframes=Keyframes(keyframes), seed=seed)
        prepare = self.stream.preprocessor
        box = (size // 8, size // 8, size - size // 8, size - size // 8)
        self.box = box
        self.images = images = pictures(5 * WINDOW, size, seed)
        self.ahead: Future[DrivingFrames] | None = None
        self.stream.set_reference(prepare.reference(images[0], box))
        self.driving = prepare.driving(images, [box] * len(images))
        self.calls = 0

    def next_chunk(self) -> DrivingFrames:
        start = self.calls * WINDOW % len(self.driving)
        self.calls += 1
        return self.driving[start : start + WINDOW]

    def push(self) -> Pixels:
        return self.stream.push(self.next_chunk())

    def prepare(self) -> DrivingFrames:
        """The host's part of a chunk: pictures to tensors. While an animation runs, other threads do it."""
        return self.stream.preprocessor.driving(self.images[:WINDOW], [self.box] * WINDOW)

    def push_pictures(self) -> Pixels:
        """A call that prepares its pictures itself."""
        return self.stream.push(self.prepare())

    def push_ahead(self, pool: ThreadPoolExecutor) -> Pixels:
        """A call while another thread prepares the pictures of the next."""
        chunk = self.ahead.result() if self.ahead else self.prepare()
        self.ahead = pool.submit(self.prepare)
        return self.stream.push(chunk)


def spread(times: Sequence[float]) -> dict[str, float]:
    """Median, extremes and frames per second of calls."""
    ordered = sorted(times)
    median = statistics.median(ordered)
    return {
        "median_ms": round(median, 2),
        "p10_ms": round(ordered[len(ordered) // 10], 2),
        "p90_ms": round(ordered[len(ordered) * 9 // 10], 2),
        "fps": round(WINDOW * 1e3 / median, 2),
    }


def gibibytes() -> dict[str, float]:
    """Memory that PyTorch has held at most."""
    return {
        "reserved_gib": round(torch.cuda.max_memory_reserved() / 2**30, 3),
        "allocated_gib": round(torch.cuda.max_memory_allocated() / 2**30, 3),
    }


class Benchmark:
    """The measurements of one acceleration."""

    def __init__(self, results: Results, options: argparse.Namespace) -> None:
        self.results, self.options = results, options
        self.dtype = getattr(torch, options.dtype)
        self.config = ModelConfig()
        self.name = f"{options.accelerate}, {options.dtype}"

    def start(self) -> PersonaLive:
        """Everything from the start of the process to the first frame, but the reading of weights."""
        times = {"import_s": IMPORTED - STARTED}
        began = time.perf_counter()
        self.choice = choice = Acceleration(
            GPU, self.dtype, self.options.accelerate, low_memory=self.options.low_memory
        )
        times["choose_s"] = time.perf_counter() - began
        began = time.perf_counter()
        model = build(self.config, self.dtype, choice)
        torch.cuda.synchronize()
        times["build_s"] = time.perf_counter() - began
        began = time.perf_counter()
        animation = Animation(model, self.options.size)
        times["reference_s"] = time.perf_counter() - began
        began = time.perf_counter()
        animation.push()
        times["first_call_s"] = time.perf_counter() - began
        began = time.perf_counter()
        animation.push()
        times["second_call_s"] = time.perf_counter() - began
        times["until_first_frame_s"] = time.perf_counter() - STARTED
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
            model, chunk = animation.stream.model, animation.next_chunk()
            assert chunk.faces is not None  # made with boxes
            images, faces = upload(chunk.pose_images, model.device), upload(chunk.faces, model.device)
            times.append((time.perf_counter() - started) * 1e3)
            torch.cuda.synchronize()
            del images, faces
        self.results.add("host's time to start both uploads, ms", round(statistics.median(times), 3))

    def batches(self, model: PersonaLive) -> None:
        for count in self.options.batches:
            with self.results.attempt(f"{count} streams"):
                animations = [Animation(model, self.options.size, seed=seed) for seed in range(count)]
                streams = [animation.stream for animation in animations]

                def push(animations: list[Animation] = animations, streams: list[Stream] = streams) -> None:
                    model.advance(streams, [animation.next_chunk() for animation in animations])

                for _ in range(3):
                    push()
                row = spread(wall_milliseconds(push, max(4, self.options.repeats // 2)))
                row["fps_all_streams"] = round(row["fps"] * count, 2)
                self.results.add(f"{count} streams in one call, {self.name}", row | gibibytes())

    @torch.inference_mode()
    def parts(self, model: PersonaLive) -> None:
        size, config = self.options.size, self.config
        latent, frames = size // config.vae.factor, torch.Generator("cuda").manual_seed(0)

        def random(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=frames, device="cuda").to(self.dtype)

        animation = Animation(model, size)
        reference, _ = animation.stream.begun()
        time_features = model.embed_time(inner_steps(4)[0].timesteps)
        motion, pose = random(FRAMES, 32, 16), random(FRAMES, config.unet.block_channels[0], latent, latent)
        window = random(FRAMES, 4, latent, latent)
        features = [reference.features]
        for _ in range(3):
            features.append(features[-1].with_keyframe(reference.features))
        faces, images = random(WINDOW, 3, 224, 224), random(WINDOW, 3, 256, 256)
        keypoints = random(WINDOW, 21, 3).float()
        runs: dict[str, Any] = {
            "extract_pose": lambda: model.extract_pose(images),
            "encode_motion": lambda: model.encode_motion(faces),
            "guide": lambda: model.guide(keypoints, size, size),
            "decode": lambda: model.decode(window[:WINDOW]),
            "reference_features": lambda: model.reference_features(window[:1], reference.embedding),
        }
        for count, known in enumerate(features):
            runs[f"denoise, {count} keyframes"] = lambda known=known: model.denoise(
                window, time_features, motion, pose, [known]
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
        for _ in range(100):
            times += wall_milliseconds(animation.push, 1)
        before = torch.cuda.memory_allocated()
        for call in range(100, self.options.long // WINDOW):
            times += wall_milliseconds(animation.push, 1)
            if call % 250 == 0:
                print(f"  call {call}: {statistics.median(times[-50:]):.2f} ms", flush=True)
        row = {
            "frames": len(times) * WINDOW,
            "calls_50_to_100_ms": round(statistics.median(times[50:100]), 3),
            "last_50_calls_ms": round(statistics.median(times[-50:]), 3),
            "allocated_at_call_100_gib": round(before / 2**30, 4),
            "allocated_at_end_gib": round(torch.cuda.memory_allocated() / 2**30, 4),
        }
        self.results.add(f"endurance, {self.name}", row)

    def agreement(self, model: PersonaLive) -> None:
        """Frames against those of the unaccelerated model, and of both against float32."""
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

    def together(self, model: PersonaLive) -> None:
        """Streams that advance in one call against each of them alone."""
        count, calls = max(self.options.batches), 6
        batched = [Animation(model, self.options.size, keyframes=seed % 2, seed=seed) for seed in range(count)]
        streams = [animation.stream for animation in batched]
        results = [model.advance(streams, [a.next_chunk() for a in batched]) for _ in range(calls)]
        errors = []
        for seed in range(count):
            alone = Animation(model, self.options.size, keyframes=seed % 2, seed=seed)
            a = np.concatenate([alone.push() for _ in range(calls)]).astype(np.float32)
            b = np.concatenate([result[seed] for result in results]).astype(np.float32)
            errors.append(round(float(np.linalg.norm(a - b) / np.linalg.norm(a)), 6))
        self.results.add(f"relative L2: {count} streams in one call against each alone, {self.name}", errors)

    def _frames(self, model: PersonaLive) -> Pixels:
        animation = Animation(model, self.options.size, keyframes=1)
        frames = np.concatenate([animation.push() for _ in range(8)])
        del animation, model
        gc.collect()
        torch.cuda.empty_cache()
        return frames


def model_free(model: PersonaLive) -> None:
    """Give the GPU's memory back, whoever still knows the model."""
    for network in vars(model).copy():
        delattr(model, network)
    gc.collect()
    torch.cuda.empty_cache()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/gpu.json"))
    parser.add_argument("--accelerate", choices=ACCELERATIONS, default=acceleration.DEFAULT_ACCELERATION)
    parser.add_argument("--dtype", choices=("float16", "bfloat16"), default="float16")
    parser.add_argument("--low_memory", action="store_true")
    parser.add_argument("--size", type=int, default=512, help="width and height in pixels")
    parser.add_argument("--keyframes", type=int, nargs="*", default=[0, 1, 2, 3])
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 2, 4], help="streams per call")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--long", type=int, default=0, help="frames of the endurance run")
    parser.add_argument("--skip", nargs="*", default=[], help="calls, parts, profile, batches...")
    options = parser.parse_args()
    benchmark = Benchmark(Results(options.output), options)
    benchmark.results.add("options", {name: str(value) for name, value in vars(options).items()})
    model = benchmark.start()
    steps = ["calls", "parts", "profile", "batches", "together"]
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
