"""What the benchmarks share: timing on a GPU, the machine's description, and results written as they arrive."""

import json
import logging
import platform
import statistics
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

log = logging.getLogger("benchmarks")


def milliseconds(run: Callable[[], Any], repeats: int = 20) -> float:
    """Median time of `run` on the GPU, by events, after two runs that are not counted."""
    for _ in range(2):
        run()
    times: list[float] = []
    for _ in range(repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


def replay_milliseconds(runs: Sequence[Callable[[], Any]], repeats: int = 10) -> float:
    """Mean time of `runs` within one CUDA graph, so launching is not measured; the median over replays.

    Give runs over different tensors, so that the cache does not hold all of them.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for run in runs:
            run()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for run in runs:
            run()
    return milliseconds(graph.replay, repeats) / len(runs)


def wall_milliseconds(run: Callable[[], Any], repeats: int) -> list[float]:
    """Times of `run` on the host's clock, including the GPU's work."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - start) * 1e3)
    return times


def joules() -> float | None:
    """What the GPU has consumed since it was started; None where it does not say, or nvidia-ml-py is not installed."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        device = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(0).uuid}")
        consumed: int = pynvml.nvmlDeviceGetTotalEnergyConsumption(device)
    except pynvml.NVMLError:
        return None
    return consumed / 1e3


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    described: dict[str, Any] = {"python": platform.python_version(), "torch": torch.__version__}
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        described |= {"gpu": properties.name, "memory_gib": round(properties.total_memory / 2**30, 1)}
        described |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    return described


class Results:
    """Figures by name, written to a file after each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.values: dict[str, Any] = {"machine": machine()}
        self._write()

    def add(self, name: str, value: Any) -> None:
        """Keep a figure, and show it."""
        self.values[name] = value
        shown = f"{value:.4g}" if isinstance(value, float) else value
        print(f"{name:60} {shown}", flush=True)
        self._write()

    @contextmanager
    def attempt(self, name: str) -> Iterator[None]:
        """A part whose failure is noted and does not stop the others."""
        try:
            yield
        except Exception as error:
            log.error("%s\n%s", name, traceback.format_exc(limit=-4))
            self.add(f"{name}: failed", f"{type(error).__name__}: {error}"[:300])
            torch.cuda.empty_cache()

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.values, indent=1) + "\n")
