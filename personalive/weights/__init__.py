"""Finds, verifies and loads weights (docs/reference/weights.md).

Sources are "personalive" (the published files, in the hub's cache), "demo" (the small model of the repository), a
folder in the published layout, and a folder in this package's own format.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from personalive.models import NETWORKS
    from personalive.weights.conversion import convert
    from personalive.weights.downloads import PlannedFile, download
    from personalive.weights.folder import save_folder
    from personalive.weights.hub import Hub
    from personalive.weights.load import load_into
    from personalive.weights.resolution import resolve
    from personalive.weights.source import LoadReport, WeightsFile, WeightsSource
    from personalive.weights.tiny_vae import load_tiny_decoder

__all__ = [
    "NETWORKS",
    "Hub",
    "LoadReport",
    "PlannedFile",
    "WeightsFile",
    "WeightsSource",
    "convert",
    "download",
    "load_into",
    "load_tiny_decoder",
    "resolve",
    "save_folder",
]

_HOMES = {
    "NETWORKS": "personalive.models",
    "Hub": "personalive.weights.hub",
    "LoadReport": "personalive.weights.source",
    "PlannedFile": "personalive.weights.downloads",
    "WeightsFile": "personalive.weights.source",
    "WeightsSource": "personalive.weights.source",
    "convert": "personalive.weights.conversion",
    "download": "personalive.weights.downloads",
    "load_into": "personalive.weights.load",
    "load_tiny_decoder": "personalive.weights.tiny_vae",
    "resolve": "personalive.weights.resolution",
    "save_folder": "personalive.weights.folder",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: what is only looked for in the cache needs no PyTorch."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
