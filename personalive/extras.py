"""Packages that the extras in pyproject.toml install, and that the engine works without."""

import contextlib
from collections.abc import Iterator
from importlib.util import find_spec

from personalive.errors import MissingExtraError, first_line

MODULES: dict[str, tuple[str, ...]] = {
    "camera": ("pyvirtualcam",),
    "cog": ("cog", "httpx", "starlette", "uvicorn"),
    "faces": ("mediapipe",),
    "live": ("aiortc", "fastapi", "httpx", "prometheus_client", "segno", "uvicorn", "websockets"),
    "onnx": ("onnx", "onnxruntime"),
    "openvino": ("openvino",),
    "provenance": ("c2pa", "cryptography"),
    "scale": ("ray", "prometheus_client", "starlette", "uvicorn"),
}
"""By extra: what is imported from its packages."""


def missing(extra: str) -> list[str]:
    """The modules of an extra that are not installed."""
    return [name for name in MODULES[extra] if not _is_there(name)]


def _is_there(module: str) -> bool:
    spec = find_spec(module)
    return spec is not None and spec.origin is not None  # else a folder of that name without any module in it


def require(extra: str) -> None:
    """Refuse to continue without an extra.

    Raises:
        MissingExtraError: a package of it is not installed; the message says how to install it.
    """
    absent = missing(extra)
    if absent:
        raise MissingExtraError(f"not installed: {', '.join(absent)}. Install the extra: {pip_install(extra)}")


@contextlib.contextmanager
def importing(extra: str) -> Iterator[None]:
    """Import packages of an extra inside, and try what works in no broken installation.

    Raises:
        MissingExtraError: one is not installed, or cannot be used.
    """
    require(extra)
    try:
        yield
    except Exception as error:  # whatever half an installation makes of it
        raise MissingExtraError(
            f"the installed {', '.join(MODULES[extra])} cannot be used ({type(error).__name__}: {first_line(error)}): "
            "install it again, or remove it"
        ) from error


def pip_install(extra: str) -> str:
    """The command that installs an extra, for messages."""
    return f'pip install "personalive[{extra}]"'
