"""The published files: where they are and what is known of them (docs/reference/weights.md sections 1 and 8)."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any, Literal

FileKind = Literal["weights", "base", "config"]


@dataclass(frozen=True)
class FileDigest:
    """What a file must be."""

    size: int | None
    """Bytes."""
    digest: str | None
    """Lower-case hex: sha256 (64 digits), or the git blob id (40 digits) of a small file that the hub keeps in git."""


@dataclass(frozen=True)
class Repository:
    """One repository at the commit that this package was written for."""

    name: str
    revision: str
    prefix: str
    """What comes before a file's name inside the repository."""
    folder: str
    """Where the repository's files are in the published local layout."""
    licence: str


@dataclass(frozen=True)
class PublishedFile:
    """One file of a network, perhaps published in several formats."""

    network: str
    repository: Repository
    names: tuple[str, ...]
    """The formats, the preferred one first; relative to the repository's prefix and to its local folder."""
    kind: FileKind = "weights"
    """`base` weights are needed only where the network's other files leave keys uncovered; `config` holds facts."""
    known: Mapping[str, FileDigest] = field(default_factory=dict)
    """What is known in advance, by name."""

    def hub_path(self, name: str) -> str:
        """Path inside the repository."""
        return self.repository.prefix + name

    def label(self, name: str) -> str:
        """How messages call the file."""
        return f"{self.repository.name}@{self.repository.revision[:8]}/{self.hub_path(name)}"


@dataclass(frozen=True)
class Manifest:
    """All published files. Weights of one network come in the order in which later ones win."""

    files: tuple[PublishedFile, ...]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Manifest":
        """From the structure of `manifest.json`."""
        repositories = {entry["name"]: Repository(**entry) for entry in values["repositories"]}
        files = []
        for entry in values["files"]:
            known = {name: FileDigest(**digest) for name, digest in entry.get("known", {}).items()}
            files.append(
                PublishedFile(
                    network=entry["network"],
                    repository=repositories[entry["repository"]],
                    names=tuple(entry["names"]),
                    kind=entry.get("kind", "weights"),
                    known=known,
                )
            )
        return cls(tuple(files))

    @property
    def origin(self) -> dict[str, str]:
        """Revision of each repository: what a conversion was made from."""
        return {file.repository.name: file.repository.revision for file in self.files}


@cache
def published() -> Manifest:
    """The manifest that is part of this package."""
    return Manifest.from_dict(json.loads(resources.files(__package__).joinpath("manifest.json").read_text("utf-8")))
