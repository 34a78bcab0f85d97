"""What finding and loading weights share: a set of files, and what was read from them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from personalive.assets import DEMO_MODEL
from personalive.config import ModelConfig
from personalive.errors import WeightsError

PUBLISHED = "personalive"
"""The name of the published model as a source."""
DEMO = "demo"
"""That of the small model that comes with the package."""
DOWNLOAD_HINT = "`personalive download` fetches the published files"


@dataclass(frozen=True)
class WeightsFile:
    """A file with tensors."""

    path: Path
    label: str
    """How messages call it: the path, or the repository with its revision."""
    base: bool = False
    """Whether it is needed only if the network's other files lack keys."""


@dataclass(frozen=True)
class WeightsSource:
    """Where the weights of every network of a model are."""

    name: str
    config: ModelConfig
    files: Mapping[str, tuple[WeightsFile, ...]]
    """By network, in the order in which later files win."""
    published: bool
    """Whether the files have the published formats, with their variations, or this package's own."""
    checked: bool
    """Whether every file was compared with a recorded size and digest."""
    absent_base: str = ""
    """Where base weights were looked for, which are needed only if the other files lack keys."""
    origin: Mapping[str, str] = field(default_factory=dict)
    """Repositories and their revisions that the files are from, or were converted from."""


@dataclass(frozen=True)
class LoadReport:
    """Which file supplied how much of one network."""

    network: str
    suppliers: Mapping[str, int]
    """Number of tensors by file."""
    computed: tuple[str, ...]
    """Keys that no file has: tables that were computed, and weights that no output depends on."""
    ignored: tuple[str, ...]
    """Keys of the files that the network does not know."""
    seconds: float

    def __str__(self) -> str:
        supplied = ", ".join(f"{count} tensors from {label}" for label, count in self.suppliers.items())
        computed = f", {len(self.computed)} computed" if self.computed else ""
        return f"{self.network}: {supplied}{computed} ({self.seconds:.1f} s)"


def model_folder(source: str | Path) -> Path:
    """The folder of a model that is not the published one.

    Raises:
        WeightsError: there is none.
    """
    folder = DEMO_MODEL if str(source) == DEMO else Path(source).expanduser()
    if not folder.is_dir():
        raise WeightsError(
            f"there is no folder {folder.absolute()}: give '{PUBLISHED}', '{DEMO}' or a folder with weights; "
            f"{DOWNLOAD_HINT}"
        )
    return folder


def format_size(size: int | None) -> str:
    """Bytes for people to read, in decimal units."""
    if size is None:
        return "unknown size"
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} bytes"
