"""Several streams on one GPU, and how much a network should take at once; random weights.

python -m benchmarks.gpu_streams --output benchmarks/results/gpu_streams.json
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from benchmarks.gpu_model import GPU, Animation, build, gibibytes, spread
from benchmarks.measuring import Results, joules, milliseconds, wall_milliseconds
from personalive.accel.accelerator import AcceleratedNetworks, Accelerator
from personalive.accel.fuse import transformers as fused
from personalive.config import CHUNK, WINDOW, ModelConfig
from personalive.engine.schedule import inner_steps
from personalive.types import AcceleratorName

ROWS = (4096, 8192, 16384, 32768, 1 << 30)
KEYS = (2**24, 2**25, 2**26, 1 << 40)


@contextmanager
def set_to(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Give a module's or an object's attribute another value for a while."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


class Streams:
    """The measurements."""

    def __init__(self, results: Results, options: argparse.Namespace) -> None:
        self.results, self.options = results, options
        self.dtype = getattr(torch, options.dtype)
        self.choice = Accelerator(GPU, self.dtype, options.accelerate)
        self.model = build(ModelConfig(), self.dtype, self.choice)

    @torch.inference_mode()
    def amounts(self) -> None:
        """Times of the networks for different amounts at once, each captured again."""
        networks, animation = self.model.networks, Animation(self.model, self.options.size)
        assert isinstance(networks, AcceleratedNetworks)
        config, timesteps = networks.config, inner_steps(4)[0].timesteps
        latent = self.options.size // config.vae.factor
        known: list[Any] = [animation.stream.require_state().reference.features]
        for _ in range(3):
            known.append(known[-1].with_keyframe(known[0]))
        shapes = (4, latent, latent), (32, 16), (config.unet.block_channels[0], latent, latent)
        latents, motion, pose = (torch.randn(WINDOW, *s, device=GPU, dtype=self.dtype) for s in shapes)

        def window(keyframes: int) -> Callable[[], Any]:
            networks._denoise = self.choice.captured(
                "the denoising UNet", networks._run_denoiser, allocates_persistent=False
            )
            return lambda: networks.denoise(latents, timesteps, motion, pose, known[keyframes])

        for keyframes in (0, 3):
            for rows in ROWS:
                with set_to(fused, "ROWS_AT_ONCE", rows):
                    self._add(f"UNet, {keyframes} keyframes, {rows:.3g} rows of a feed-forward", window(keyframes))
            for keys in KEYS:
                with set_to(fused, "KEYS_AT_ONCE", keys):
                    self._add(f"UNet, {keyframes} keyframes, {keys:.3g} values of keys", window(keyframes))
        for frames in (1, 2, 4):
            decode = self.choice.captured("the decoder", networks._run_decoder, allocates_persistent=False)
            with set_to(networks, "decoded_at_once", frames):
                self._add(f"VAE decoder, {frames} of {CHUNK} frames at once", partial(decode, latents[:CHUNK]))

    def _add(self, name: str, run: Callable[[], Any]) -> None:
        with self.results.attempt(name):
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            run()
            most = torch.cuda.max_memory_allocated() - torch.cuda.memory_allocated()
            row = {"ms": round(milliseconds(run, 8), 3), "to_capture_gib": round(most / 2**30, 3)}
            self.results.add(name, row)

    def batches(self) -> None:
        """Whole calls of one, two and four streams."""
        for count in self.options.batches:
            animations = [Animation(self.model, self.options.size, seed=seed) for seed in range(count)]
            name = f"{count} streams in one call"
            with self.results.attempt(name):
                self._call(name, animations)
            del animations

    def _call(self, name: str, animations: list[Animation]) -> None:
        def push() -> None:
            self.model.advance([a.stream for a in animations], [a.next_chunk() for a in animations])

        for _ in range(3):
            push()
        torch.cuda.reset_peak_memory_stats()
        before = joules()
        times = wall_milliseconds(push, self.options.repeats)
        after = joules()
        row = spread(times)
        row["fps_all_streams"] = round(row["fps"] * len(animations), 2)
        if before is not None and after is not None:
            row["watts"] = round((after - before) / sum(times) * 1e3, 1)
            row["joules_of_a_stream"] = round((after - before) / len(times) / len(animations), 2)
        self.results.add(name, row | gibibytes())

    def together(self) -> None:
        """Streams that advance in one call against each of them alone."""
        count = max(self.options.batches)
        errors = self._errors([seed % 2 for seed in range(count)], calls=6)
        self.results.add(f"relative L2: {count} streams in one call against each alone", errors)

    def _errors(self, keyframes: Sequence[int], calls: int) -> list[float]:
        """One error per stream, each with that many keyframes."""
        batched, singles = (
            [Animation(self.model, self.options.size, wanted, seed) for seed, wanted in enumerate(keyframes)]
            for _ in range(2)
        )
        streams = [animation.stream for animation in batched]
        results = [self.model.advance(streams, [a.next_chunk() for a in batched]) for _ in range(calls)]
        errors = []
        for seed, alone in enumerate(singles):
            a = np.concatenate([alone.push() for _ in range(calls)]).astype(np.float32)
            b = np.concatenate([result[seed] for result in results]).astype(np.float32)
            errors.append(round(float(np.linalg.norm(a - b) / np.linalg.norm(a)), 6))
        return errors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/gpu_streams.json"))
    parser.add_argument("--accelerate", choices=get_args(AcceleratorName), default="graphs")
    parser.add_argument("--dtype", choices=("float16", "bfloat16"), default="float16")
    parser.add_argument("--size", type=int, default=512, help="width and height in pixels")
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 2, 4], help="streams per call")
    parser.add_argument("--repeats", type=int, default=24)
    parser.add_argument("--skip", nargs="*", default=[], help="batches, together, amounts")
    options = parser.parse_args()
    results = Results(options.output)
    results.add("options", {name: str(value) for name, value in vars(options).items()})
    streams = Streams(results, options)
    for step in ("batches", "together", "amounts"):
        if step not in options.skip:
            with results.attempt(step):
                getattr(streams, step)()


if __name__ == "__main__":
    main()
