"""What was found on this machine, and what will be used."""

import platform
import shutil
import textwrap
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import personalive
from personalive.errors import PersonaLiveError
from personalive.loading import ModelChoice
from personalive.media.video_writer import find_ffmpeg

GIGABYTE = 1 << 30


def findings(choice: ModelChoice) -> Iterator[tuple[str, str]]:
    """Name and value of everything that was found; what has to wait for PyTorch to be imported comes last."""
    yield "personalive", personalive.__version__
    yield "Python", platform.python_version()
    yield "ffmpeg", _ffmpeg()
    yield "mediapipe", _version("mediapipe")
    yield "attention", _attention()
    yield from _pytorch()
    yield from _gpus()

    from personalive import weights

    hub = weights.Hub()
    yield "cache", f"{hub.cache} ({_free(hub.cache)})"
    for source in ("personalive", "demo"):
        yield "weights", f"{source}: {_weights(source)}"
    yield from _used(choice)


def _pytorch() -> Iterator[tuple[str, str]]:
    import torch

    yield "PyTorch", f"{torch.__version__} (CUDA {torch.version.cuda or 'not built in'})"


def _gpus() -> Iterator[tuple[str, str]]:
    import torch

    if not torch.cuda.is_available():
        yield "GPU", "none that PyTorch can use"
        return
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        yield "GPU", f"cuda:{index} {name}, {free / GIGABYTE:.1f} of {total / GIGABYTE:.1f} GiB free"


def _attention() -> str:
    xformers = _version("xformers")
    return "PyTorch's own (SDPA); xformers is not installed" if xformers == "missing" else f"xformers {xformers}, SDPA"


def _ffmpeg() -> str:
    try:
        return find_ffmpeg()
    except PersonaLiveError as error:
        return str(error)


def _weights(source: str) -> str:
    from personalive import weights

    try:
        weights.resolve(source, download=False)
    except PersonaLiveError as error:
        return textwrap.shorten(str(error), 100, placeholder=" ...")
    return "complete"


def _used(choice: ModelChoice) -> Iterator[tuple[str, str]]:
    device = choice.resolved_device()
    source, remark = choice.resolved_source()
    dtype = choice.dtype or ("fp16" if device.type == "cuda" else "fp32")
    yield "will use", f"model {source} on {device} in {dtype}, attention {choice.attention}"
    if remark:
        yield "because", remark


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def _free(path: Path) -> str:
    there = next(folder for folder in (path, *path.parents) if folder.exists())  # the cache is made when first needed
    return f"{shutil.disk_usage(there).free / GIGABYTE:.0f} GiB free"
