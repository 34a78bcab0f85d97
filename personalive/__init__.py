"""A portrait that moves like the face in a video or at a webcam."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from personalive.animate.job import animate
    from personalive.config import ModelConfig
    from personalive.engine.stream import Stream
    from personalive.errors import PersonaLiveError
    from personalive.pipeline import PersonaLive
    from personalive.settings import AnimateOptions

__all__ = ["AnimateOptions", "ModelConfig", "PersonaLive", "PersonaLiveError", "Stream", "__version__", "animate"]

__version__ = "0.1.0"

_HOMES = {
    "AnimateOptions": "personalive.settings",
    "ModelConfig": "personalive.config",
    "PersonaLive": "personalive.pipeline",
    "PersonaLiveError": "personalive.errors",
    "Stream": "personalive.engine.stream",
    "animate": "personalive.animate.job",
}


# The package `animate` takes its name when it is first imported. That is now, so that the name is the function's.
importlib.import_module("personalive.animate")
del globals()["animate"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: `personalive --help` needs no PyTorch."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
