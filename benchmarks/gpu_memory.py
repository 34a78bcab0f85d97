"""Memory of the model on one GPU at each stage of an animation, and what holds it; random weights.

    python -m benchmarks.gpu_memory --output benchmarks/results/gpu_memory.json

PyTorch's figures in GiB: what tensors take, what is reserved for them, and the most that has been reserved so far. The
CUDA context and libraries take about 0.8 GiB more, as for every program.
"""

import argparse
from collections import defaultdict
from pathlib import Path
from typing import Any, get_args

import torch

from benchmarks.gpu_model import GPU, Animation, build
from benchmarks.measuring import Results
from personalive.accel.accelerator import AcceleratedNetworks, Accelerator
from personalive.config import ModelConfig
from personalive.pipeline import PersonaLive
from personalive.types import AcceleratorName


def gib(size: float) -> float:
    """Bytes in GiB."""
    return round(size / 2**30, 3)


def stage() -> dict[str, float]:
    """Memory now, and the most that has been reserved."""
    torch.cuda.synchronize()
    return {
        "tensors": gib(torch.cuda.memory_allocated()),
        "reserved": gib(torch.cuda.memory_reserved()),
        "most_reserved": gib(torch.cuda.max_memory_reserved()),
        "in_use_of_the_device": gib(torch.cuda.mem_get_info()[1] - torch.cuda.mem_get_info()[0]),
    }


def weights(model: PersonaLive) -> dict[str, list[float]]:
    """GiB of each network on the device and on the host; the merged decoder separately."""
    assert isinstance(model.networks, AcceleratedNetworks)
    networks = model.networks.modules
    counted: set[int] = set()
    result = {}
    for name, network in reversed(networks.items()):
        sizes = {"cuda": 0, "cpu": 0}
        for tensor in (*network.parameters(), *network.buffers()):
            if id(tensor) not in counted:
                sizes[tensor.device.type] += tensor.numel() * tensor.element_size()
                counted.add(id(tensor))
        result[name] = [gib(sizes["cuda"]), gib(sizes["cpu"])]
    return result


def pools() -> dict[str, list[float]]:
    """Reserved GiB and those in tensors, of PyTorch's own memory and of each pool of captures."""
    sizes: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for segment in torch.cuda.memory_snapshot():
        pool: Any = segment.get("segment_pool_id", (0, 0))
        entry = sizes["no capture" if tuple(pool) == (0, 0) else f"captures {tuple(pool)}"]
        entry[0] += segment["total_size"]
        entry[1] += segment["allocated_size"]
    return {name: [gib(value) for value in entry] for name, entry in sizes.items()}


def run(results: Results, options: argparse.Namespace) -> None:
    """One animation up to three keyframes, then another portrait."""
    dtype = getattr(torch, options.dtype)
    choice = Accelerator(GPU, dtype, options.accelerate, low_memory=options.low_memory)
    model = build(ModelConfig(), dtype, choice)
    results.add("loaded", stage())
    results.add("weights: GiB on the device, on the host", weights(model))
    animation = Animation(model, options.size)
    results.add("portrait encoded", stage())
    animation.push()
    results.add("first call", stage())
    for wanted in range(4):
        animation.policy.wanted = wanted
        for _ in range(4):
            animation.push()
        assert animation.stream.keyframe_count == wanted
        results.add(f"calls with {wanted} keyframes", stage())
        results.add(f"of which reserved and in tensors, {wanted} keyframes", pools())
    second = Animation(model, options.size, keyframes=1, seed=1)
    for _ in range(4):
        second.push()
    results.add("a second animation beside the first", stage())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/gpu_memory.json"))
    parser.add_argument("--accelerate", choices=get_args(AcceleratorName), default="graphs")
    parser.add_argument("--dtype", choices=("float16", "bfloat16"), default="float16")
    parser.add_argument("--low_memory", action="store_true")
    parser.add_argument("--size", type=int, default=512, help="width and height in pixels")
    options = parser.parse_args()
    results = Results(options.output)
    results.add("options", {name: str(value) for name, value in vars(options).items()})
    with results.attempt("memory"):
        run(results, options)


if __name__ == "__main__":
    main()
