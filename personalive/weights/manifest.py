"""The published files: where they are and what is known of them (docs/reference/weights.md sections 1 and 8)."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
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

    def contradicts(self, other: "FileDigest") -> bool:
        """Whether one file cannot be both."""
        pairs = ((self.size, other.size), (self.digest, other.digest))
        return any(mine != theirs for mine, theirs in pairs if mine is not None and theirs is not None)


def is_digest(text: object) -> bool:
    """Whether it is a sha256, a git blob id or a commit."""
    return isinstance(text, str) and re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", text) is not None


@dataclass(frozen=True)
class Held:
    """Why a repository is not at its pinned commit."""

    pinned: str
    hub: str
    """The mirror that the user named; empty: none."""
    asked: str
    """The revision that the user named; empty: none, so that what is known of the pinned files still holds."""


@dataclass(frozen=True)
class Repository:
    """One repository at one revision: the commit that this package was written for, or another that it is held to."""

    name: str
    revision: str
    prefix: str
    """What comes before a file's name inside the repository."""
    folder: str
    """Where the repository's files are in the published local layout."""
    licence: str
    held: Held | None = None

    @property
    def label(self) -> str:
        """How messages call it."""
        return f"{self.name}@{self.revision if '@' in self.revision else self.revision[:8]}"


@dataclass(frozen=True)
class PublishedFile:
    """One file of a network, perhaps published in several formats."""

    network: str
    repository: Repository
    names: tuple[str, ...]
    """The formats, the preferred one first; relative to the repository's prefix and to its local folder."""
    kind: FileKind = "weights"
    """`base` weights are needed only if the network's other files lack keys; `config` is a configuration to check."""
    known: Mapping[str, FileDigest] = field(default_factory=dict)
    """What is known in advance, by name."""

    def hub_path(self, name: str) -> str:
        """Path inside the repository."""
        return self.repository.prefix + name

    def label(self, name: str) -> str:
        """How messages call the file."""
        return f"{self.repository.label}/{self.hub_path(name)}"


@dataclass(frozen=True)
class Manifest:
    """All published files. Weights of one network are in the order in which later ones win."""

    files: tuple[PublishedFile, ...]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Manifest":
        """Read the structure of `manifest.json`."""
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
    def repositories(self) -> tuple[Repository, ...]:
        """Each once."""
        return tuple(dict.fromkeys(file.repository for file in self.files))

    @property
    def origin(self) -> dict[str, str]:
        """Revision of each repository: what a conversion was made from."""
        return {repository.name: repository.revision for repository in self.repositories}

    def of(self, repository: Repository) -> list[PublishedFile]:
        """Files of one repository."""
        return [file for file in self.files if file.repository == repository]

    def at(self, repository: Repository) -> "Manifest":
        """The same with another revision of one repository."""
        asked = repository.held is not None and repository.held.asked
        files = (
            replace(file, repository=repository, known={} if asked else file.known)
            if file.repository.name == repository.name
            else file
            for file in self.files
        )
        return Manifest(tuple(files))


@cache
def published() -> Manifest:
    """The manifest that is part of this package."""
    return Manifest.from_dict(json.loads(resources.files(__package__).joinpath("manifest.json").read_text("utf-8")))
