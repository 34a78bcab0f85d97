"""What trials on a GPU have found, kept for the next start. Without it, or with a wrong one, everything still works."""

import contextlib
import hashlib
import json
import logging
import tempfile
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypeAlias

import torch

_FORMAT = 1
_DRIVER = Path("/proc/driver/nvidia/version")
_SOURCES = Path(__file__).parent

_Found: TypeAlias = dict[str, dict[str, str]]

_log = logging.getLogger(__name__)


class Findings:
    """Answers by topic and question, in one file for each machine and state of the code."""

    def __init__(self, path: Path | None) -> None:
        """Read what is there; `path` None: nothing is kept."""
        self._path = path
        self._found = {} if path is None else _read(path)

    def get(self, topic: str, question: str) -> str | None:
        """What was found before."""
        return self._found.get(topic, {}).get(question)

    def keep(self, topic: str, question: str, answer: str) -> None:
        """Store an answer if possible; nothing depends on it."""
        self._found.setdefault(topic, {})[question] = answer
        if self._path is None:
            return
        with contextlib.suppress(OSError):
            for other, answers in _read(self._path).items():  # another process may have been faster
                self._found[other] = answers | self._found.get(other, {})
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self._path.parent) as folder:  # nothing is left if the disk is full
                written = Path(folder) / self._path.name
                written.write_text(json.dumps(self._found, indent=1, sort_keys=True), "utf-8")
                written.replace(self._path)


def findings_for(device: torch.device, folder: Path) -> Findings:
    """What was found on this GPU, with this driver, PyTorch, Triton and code."""
    return Findings(folder / f"{_key(describe(device))}.json")


def describe(device: torch.device) -> list[str]:
    """What findings depend on."""
    compilers = [_version(name) for name in ("triton", "cuda-bindings")]  # importing them takes a second
    properties = torch.cuda.get_device_properties(device)
    driver = _DRIVER.read_text() if _DRIVER.exists() else ""
    gpu = f"{properties.name} {properties.major}.{properties.minor} {properties.multi_processor_count}"
    files = sorted(path for path in _SOURCES.rglob("*") if path.suffix in (".py", ".cu"))
    sources = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
    return [str(_FORMAT), gpu, driver, str(torch.__version__), str(torch.version.cuda), *compilers, sources]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


def _key(parts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:40]


def _read(path: Path) -> _Found:
    """What a file holds; nothing if it is missing, damaged or not ours."""
    try:
        stored = json.loads(path.read_text())
        if not isinstance(stored, dict):
            raise ValueError("not a table")
        return {
            str(topic): {question: answer for question, answer in answers.items() if isinstance(answer, str)}
            for topic, answers in stored.items()
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        _log.debug("%s is ignored: %s", path, error)
        return {}
