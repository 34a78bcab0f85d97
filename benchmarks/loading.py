"""How long a start takes: from the published formats, and from the one-time conversion.

    python -m benchmarks.loading --size full --stored float32 --dtype float16 --out loading.json

Makes weights of the published sizes (their values do not matter) in a temporary hub cache, and starts from it in new
processes. `cold` starts read from the disk, `warm` ones from the system's file cache. `--size full` needs 20 GB of disk
and 5 GB of memory.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.measuring import Results
from personalive import weights
from personalive.config import ModelConfig, UNetConfig
from personalive.models import NETWORKS, build_network
from personalive.weights.checksum_cache import digest_of
from personalive.weights.manifest import PublishedFile, published

CONFIGS = {
    "full": ModelConfig(),
    "reduced": ModelConfig.from_dict(
        ModelConfig().to_dict()
        | {
            "unet": UNetConfig(block_channels=(32, 64, 128, 128)).__dict__,
            "pose_guider": {"output_channels": 32},
        }
    ),
}


def main() -> None:
    """Measure and print."""
    arguments = _arguments()
    if arguments.start:
        _start(Path(arguments.start), CONFIGS[arguments.size], arguments)
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        results = Results(arguments.out)
        _measure(Path(folder), arguments, results)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", choices=CONFIGS, default="reduced")
    parser.add_argument("--stored", choices=("float32", "float16"), default="float32", help="dtype of published files")
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), default="float16", help="of the model")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--folder", type=Path, help="where to put the temporary cache (default: the system's place)")
    parser.add_argument("--out", type=Path, default=Path("loading.json"))
    parser.add_argument("--start", help=argparse.SUPPRESS)  # a new process that loads from this cache
    parser.add_argument("--converted", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def _measure(home: Path, arguments: argparse.Namespace, results: Results) -> None:
    config, hub = CONFIGS[arguments.size], weights.Hub(home=home)
    make_cache(hub, config, getattr(torch, arguments.stored))
    results.add("published files, bytes", _size(hub.cache))
    for name in ("first, every file is hashed", "warm"):
        _add(results, f"published, {name}", _run(home, arguments))
    _forget(hub.cache)
    _add(results, "published, cold", _run(home, arguments))
    begin = time.perf_counter()
    folder = weights.convert(dtype=getattr(torch, arguments.dtype), hub=hub, config=config)
    results.add("conversion, seconds", time.perf_counter() - begin)
    results.add("converted files, bytes", _size(folder))
    for name in ("first, every file is hashed", "warm"):
        _add(results, f"converted, {name}", _run(home, arguments, "--converted"))
    _forget(folder)
    _add(results, "converted, cold", _run(home, arguments, "--converted"))


def _run(home: Path, arguments: argparse.Namespace, *options: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.loading", "--start", str(home), "--size", arguments.size]
    command += ["--dtype", arguments.dtype, "--device", arguments.device, *options]
    figures: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return figures


def _start(home: Path, config: ModelConfig, arguments: argparse.Namespace) -> None:
    """What a process does at its start, imports excluded."""
    dtype, device = getattr(torch, arguments.dtype), torch.device(arguments.device)
    if device.type == "cuda":
        torch.zeros(1, device=device)  # creating the context is not part of loading
    begin, busy = time.perf_counter(), time.process_time()
    source = weights.resolve(
        hub=weights.Hub(home=home), config=config, download=False, dtype=dtype if arguments.converted else None
    )
    found = time.perf_counter()
    networks = []
    for name in NETWORKS:
        with torch.device("meta"):
            networks.append(build_network(name, config))
        weights.load_into(source, name, networks[-1], dtype=dtype, device=device)
    if device.type == "cuda":
        torch.cuda.synchronize()
    end = time.perf_counter()
    status = Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]
    figures = {"find, s": found - begin, "load, s": end - found, "CPU, s": time.process_time() - busy}
    print(json.dumps(figures | {"peak host memory, GB": int(status) * 1024 / 1e9}))


def make_cache(hub: weights.Hub, config: ModelConfig, dtype: torch.dtype) -> None:
    """Fill a hub cache as a download does, but with meaningless weights."""
    for network in NETWORKS:
        files = [file for file in published().files if (file.network, file.kind) == (network, "weights")]
        for file, state in zip(files, _states(network, config, dtype, len(files)), strict=True):
            _keep(hub, file, state)
    for file in published().files:
        if file.kind == "config":
            _keep(hub, file, None)


def _states(network: str, config: ModelConfig, dtype: torch.dtype, files: int) -> Iterator[dict[str, Tensor]]:
    with torch.device("meta"):
        shapes = build_network(network, config).state_dict()
    for number in range(files):
        yield {
            key: torch.full(shape.shape, 0.01, dtype=dtype) if shape.is_floating_point() else torch.tensor(0)
            for key, shape in shapes.items()
            if files == 1 or ("temporal_modules" in key) == bool(number)
        }


def _keep(hub: weights.Hub, file: PublishedFile, state: dict[str, Tensor] | None) -> None:
    link = hub.folder(file.repository) / "snapshots" / file.repository.revision / file.hub_path(file.names[-1])
    blobs = hub.folder(file.repository) / "blobs"
    for folder in (link.parent, blobs):
        folder.mkdir(parents=True, exist_ok=True)
    partial = blobs / "partial"
    if state is None:
        partial.write_text("{}")
    else:
        torch.save(state, partial)
    blob = blobs / digest_of(partial)
    partial.replace(blob)
    link.symlink_to(blob)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _forget(folder: Path) -> None:
    """Evict files from the system's file cache."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _add(results: Results, name: str, figures: dict[str, float]) -> None:
    for figure, value in figures.items():
        results.add(f"{name}: {figure}", value)


if __name__ == "__main__":
    main()
