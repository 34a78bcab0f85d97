"""Packages that the extras in pyproject.toml install, and that the engine works without."""

from importlib.util import find_spec

from personalive.errors import MissingExtraError

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
    return [name for name in MODULES[extra] if find_spec(name) is None]


def require(extra: str) -> None:
    """Refuse to continue without an extra.

    Raises:
        MissingExtraError: a package of it is not installed; the message says how to install it.
    """
    absent = missing(extra)
    if absent:
        raise MissingExtraError(f"not installed: {', '.join(absent)}. Install the extra: {pip_install(extra)}")


def pip_install(extra: str) -> str:
    """The command that installs an extra, for messages."""
    return f'pip install "personalive[{extra}]"'
