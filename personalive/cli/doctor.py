"""What was found on this machine, and what will be used: looked up at once, or tried as well."""

import os
import platform
import re
import runpy
import shutil
import subprocess
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import personalive
from personalive.errors import PersonaLiveError, first_line
from personalive.extras import missing, pip_install
from personalive.loading import NAMES, ModelChoice
from personalive.media.ffmpeg import find_ffmpeg

GIGABYTE = 1 << 30
SMI = ["nvidia-smi", "--query-gpu=name,memory.free,memory.total", "--format=csv,noheader,nounits"]
SMI_SECONDS = 10.0
"""Seconds after which the driver is taken to hang."""
MISSING = "not installed"
HOPPER = re.compile(r"\b(G?H[12]00|H800|H20)\b")
"""In the name of a GPU that has the model's own attention."""


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    name: str
    value: str
    wrong: bool = False
    """Whether nothing works before this is repaired."""


def looked_up(choice: ModelChoice) -> Iterator[Finding]:
    """What can be known at once, from files and the GPU's driver; PyTorch, which takes seconds, is not loaded."""
    yield from _programs(Finding("mediapipe", _version("mediapipe")))
    pytorch, cuda = _installed_pytorch()
    yield pytorch
    gpus, usable = _listed_gpus(cuda)
    yield from gpus
    yield from _cached_weights()
    device = choice.device or ("cuda" if usable else "cpu")
    kind = device.partition(":")[0]
    try:
        choice.check_on(kind)
    except PersonaLiveError as error:
        yield Finding("will use", f"nothing: {error}", wrong=True)
    else:
        yield from _used(choice, kind, device)
    yield Finding("not tried", "whether these work: personalive doctor --full, which takes longer")


def tried(choice: ModelChoice) -> Iterator[Finding]:
    """The same by loading what was found, computing with it, and checking the weights."""
    yield from _programs(_loaded_mediapipe())
    pytorch = _loaded_pytorch()
    yield pytorch
    if pytorch.wrong:
        return
    from personalive import weights

    yield from _computing_gpus()
    yield from _checked_weights(choice)
    try:
        choice.check()
        if choice.model is not None and choice.model not in NAMES:
            weights.resolve(choice.model)
            yield Finding("weights", f"{choice.model}: complete")
    except PersonaLiveError as error:
        yield Finding("will use", f"nothing: {error}", wrong=True)
        return
    device = choice.resolved_device()
    yield from _used(choice, device.type, str(device), _broken_openvino())


def _programs(mediapipe: Finding) -> Iterator[Finding]:
    yield Finding("personalive", personalive.__version__)
    yield Finding("Python", platform.python_version())
    try:
        yield Finding("ffmpeg", find_ffmpeg())
    except (PersonaLiveError, ImportError) as error:
        yield Finding("ffmpeg", str(error), wrong=True)
    yield mediapipe
    xformers = _version("xformers")
    known = f"PyTorch's own (SDPA); xformers is {xformers}" if xformers == MISSING else f"xformers {xformers}, SDPA"
    yield Finding("attention", known)


def _installed_pytorch() -> tuple[Finding, bool]:
    """What its files say, and whether it was built for CUDA."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return Finding("PyTorch", f"{MISSING}: install the package torch", wrong=True), False
    try:
        facts = runpy.run_path(str(Path(spec.origin).with_name("version.py")))
        named, cuda = facts["__version__"], facts.get("cuda")
    except Exception as error:  # whatever half an installation makes of it
        return Finding("PyTorch", f"damaged ({first_line(error)}): install the package torch again", wrong=True), False
    return Finding("PyTorch", f"{named} ({_built(cuda)})"), cuda is not None


def _listed_gpus(cuda: bool) -> tuple[list[Finding], bool]:
    """What the driver says, and whether PyTorch can use any of it.

    Args:
        cuda: whether PyTorch was built for it.
    """
    try:
        done = subprocess.run(SMI, capture_output=True, text=True, timeout=SMI_SECONDS)
    except FileNotFoundError:
        return [Finding("GPU", "none: there is no NVIDIA driver (nvidia-smi)")], False
    except (OSError, subprocess.TimeoutExpired) as error:
        return [Finding("GPU", f"unknown: nvidia-smi does not answer ({first_line(error)})")], False
    rows = [line.split(", ") for line in done.stdout.splitlines() if line.count(", ") == 2]
    if done.returncode or not rows:
        said = (done.stdout + done.stderr).strip() or f"status {done.returncode}"
        return [Finding("GPU", f"none: nvidia-smi says {textwrap.shorten(said, 120)}")], False
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    hidden = chosen is not None and chosen.strip() in ("", "-1")
    why = f", hidden by CUDA_VISIBLE_DEVICES={chosen}" if hidden else ""
    why = why if cuda else ", not used: this PyTorch was built without CUDA"
    found = [
        Finding("GPU", f"{index}: {name}, {_gigabytes(free)} of {_gigabytes(total)} GiB free{why}{_advice(name)}")
        for index, (name, free, total) in enumerate(rows)
    ]
    return found, cuda and not hidden


def _cached_weights() -> Iterator[Finding]:
    from personalive import weights
    from personalive.assets import DEMO_MODEL

    hub = weights.Hub()
    yield Finding("cache", f"{hub.cache} ({_free(hub.cache)})")
    try:
        hub = hub.held()
        absent = [file for file in hub.manifest.files if hub.cached(file) is None]
        needed = [file for file in absent if file.kind != "base"]
        converted = sorted(path.parent.name for path in hub.conversions.glob("*/config.json"))
    except (PersonaLiveError, OSError) as error:
        yield Finding("weights", f"personalive: {_short(error)}")
    else:
        there = "complete" if not absent else "complete, perhaps except for the base UNet"
        there = f"{len(needed)} files are missing, which the first run downloads" if needed else there
        there += f"; converted to {', '.join(converted)}" if converted else ""
        yield Finding("weights", f"personalive: {there}")
    demo = (DEMO_MODEL / "config.json").is_file()
    yield Finding("weights", f"demo: {'complete' if demo else f'missing in {DEMO_MODEL}'}")


def _loaded_mediapipe() -> Finding:
    from personalive.media.faces import load_mediapipe

    try:
        load_mediapipe()
    except PersonaLiveError as error:
        return Finding("mediapipe", str(error))
    return Finding("mediapipe", _version("mediapipe"))


def _loaded_pytorch() -> Finding:
    try:
        import torch

        torch.ones(2).sum().item()
    except Exception as error:  # a missing library of the system, a half installation, other versions beside it
        return Finding("PyTorch", f"cannot be used: {type(error).__name__}: {first_line(error)}", wrong=True)
    return Finding("PyTorch", f"{torch.__version__} ({_built(torch.version.cuda)})")


def _computing_gpus() -> Iterator[Finding]:
    import torch

    if not torch.cuda.is_available():
        yield Finding("GPU", "none that PyTorch can use")
        return
    for index in range(torch.cuda.device_count()):
        try:
            name = torch.cuda.get_device_name(index)
            torch.ones(2, device=f"cuda:{index}").sum().item()
            free, total = torch.cuda.mem_get_info(index)
        except RuntimeError as error:
            yield Finding("GPU", f"cuda:{index} cannot be used: {first_line(error)}")
        else:
            memory = f"{free / GIGABYTE:.1f} of {total / GIGABYTE:.1f} GiB free"
            yield Finding("GPU", f"cuda:{index} {name}, {memory}{_advice(name)}")


def _advice(gpu: str) -> str:
    """What suits a GPU of this name: of NVIDIA's cards, GeForce RTX adds in fp32 at half the rate."""
    if "GeForce RTX" in gpu:
        return "; --accumulate fp16 may be faster on it"
    if HOPPER.search(gpu) and _version("cuda-bindings") == MISSING:
        return "; with the package cuda-bindings its attention takes two thirds of the time"
    return ""


def _checked_weights(choice: ModelChoice) -> Iterator[Finding]:
    from personalive import weights

    hub = weights.Hub()
    yield Finding("cache", f"{hub.cache} ({_free(hub.cache)})")
    for source in NAMES:
        try:
            weights.resolve(source, download=False, dtype=choice.resolved_dtype())
        except PersonaLiveError as error:
            yield Finding("weights", f"{source}: {_short(error)}")
        else:
            yield Finding("weights", f"{source}: complete")


def _broken_openvino() -> str:
    """Why an OpenVINO that is there cannot be used; empty if it can, or if there is none."""
    if missing("openvino"):
        return ""
    from personalive.onnx.runtimes import OpenVino

    try:
        OpenVino(threads=1)
    except PersonaLiveError as error:
        return str(error)
    return ""


def _used(choice: ModelChoice, kind: str, device: str, broken: str = "") -> Iterator[Finding]:
    """What the other verbs will take.

    Args:
        kind: of the device, cuda or cpu.
        device: its name.
        broken: why OpenVINO cannot be used, if that was tried.
    """
    source, remark = choice.source_on(kind)
    dtype = choice.dtype or ("fp16" if kind == "cuda" else "fp32")
    yield Finding("will use", f"model {source} on {device} in {dtype}, attention {choice.attention}")
    if remark:
        yield Finding("because", remark)
    yield Finding("OpenVINO", broken or _openvino(choice, kind))


def _openvino(choice: ModelChoice, kind: str) -> str:
    """Whether it is there, and whether it will be used; it is not loaded, which takes a second."""
    if missing("openvino"):
        hint = f"; with it, files are made faster here: {pip_install('openvino')}"
        return f"{MISSING}{hint if choice.suits_openvino(kind) else ''}"
    # A module may be left of an installation that is gone.
    installed = "of unknown version" if (known := _version("openvino")) == MISSING else known
    if without := missing("onnx"):
        return f"{installed}, not used without {', '.join(without)}: {pip_install('openvino')}"
    if kind == "cpu" and choice.runs_onnx:
        return f"{installed}, will be used"
    if choice.for_files_on(kind).runs_onnx:
        return f"{installed}, will be used for files, which is faster here (--accelerate graphs: PyTorch)"
    return f"{installed}, will not be used: it is for CPUs, where --accelerate onnx uses it"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return MISSING


def _built(cuda: str | None) -> str:
    return f"CUDA {cuda or 'not built in'}"


def _short(error: Exception) -> str:
    return textwrap.shorten(str(error), 100, placeholder=" ...")


def _gigabytes(mebibytes: str) -> str:
    """As nvidia-smi writes it; some devices share the machine's memory, and have no number."""
    return f"{int(mebibytes) / 1024:.1f}" if mebibytes.isdigit() else "?"


def _free(path: Path) -> str:
    there = next(folder for folder in (path, *path.parents) if folder.exists())  # the cache is made when first needed
    return f"{shutil.disk_usage(there).free / GIGABYTE:.0f} GiB free"
