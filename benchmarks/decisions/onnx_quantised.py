"""The demo model's two large networks in 8 bits and in bf16: what the evaluation says of their pictures, and the time.

    python -m benchmarks.decisions.onnx_quantised --output benchmarks/results/cpu_quantised.json

ONNX Runtime's tools quantise the files: linear layers (not the products within attention) and convolutions, weights by
channel, and activations either by ranges that the demo's frames show, or by those of each call ("dynamic"). bf16 is
PyTorch's, in every network, and OpenVINO's, in these two. Every variant animates the same drawn people, whom training
never saw.
"""

import argparse
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.cpu import processor
from benchmarks.measuring import Results
from benchmarks.onnx import CPU, calls, timed
from personalive import weights
from personalive.assets import DEMO_DRIVER, DEMO_PORTRAIT
from personalive.media.images import read_image
from personalive.media.video_reader import probe, read_frames
from personalive.onnx.export import export
from personalive.onnx.manifest import Manifest
from personalive.onnx.networks import OnnxNetworks
from personalive.onnx.runtimes import Function, OnnxRuntime, OpenVino, Runtime
from personalive.pipeline import PersonaLive
from personalive.training.evaluate import evaluate

UNET, DECODER = "denoising_unet", "vae_decoder"
VARIANTS: dict[str, Mapping[str, str]] = {
    "fp32": {},
    "decoder in int8": {DECODER: "static"},
    "UNet in int8": {UNET: "static"},
    "UNet in int8, dynamic": {UNET: "dynamic"},
}
"""By name: which files are quantised, and how."""
BF16, OPENVINO_BF16 = "bf16", "OpenVINO, bf16"
SAMPLES = 4
"""Calls that give the ranges."""


class Recording:
    """ONNX Runtime, which keeps the first inputs of each file."""

    def __init__(self) -> None:
        self.runtime = OnnxRuntime(CPU, torch.get_num_threads())
        self.name = self.runtime.name
        self.seen: dict[str, list[dict[str, Any]]] = defaultdict(list)

    def load(self, path: Path) -> Function:
        run, seen = self.runtime.load(path), self.seen[path.stem]

        def recorded(inputs: Mapping[str, Tensor]) -> list[Tensor]:
            if len(seen) < SAMPLES:
                seen.append({name: np.array(tensor) for name, tensor in inputs.items()})
            return run(inputs)

        return recorded


class Samples:
    """Recorded inputs as ONNX Runtime's tools take them."""

    def __init__(self, inputs: list[dict[str, Any]]) -> None:
        self.left: Iterator[dict[str, Any]] = iter(inputs)

    def get_next(self) -> dict[str, Any] | None:
        return next(self.left, None)


def recorded_inputs(files: Path) -> dict[str, list[dict[str, Any]]]:
    """What the demo gives to each file."""
    recording = Recording()
    stream = PersonaLive(OnnxNetworks(files, Manifest.read(files), CPU, recording)).stream(seed=7)
    prepare = stream.preprocessor
    stream.set_reference(prepare.reference(read_image(DEMO_PORTRAIT), face_box=None))
    frames = read_frames(probe(DEMO_DRIVER))
    for _ in range(SAMPLES):
        stream.push(prepare.driving([next(frames) for _ in range(4)], face_boxes=None))
    return recording.seen


def quantise(source: Path, target: Path, how: str, inputs: list[dict[str, Any]]) -> None:
    """Write a file with layers in 8 bits."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static

    options: dict[str, Any] = {"per_channel": True, "weight_type": QuantType.QInt8}
    options["extra_options"] = {"MatMulConstBOnly": True}
    if how == "dynamic":
        quantize_dynamic(source, target, op_types_to_quantize=["MatMul", "Gemm"], **options)
        return
    quantize_static(
        source,
        target,
        Samples(inputs),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        op_types_to_quantize=["MatMul", "Gemm", "Conv"],
        **options,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/cpu_quantised.json"))
    parser.add_argument("--files", type=Path, help="of the demo model, in fp32 and free sizes; default: exported now")
    variants = [*VARIANTS, BF16, OPENVINO_BF16]
    parser.add_argument("--variants", nargs="+", choices=variants, default=variants)
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--frames", type=int, default=24)
    options = parser.parse_args()
    results, threads = Results(options.output), torch.get_num_threads()
    results.add("processor", f"{processor()}, {threads} threads")
    with tempfile.TemporaryDirectory() as name:
        files = options.files or Path(name) / "files"
        if options.files is None:
            list(export(weights.resolve("demo"), files))
        inputs = recorded_inputs(files) if set(options.variants) - {"fp32", BF16, OPENVINO_BF16} else {}
        for variant in options.variants:
            if variant not in VARIANTS:
                rounded = OpenVino(threads, rounded=True)
                model = (
                    PersonaLive.from_pretrained("demo", device=CPU, dtype=torch.bfloat16)
                    if variant == BF16
                    else PersonaLive(OnnxNetworks(files, Manifest.read(files), CPU, rounded))
                )
                measure(results, variant, model, options.pairs, options.frames)
                continue
            folder = Path(name) / "variant"
            shutil.copytree(files, folder, dirs_exist_ok=True)
            for network, how in VARIANTS[variant].items():
                quantise(files / f"{network}.onnx", folder / f"{network}.onnx", how, inputs[network])
            # OpenVINO runs static ranges, and ONNX Runtime those of each call. The evaluation sees the last one.
            runtimes: list[Runtime] = [OnnxRuntime(CPU, threads)]
            if "dynamic" not in VARIANTS[variant].values():
                runtimes.append(OpenVino(threads))
            for runtime in runtimes:
                model = PersonaLive(OnnxNetworks(folder, Manifest.read(files), CPU, runtime))
                pairs = options.pairs if runtime is runtimes[-1] else 0
                measure(results, f"{variant}, {type(runtime).__name__}", model, pairs, options.frames)
            shutil.rmtree(folder)


def measure(results: Results, name: str, model: PersonaLive, pairs: int, frames: int) -> None:
    """Times of the two networks, and the evaluation's figures, of each pair."""
    found: dict[str, Any] = {}
    with torch.inference_mode():
        for network, call in list(calls(model.networks, (256, 256)).items())[:2]:
            call()
            found[f"{network}, ms"] = round(min(timed(call)[0] for _ in range(3)) * 1e3, 1)
    results.add(name, found)
    if pairs:
        scored = evaluate(model, 7, pairs, frames)
        found["autoencoder, dB"] = scored["vae_psnr"]
        for kind in ("cross", "self"):
            found[f"{kind}, dB"] = [each["psnr"] for each in scored[kind]]
    results.add(name, found)


if __name__ == "__main__":
    main()
