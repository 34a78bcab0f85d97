"""The hub's cache on this machine, and which revision of each repository counts.

Files are requested at the commits of the manifest. So a cached file is either right or damaged, and once everything is
there no start needs the network. Where a download had to take another revision, a record in the cache says so, and
later starts are held to it.
"""

import json
import logging
import os
import shutil
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import constants

from personalive.config import ModelConfig
from personalive.errors import WeightsError
from personalive.weights.checksum_cache import ChecksumCache, digest_of, replace_text
from personalive.weights.manifest import (
    FileDigest,
    Held,
    Manifest,
    PublishedFile,
    Repository,
    is_digest,
    published,
)
from personalive.weights.source import PUBLISHED, WeightsFile, WeightsSource, format_size

if TYPE_CHECKING:
    from personalive.weights.remotes import Remote

logger = logging.getLogger(__name__)

HUB_VARIABLE, REVISION_VARIABLE = "PERSONALIVE_HUB", "PERSONALIVE_REVISION"
REMEDY = "Run `personalive download`: it fetches the file again."


@dataclass(frozen=True)
class Hub:
    """Where published files come from, and where they are kept.

    Args:
        address: "huggingface", "modelscope", or a mirror's address; None: what `PERSONALIVE_HUB` says, else the Hugging
            Face hub or what `HF_ENDPOINT` names in its place.
        revision: to take of a repository whose pinned commit is gone; None: what `PERSONALIVE_REVISION` says.
        home: folder that holds the hub's cache (`hub`) and conversions (`personalive`); None: `HF_HOME`.
        manifest: the files that make a model.
    """

    address: str | None = None
    revision: str | None = None
    home: Path | None = None
    manifest: Manifest = field(default_factory=published)

    @property
    def wanted_address(self) -> str | None:
        """Where the user says files come from."""
        return self.address or os.environ.get(HUB_VARIABLE) or None

    @property
    def wanted_revision(self) -> str | None:
        """What the user says to take where a pinned commit is gone."""
        return self.revision or os.environ.get(REVISION_VARIABLE) or None

    @property
    def cache(self) -> Path:
        """The hub's cache."""
        return Path(constants.HF_HUB_CACHE) if self.home is None else self.home / "hub"

    @property
    def conversions(self) -> Path:
        """Where models in this package's own format are."""
        return (Path(constants.HF_HOME) if self.home is None else self.home) / "personalive"

    def folder(self, repository: Repository) -> Path:
        """The cache's folder of one repository."""
        return self.cache / constants.REPO_ID_SEPARATOR.join(("models", *repository.name.split("/")))

    def cached(self, file: PublishedFile) -> tuple[str, Path] | None:
        """Name and path of the preferred format of a file that the cache has."""
        # The hub client's own look-up follows `refs`, even from the pinned commit to another that was sent for it.
        snapshot = self.folder(file.repository) / "snapshots" / file.repository.revision
        paths = {name: snapshot / file.hub_path(name) for name in file.names}
        return next(((name, path) for name, path in paths.items() if path.is_file()), None)

    def source(self, config: ModelConfig) -> WeightsSource:
        """The cached files with tensors, unchecked."""
        files: dict[str, tuple[WeightsFile, ...]] = {}
        absent_base = ""
        for file in self.manifest.files:
            found = self.cached(file)
            if found is not None and file.kind != "config":
                entry = WeightsFile(found[1], file.label(found[0]), file.kind == "base")
                files[file.network] = (*files.get(file.network, ()), entry)
            elif found is None and file.kind == "base":
                absent_base = file.label(file.names[-1])
        origin = self.manifest.origin
        return WeightsSource(
            PUBLISHED, config, files, published=True, checked=False, absent_base=absent_base, origin=origin
        )

    def check(
        self, file: PublishedFile, name: str, path: Path, expected: FileDigest | None = None, *, thorough: bool = False
    ) -> bool:
        """Compare a cached file with what the manifest, the hub or an earlier download says of it.

        Args:
            expected: what the hub says.
            thorough: hash the file even when it has not changed since it was found right.

        Returns:
            False if nothing is known about the file.

        Raises:
            WeightsError: it differs.
        """
        checksums = ChecksumCache(self.folder(file.repository) / "personalive-verified.json")
        key = f"{file.repository.revision}/{file.hub_path(name)}"
        expected = file.known.get(name) or expected or checksums.recorded(key) or _digest_in_name(path)
        if expected is None:
            return False
        checksums.check(key, path, file.label(name), expected, remedy=REMEDY, thorough=thorough)
        return True

    def fetch(self, remote: "Remote", file: PublishedFile, name: str, expected: FileDigest) -> None:
        """Download one file into the cache, from where an earlier attempt stopped, check it and record its digest.

        A file that is already in the cache is damaged, and is replaced.

        Raises:
            WeightsError: the connection kept breaking, or the file is not what the remote or the manifest says.
        """
        if (damaged := self.cached(file)) is not None:
            damaged[1].resolve().unlink()
            damaged[1].unlink(missing_ok=True)
        found = remote.download(file.repository, file.hub_path(name), expected, self.folder(file.repository))
        if expected.digest is None:
            expected = FileDigest(expected.size, digest_of(found))
        self.check(file, name, found, expected, thorough=True)
        if self.cached(file) != (name, found):
            raise WeightsError(
                f"{remote.name} sent {file.label(name)} as part of another revision, {found}: it is not used"
            )

    def is_recorded(self, repository: Repository) -> bool:
        """Whether later starts are held to this revision already."""
        recorded = self._recorded(repository)
        return recorded == repository if repository.held else recorded is None

    def held(self) -> "Hub":
        """With every repository at the revision that it is held to, unless the user names another revision or hub."""
        manifest = self.manifest
        for repository in manifest.repositories:
            found = self._recorded(repository)
            if found is None or found.held is None or found.held.pinned != repository.revision:
                continue
            if self.wanted_address in (None, found.held.hub) and self.wanted_revision in (
                None,
                found.held.asked,
                found.revision,
            ):
                logger.info("%s is held to revision %s, as %s says", found.name, found.revision, self._record(found))
                manifest = manifest.at(found)
        return replace(self, manifest=manifest)

    def hold(self, repository: Repository) -> None:
        """Hold later starts to the revision of a repository; the pinned one needs no record."""
        path = self._record(repository)
        if repository.held is None:
            path.unlink(missing_ok=True)
        else:
            replace_text(path, json.dumps(asdict(repository.held) | {"revision": repository.revision}, indent=1))

    def _record(self, repository: Repository) -> Path:
        return self.folder(repository) / "personalive-revision.json"

    def _recorded(self, repository: Repository) -> Repository | None:
        try:
            values = json.loads(self._record(repository).read_text("utf-8"))
            revision = values.pop("revision")
            if Path(revision).name != revision:
                raise ValueError(f"the revision is {revision!r}")
            return replace(repository, revision=revision, held=Held(**values))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise WeightsError(
                f"{self._record(repository)} is damaged ({error}): delete it, and run `personalive download`"
            ) from error

    def require_space(self, size: int) -> None:
        """Refuse to start a download that cannot finish.

        Raises:
            WeightsError: fewer bytes are free where the cache is, or it cannot be written to.
        """
        try:
            self.cache.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WeightsError(f"{self.cache} cannot be made ({error}): set HF_HOME to another folder") from error
        free = shutil.disk_usage(self.cache).free
        if free < size:
            raise WeightsError(
                f"the download needs {format_size(size)}, but only {format_size(free)} are free at {self.cache}: "
                f"make room, or set HF_HOME to another folder"
            )


def _digest_in_name(path: Path) -> FileDigest | None:
    """The cache names a file after its digest, even if another program downloaded it."""
    name = path.resolve().name
    return FileDigest(None, name) if path.is_symlink() and is_digest(name) else None
