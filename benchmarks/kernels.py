"""GPU kernels and the choices between PyTorch's own, at the sizes of the model: time, floor, and error.

    python -m benchmarks.kernels --output benchmarks/results/kernels.json

The floor is the time that reading every input once and writing every output once takes at the speed of a large copy, or
that the arithmetic takes at the speed of a large matrix product.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.measuring import Results, replay_milliseconds
from personalive.accel.fuse.float8 import Float8FFNProjOut, Float8NormConv, ScaledNorm
from personalive.accel.fuse.images import FusedNormConv, doubling_weight
from personalive.accel.fuse.transformers import FusedFFNProjOut, FusedLayerNorm
from personalive.accel.ops import attention
from personalive.accel.ops import reference as operations
from personalive.accel.ops import triton as kernels
from personalive.accel.ops.reference import Operations
from personalive.accel.ops.triton import products
from personalive.accel.ops.triton.pointwise import append_bank
from personalive.models.blocks import FeedForward

CACHE = 256 * 2**20
"""Bytes that a measurement goes through, so that the GPU's cache cannot hold them."""
LEVELS = ((320, 64), (640, 32), (1280, 16), (1280, 8))
"""Channels and side of the four resolutions at 512×512."""

CONVOLUTIONS = (
    *((4, 128, 3, 512), (4, 128, 8, 512), (4, 4, 512, 64), (4, 128, 128, 512), (4, 256, 128, 512), (4, 512, 512, 128)),
    *((16, 4, 320, 64), (16, 8, 320, 64), (16, 320, 4, 64), (16, 320, 8, 64), (16, 320, 320, 64), (16, 960, 320, 64)),
    *((16, 640, 640, 32), (16, 1280, 1280, 16), (16, 2560, 1280, 8)),
)
"""Images, channels in and out, side."""
RESNET_CONVOLUTIONS = (
    *((16, 320, 320, 64), (16, 640, 640, 32), (16, 1280, 1280, 16), (16, 1280, 1280, 8)),
    *((2, 128, 128, 512), (2, 256, 256, 256), (2, 512, 512, 128), (2, 512, 512, 64)),
)
"""Likewise: of the UNet's resnet blocks, and of the decoder's, with as many frames as are decoded at once."""
LINEARS = (
    *(
        (65536, 320, 320),
        (65536, 320, 960),
        (65536, 320, 128),
        (65536, 128, 320),
        (65536, 320, 2560),
        (65536, 1280, 320),
    ),
    *((16384, 640, 640), (16384, 640, 5120), (16384, 2560, 640)),
    *((4096, 1280, 1280), (4096, 1280, 10240), (4096, 5120, 1280)),
)
"""Rows, channels in and out."""

Run = Callable[..., Any]


class Bench:
    """Random tensors, timing over several sets of them, and comparison in float32."""

    def __init__(self, results: Results, dtype: torch.dtype) -> None:
        self.results, self.dtype = results, dtype
        self.copy_rate = self.multiply_rate = 1.0

    def tensor(self, *shape: int) -> Tensor:
        return torch.randn(shape, device="cuda").to(self.dtype)

    def image(self, *shape: int) -> Tensor:
        return self.tensor(*shape).to(memory_format=torch.channels_last)

    def sets(self, make: Callable[[], tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        one = make()
        size = sum(t.numel() * t.element_size() for t in one if isinstance(t, Tensor))
        return [one] + [make() for _ in range(min(15, CACHE // max(size, 1)))]

    def time(self, run: Callable[..., Any], sets: list[tuple[Any, ...]]) -> float:
        return replay_milliseconds([lambda arguments=arguments: run(*arguments) for arguments in sets])

    def compare(self, name: str, make: Callable[[], tuple[Any, ...]], runs: dict[str, Callable[..., Any]]) -> None:
        """Time each of `runs`; errors are relative to the last of them in float32."""
        with self.results.attempt(name):
            sets = self.sets(make)
            tensors = [t for t in sets[0] if isinstance(t, Tensor)]
            exact = _first(list(runs.values())[-1](*(t.float() if isinstance(t, Tensor) else t for t in sets[0])))
            moved = sum(t.numel() * t.element_size() for t in tensors)
            row: dict[str, Any] = {"read_and_write_floor_ms": (moved + exact.numel() * 2) / self.copy_rate / 1e6}
            for variant, run in runs.items():
                try:
                    error = (_first(run(*sets[0])).float() - exact).norm() / exact.norm()
                    row[variant] = {"ms": round(self.time(run, sets), 4), "error": float(error)}
                except Exception as failure:
                    row[variant] = f"{type(failure).__name__}: {failure}"[:160]
            row["read_and_write_floor_ms"] = round(row["read_and_write_floor_ms"], 4)
            self.results.add(name, row)

    def ceilings(self) -> None:
        a, b = (torch.empty(2**31, dtype=torch.uint8, device="cuda") for _ in range(2))
        self.copy_rate = 2 * 2**31 / replay_milliseconds([lambda: b.copy_(a)]) / 1e6  # GB/s, read and written
        x, y = self.tensor(8192, 8192), self.tensor(8192, 8192)
        self.multiply_rate = 2 * 8192**3 / replay_milliseconds([lambda: x @ y]) / 1e9
        self.results.add("copy, GB/s", self.copy_rate)
        self.results.add("matrix product, TFLOP/s", self.multiply_rate)

    def race(self, name: str, row: dict[str, Any], runs: dict[str, tuple[Run, list[tuple[Any, ...]]]]) -> None:
        """Time each of `runs` over its own arguments."""
        with self.results.attempt(name):
            for variant, (run, sets) in runs.items():
                try:
                    row[variant] = round(self.time(run, sets), 4)
                except Exception as failure:
                    row[variant] = f"{type(failure).__name__}: {failure}"[:120]
            self.results.add(name, row)


def _first(value: Any) -> Tensor:
    tensor: Tensor = value[-1] if isinstance(value, tuple) else value
    return tensor


def norms(bench: Bench) -> None:
    sizes = [(16, c, s) for c, s in LEVELS] + [(16, 960, 64), (16, 1920, 32), (16, 2560, 16), (16, 2560, 8)]
    sizes += [(4, 128, 512), (4, 256, 512), (4, 256, 256), (4, 512, 128), (4, 512, 64)]
    for n, c, s in sizes:
        weight, bias = bench.tensor(c), bench.tensor(c)
        bench.compare(
            f"GroupNorm+SiLU {n}x{c}x{s}x{s}",
            lambda n=n, c=c, s=s: (bench.image(n, c, s, s), bench.tensor(n, c)),
            {
                name: lambda x, shift, op=module.group_norm, w=weight, b=bias: op(
                    x, 32, w.to(x.dtype), b.to(x.dtype), 1e-5, silu=True, shift=shift
                )
                for name, module in (("kernel", kernels), ("pytorch", operations))
            },
        )
    for c, s in LEVELS:
        weight, bias = bench.tensor(c), bench.tensor(16, c)
        bench.compare(
            f"add+LayerNorm 16x{s * s}x{c}",
            lambda c=c, s=s: (bench.tensor(16, s * s, c), bench.tensor(16, s * s, c)),
            {
                name: lambda x, y, op=module.add_layer_norm, w=weight, b=bias: op(
                    x, y, w.to(x.dtype), b.to(x.dtype), 1e-5
                )
                for name, module in (("kernel", kernels), ("pytorch", operations))
            },
        )


def pointwise(bench: Bench) -> None:
    for c, s in LEVELS:
        bench.compare(
            f"GEGLU {16 * s * s}x{8 * c}",
            lambda c=c, s=s: (bench.tensor(16 * s * s, 8 * c),),
            {"kernel": kernels.geglu, "pytorch": operations.geglu},
        )
    for n, c, s in ((16, 320, 64), (4, 128, 512), (4, 512, 64)):
        bench.compare(
            f"sum of images with a bias, and its sums for a norm {n}x{c}x{s}x{s}",
            lambda n=n, c=c, s=s: (bench.image(n, c, s, s), bench.image(n, c, s, s), bench.tensor(c)),
            {
                "kernel": lambda *arguments: kernels.add_bias_sums(*arguments)[0],
                "pytorch": operations.add_bias,
            },
        )


def small_attention(bench: Bench) -> None:
    for c, s in LEVELS:
        bench.compare(
            f"attention over 16 frames, {s * s} pixels, width {c // 8}",
            lambda c=c, s=s: (bench.tensor(16, s * s, 3 * c),),
            {
                "kernel": lambda x: kernels.frame_attention(x, 8, 16),
                "pytorch": lambda x: operations.frame_attention(x, 8, 16),
            },
        )
    for s in (64, 32, 16, 8):
        bench.compare(
            f"attention to 32 motion tokens, rank 16, {s * s} pixels",
            lambda s=s: (bench.tensor(16, s * s * 8, 16) * 0.25, bench.tensor(16, 32, 16)),
            {"kernel": kernels.token_attention, "pytorch": operations.token_attention},
        )


def large_attention(bench: Bench) -> None:
    backends: dict[str, Run] = {"cudnn": attention._cudnn, "flash": attention._flash, "efficient": attention._efficient}
    shapes = [(16, 8, s * s, s * s * sources, c // 8) for c, s in LEVELS for sources in (2, 5)]
    for n, heads, queries, keys, width in [*shapes, (4, 8, 784, 784, 128), (4, 1, 4096, 4096, 512)]:
        lengths = (queries, keys, keys)
        sets = [tuple(bench.tensor(n, length, heads, width).transpose(1, 2) for length in lengths)]
        runs = backends | {"products": attention._products} if width > 256 else backends
        work = {"tflop": 4 * n * heads * queries * keys * width / 1e12}
        bench.race(
            f"attention {n}x{heads}, {queries} to {keys}, width {width}",
            work,
            {name: (run, sets) for name, run in runs.items()},
        )


def attention_to_a_portrait(bench: Bench) -> None:
    """Of 16 frames, or 8 where three keyframes make more keys than are joined at once."""
    from personalive.accel.ops.cuda.bank_attention import BankAttention  # PyTorch before 2.10 has not what it needs

    own = BankAttention(bench.dtype)
    for c, s in LEVELS[:2]:
        for sources, frames in ((1, 16), (2, 16), (4, 8)):
            heads = (8, c // 8)
            sets = [
                (
                    bench.tensor(frames, s * s, 3, *heads),
                    *(bench.tensor(1, sources * s * s, *heads) for _ in range(2)),
                )
            ]
            runs: dict[str, tuple[Run, list[tuple[Any, ...]]]] = {"own": (own, sets)}
            for name, backend in (("cudnn", attention._cudnn), ("flash", attention._flash)):
                runs[f"joined, {name}"] = (
                    partial(operations.attend_bank, attention=backend, append=append_bank),
                    sets,
                )
            work = {"tflop": 4 * frames * s**4 * (1 + sources) * c / 1e12}
            bench.race(f"attention of {frames} frames, {s}x{s}, to themselves and {sources} more", work, runs)


def phase_weight(transposed: Tensor) -> Tensor:
    """Kernel of a transposed convolution [in, out, 4, 4] → of a convolution to four phases, [4·out, in, 2, 2]."""
    taps = ((3, 1), (2, 0))  # for even and odd rows: the taps that meet the pixel before and the pixel after
    parts = [transposed[:, :, list(y)][:, :, :, list(x)].transpose(0, 1) for y in taps for x in taps]
    return torch.cat(parts)


def in_phases(x: Tensor, weight: Tensor) -> Tensor:
    """Doubling and convolving as a convolution with 2×2 taps, whose results are then interleaved."""
    n, _, h, w = x.shape
    y, channels = F.conv2d(x, weight, padding=1), len(weight) // 4
    out = y.new_empty((n, 2 * h, 2 * w, channels)).permute(0, 3, 1, 2)
    for phase in range(4):
        row, column = divmod(phase, 2)
        part = y[:, phase * channels : (phase + 1) * channels, row : row + h, column : column + w]
        out[:, :, row::2, column::2] = part
    return out


def convolutions(bench: Bench) -> None:
    for n, c, s in ((16, 1280, 8), (16, 1280, 16), (16, 640, 32), (4, 512, 64), (4, 512, 128), (4, 256, 256)):
        weight = bench.tensor(c, c, 3, 3) * (9 * c) ** -0.5
        last = weight.contiguous(memory_format=torch.channels_last)
        merged = doubling_weight(weight).to(bench.dtype).contiguous(memory_format=torch.channels_last)
        phases = phase_weight(merged).contiguous(memory_format=torch.channels_last)
        bench.compare(
            f"doubling and convolution {n}x{c}x{s}x{s}",
            lambda n=n, c=c, s=s: (bench.image(n, c, s, s),),
            {
                "four phases": lambda x, w=phases: in_phases(x, w.to(x.dtype)),
                "transposed": lambda x, w=merged: F.conv_transpose2d(x, w.to(x.dtype), stride=2, padding=1),
                "two steps": lambda x, w=last: F.conv2d(F.interpolate(x, scale_factor=2.0), w.to(x.dtype), padding=1),
            },
        )
    for n, i, o, s in CONVOLUTIONS:
        weight = (bench.tensor(o, i, 3, 3) * (9 * i) ** -0.5).contiguous(memory_format=torch.channels_last)
        bias = bench.tensor(o)
        sets = bench.sets(lambda n=n, i=i, s=s: (bench.image(n, i, s, s),))
        with_bias: Run = lambda x, w=weight, b=bias: F.conv2d(x, w, b, padding=1)  # noqa: E731
        without: Run = lambda x, w=weight: F.conv2d(x, w, padding=1)  # noqa: E731
        work = {"tflop": 18 * n * i * o * s * s / 1e12}
        bench.race(
            f"convolution {n}x{i}x{s}x{s} to {o}", work, {"with bias": (with_bias, sets), "without": (without, sets)}
        )
        with torch.backends.cudnn.flags(enabled=True, benchmark=True):  # cuDNN times its kernels instead of guessing
            bench.race(f"convolution {n}x{i}x{s}x{s} to {o}, searched", dict(work), {"without": (without, sets)})


def linears(bench: Bench) -> None:
    for rows, i, o in LINEARS:
        weight, bias = bench.tensor(o, i) * i**-0.5, bench.tensor(o)
        sets = bench.sets(lambda rows=rows, i=i, o=o: (bench.tensor(rows, i), bench.tensor(rows, o)))
        runs: dict[str, tuple[Run, list[tuple[Any, ...]]]] = {
            "linear with bias": (lambda x, y, w=weight, b=bias: F.linear(x, w, b), sets),
            "linear, then add": (lambda x, y, w=weight, b=bias: y + F.linear(x, w, b), sets),
            "addmm in place": (lambda x, y, w=weight: y.addmm_(x, w.t()), sets),
        }
        eight = weight.to(torch.float8_e4m3fn).t()
        quantised = [(x.to(torch.float8_e4m3fn), y) for x, y in sets]
        for name, scales in (
            ("fp8, one scale", [torch.ones((), device="cuda")] * 2),
            ("fp8, scale per row", [torch.ones(rows, 1, device="cuda"), torch.ones(1, o, device="cuda")]),
        ):
            runs[name] = (
                lambda x, y, w=eight, s=scales: torch._scaled_mm(
                    x, w, *s, out_dtype=torch.bfloat16, use_fast_accum=True
                ),
                quantised,
            )
        bench.race(f"linear {rows}x{i} to {o}", {"tflop": 2 * rows * i * o / 1e12}, runs)


def feed_forwards(bench: Bench) -> None:
    """The end of a transformer, from normalised tokens to the sum with its input."""
    fast = Operations(**{name: getattr(kernels, name) for name in kernels.__all__})
    for c, s in LEVELS:
        feed_forward, proj_out = (layer.to("cuda", bench.dtype) for layer in (FeedForward(c), nn.Linear(c, c)))
        ends: dict[str, nn.Module] = {"two kernels": FusedFFNProjOut(feed_forward, proj_out, fast)}
        for name, tile in products.TILES.items():
            one = replace(fast, gated_linear=partial(products.gated_linear, tile=tile))
            ends[f"one kernel, {name}"] = FusedFFNProjOut(feed_forward, proj_out, one)
        tokens = bench.sets(
            lambda c=c, s=s: (bench.image(16, c, s, s), *(bench.tensor(16, s * s, c) for _ in range(2)))
        )
        runs: dict[str, tuple[Run, list[tuple[Any, ...]]]] = {name: (end, [*tokens]) for name, end in ends.items()}
        norm = ScaledNorm(FusedLayerNorm(nn.LayerNorm(c, device="cuda"), fast))
        quantised = [(x, total, operations.to_float8(normed / norm.scale)) for x, total, normed in tokens]
        runs["fp8"] = Float8FFNProjOut(FusedFFNProjOut(feed_forward, proj_out, fast), norm), quantised
        bench.race(f"end of a transformer, 16x{c}x{s}x{s}", {"tflop": 26 * 16 * s * s * c * c / 1e12}, runs)


def resnet_convolutions(bench: Bench) -> None:
    """GroupNorm, SiLU, convolution and sum: the second half of a resnet block."""
    fast = Operations(**{name: getattr(kernels, name) for name in kernels.__all__})
    for n, i, o, s in RESNET_CONVOLUTIONS:
        conv = nn.Conv2d(i, o, 3, padding=1, device="cuda", dtype=bench.dtype)
        conv.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        layer = FusedNormConv(nn.GroupNorm(32, i).to("cuda", bench.dtype), conv, fast)
        bias, shift = bench.tensor(o), bench.tensor(1, i)
        sets = bench.sets(lambda n=n, i=i, o=o, s=s: (bench.image(n, o, s, s), bench.image(n, i, s, s)))
        runs = {
            name: (lambda x, hidden, end=end, b=bias, t=shift: end.add_to(lambda: x, b, hidden, t), sets)
            for name, end in ((str(bench.dtype), layer), ("fp8", Float8NormConv(layer)))
        }
        bench.race(f"norm, convolution, sum {n}x{i}x{s}x{s} to {o}", {"tflop": 18 * n * i * o * s * s / 1e12}, runs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/kernels.json"))
    parser.add_argument("--dtype", choices=("float16", "bfloat16"), default="bfloat16")
    options = parser.parse_args()
    bench = Bench(Results(options.output), getattr(torch, options.dtype))
    with torch.inference_mode():
        for part in (
            Bench.ceilings,
            norms,
            pointwise,
            small_attention,
            large_attention,
            attention_to_a_portrait,
            linears,
            feed_forwards,
            convolutions,
            resnet_convolutions,
        ):
            with bench.results.attempt(part.__name__):
                part(bench)


if __name__ == "__main__":
    main()
