"""Networks of the published sizes as ONNX files, with made-up weights: are they valid, how large, right, and how fast?

    python -m benchmarks.onnx_export --precision fp32 --output benchmarks/results/onnx_published.json
    python -m benchmarks.onnx_export --networks pose_guider motion_encoder

Every network is written with free sizes as `personalive export` does it, so ONNX's checker has seen the file, and ONNX
Runtime has computed what PyTorch does, for the UNet with 0, 1 and 3 keyframes. One network is in memory at a time, and
one file on the disk. The denoising UNet takes 20 GiB of memory and 12 GB of disk in fp32.
"""

import argparse
import gc
import resource
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.cpu import processor
from benchmarks.measuring import Results
from personalive.config import PRESETS, ModelConfig
from personalive.models import build_network
from personalive.onnx.export import write_file
from personalive.onnx.graphs import FREE_EXAMPLES, Graph, GraphMaker
from personalive.onnx.runtimes import OnnxRuntime
from personalive.testing import weight_rule

MAKERS: dict[str, Callable[[GraphMaker], Any]] = {
    "denoising_unet": GraphMaker.denoising_unet,
    "reference_unet": GraphMaker.reference_unet,
    "vae": GraphMaker.vae,
    "image_encoder": GraphMaker.image_encoder,
    "motion_encoder": GraphMaker.motion_encoder,
    "motion_extractor": GraphMaker.motion_extractor,
    "pose_guider": GraphMaker.pose_guider,
}


def maker(config: ModelConfig) -> GraphMaker:
    """What makes graphs of free size, of networks that are filled by the tests' rule."""

    def load(name: str) -> nn.Module:
        network = build_network(name, config)
        weight_rule.fill(network, name)
        return network.requires_grad_(False)

    return GraphMaker(config, load, None)


def measure(results: Results, graph: Graph, precision: Any, rounds: int) -> None:
    """Write a file, check it, and let ONNX Runtime and PyTorch take turns with each of its examples."""
    with tempfile.TemporaryDirectory() as name:
        began = time.monotonic()
        record = write_file(graph, Path(name), precision)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        found: dict[str, Any] = {
            "error": record.error,
            "MB": round(record.bytes / 1e6, 1),
            "seconds to write and check": round(time.monotonic() - began, 1),
            "GiB of memory at most": round(peak, 1),
        }
        if rounds:
            run = OnnxRuntime(torch.device("cpu"), torch.get_num_threads()).load(Path(name) / record.file)
            for index, case in enumerate(graph.cases):
                given = {
                    port.name: case.inputs[port.name].half() if port.dtype == "FLOAT16" else case.inputs[port.name]
                    for port in record.inputs
                }
                label = "×".join(map(str, next(iter(given.values())).shape))
                if graph.network == "denoising_unet":
                    label += f" and {FREE_EXAMPLES[index].keyframes} keyframes"
                found[f"ms, {label}, ONNX Runtime"] = milliseconds(partial(run, given), rounds)
                if precision == "fp32":  # PyTorch is slow in fp16 on most CPUs
                    found[f"ms, {label}, PyTorch"] = milliseconds(partial(graph.module, *given.values()), rounds)
        results.add(f"{graph.name}, {precision}", found)


def milliseconds(call: Callable[[], Any], rounds: int) -> float:
    """The least time of some calls, after one that is not counted."""
    taken = []
    for _ in range(1 + rounds):
        began = time.perf_counter()
        call()
        taken.append((time.perf_counter() - began) * 1e3)
    return round(min(taken[1:]), 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/onnx_published.json"))
    parser.add_argument("--config", choices=sorted(PRESETS), default="personalive")
    parser.add_argument("--networks", nargs="+", choices=list(MAKERS), default=list(MAKERS))
    parser.add_argument("--precision", nargs="+", choices=("fp32", "fp16"), default=["fp32"])
    parser.add_argument("--rounds", type=int, default=1, help="timed calls of each example; 0: none")
    options = parser.parse_args()
    results = Results(options.output)
    results.add("processor", f"{processor()}, {torch.get_num_threads()} threads")
    for precision in options.precision:
        make = maker(PRESETS[options.config])
        for network in options.networks:
            with torch.no_grad(), results.attempt(f"{network}, {precision}"):
                for graph in MAKERS[network](make):
                    measure(results, graph, precision, options.rounds)
                    del graph
                    gc.collect()


if __name__ == "__main__":
    main()
