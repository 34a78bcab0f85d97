"""Finds, verifies and loads weights (docs/reference/weights.md).

Sources are "personalive" (the published files, in the hub's cache), "demo" (the small model of the repository), a
folder in the published layout, and a folder in this package's own format.
"""

from personalive.models import NETWORKS
from personalive.weights.convert import convert
from personalive.weights.download import PlannedFile, download
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
