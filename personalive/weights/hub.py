"""The published repositories on the hub, and its cache on this machine.

Files are asked for at the commits of the manifest. So a cached file is either right or damaged, and no start needs the
network once everything is there. The hub client keeps the cache and continues downloads; here is what it leaves to its
callers: whether a file is the right one, and what happens when a connection breaks.
"""

import logging
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import HfApi, constants, hf_hub_download
from huggingface_hub.errors import HFValidationError
from huggingface_hub.file_download import repo_folder_name

from personalive.config import ModelConfig
from personalive.errors import WeightsError
from personalive.weights.checksum_cache import ChecksumCache
from personalive.weights.manifest import FileDigest, Manifest, PublishedFile, Repository, published
from personalive.weights.source import PUBLISHED, WeightsFile, WeightsSource, format_size

logger = logging.getLogger(__name__)

REMEDY = "Run `personalive download`: it fetches the file again."
_FAILURES = 3
"""Broken connections in a row, without anything gained, after which a download is given up."""
_PAUSE_SECONDS = 0.5
_LOG_SECONDS = 10.0


@dataclass(frozen=True)
class Hub:
    """Where published files come from, and where they are kept.

    Args:
        endpoint: address of the hub; None: what `HF_ENDPOINT` says, else the public one.
        home: folder that holds the hub's cache (`hub`) and conversions (`personalive`); None: `HF_HOME`.
        manifest: the files that make a model.
    """

    endpoint: str | None = None
    home: Path | None = None
    manifest: Manifest = field(default_factory=published)

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
        return self.cache / repo_folder_name(repo_id=repository.name, repo_type="model")

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
            False where nothing says anything about the file.

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

    def listing(self, repository: Repository) -> dict[str, FileDigest]:
        """All files of a repository at its pinned commit, with size and digest.

        Raises:
            WeightsError: the hub cannot be reached, refuses, or answers for another commit.
        """
        try:
            info = HfApi(endpoint=self.endpoint).model_info(
                repository.name, revision=repository.revision, files_metadata=True
            )
        except (OSError, HFValidationError) as error:
            raise WeightsError(
                f"{repository.name} at revision {repository.revision} cannot be read from the hub: {error}. Check the "
                f"network and HF_ENDPOINT, or copy the hub cache (HF_HOME) from a machine that has it."
            ) from error
        if info.sha != repository.revision:
            raise WeightsError(
                f"the hub answered with revision {info.sha} of {repository.name} when asked for "
                f"{repository.revision}: nothing is downloaded from it"
            )
        files = {}
        for sibling in info.siblings or []:
            size, digest = (sibling.lfs.size, sibling.lfs.sha256) if sibling.lfs else (sibling.size, sibling.blob_id)
            if not _is_digest(digest):
                raise WeightsError(f"the hub says that the digest of {sibling.rfilename} is {digest!r}, which is none")
            files[sibling.rfilename] = FileDigest(size, digest)
        return files

    def fetch(self, file: PublishedFile, name: str, expected: FileDigest) -> None:
        """Download one file into the cache, from where an earlier attempt stopped, and check it.

        A file that is in the cache all the same is damaged, and replaced.

        Raises:
            WeightsError: the connection broke again and again, or the file is not what the hub or the manifest says.
        """
        if (damaged := self.cached(file)) is not None:
            damaged[1].resolve().unlink()
            damaged[1].unlink(missing_ok=True)
        partial = self.folder(file.repository) / "blobs" / f"{expected.digest}.incomplete"
        if expected.size is not None and _size(partial) >= expected.size:
            partial.unlink()  # nothing is left to ask the hub for, and still it is not the file

        def download() -> Path:
            path, revision = file.hub_path(name), file.repository.revision
            return Path(
                hf_hub_download(
                    file.repository.name, path, revision=revision, endpoint=self.endpoint, cache_dir=self.cache
                )
            )

        found = _persist(download, partial, file.label(name), expected.size)
        self.check(file, name, found, expected, thorough=True)
        if self.cached(file) != (name, found):
            raise WeightsError(f"the hub sent {file.label(name)} as part of another revision, {found}: it is not used")

    def require_space(self, size: int) -> None:
        """Refuse to begin a download that cannot end.

        Raises:
            WeightsError: fewer bytes are free where the cache is.
        """
        self.cache.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.cache).free
        if free < size:
            raise WeightsError(
                f"the download needs {format_size(size)}, but only {format_size(free)} are free at {self.cache}: "
                f"make room, or set HF_HOME to another folder"
            )


def _persist(download: Callable[[], Path], partial: Path, label: str, size: int | None) -> Path:
    """Repeat a download that continues where it stopped, until it ends or several attempts in a row gain nothing.

    The hub client itself repeats after a timeout, but not when a connection breaks within a file.
    """
    failures = 0
    while True:
        before = _size(partial)
        try:
            with _log_progress(partial, label, size):
                return download()
        except (OSError, RuntimeError, HFValidationError) as error:  # RuntimeError: of the hub's Xet transfer
            failures = 1 if _size(partial) > before else failures + 1
            refused = getattr(getattr(error, "response", None), "status_code", 500) < 500
            if failures == _FAILURES or refused:
                raise WeightsError(
                    f"the download of {label} stopped at {format_size(_size(partial))} of {format_size(size)}: "
                    f"{error}. Run `personalive download` again: it continues where it stopped."
                ) from error
            logger.warning("%s: the connection broke (%s); continuing where it stopped", label, error)
            time.sleep(_PAUSE_SECONDS)


@contextmanager
def _log_progress(partial: Path, label: str, size: int | None) -> Iterator[None]:
    """Log every few seconds how much has come where there is no terminal, for which the hub client draws bars."""
    ended = threading.Event()

    def log() -> None:
        while not ended.wait(_LOG_SECONDS):
            logger.info("%s: %s of %s", label, format_size(_size(partial)), format_size(size))

    thread = threading.Thread(target=log, name=f"progress of {label}", daemon=True)
    if not sys.stderr.isatty():
        thread.start()
    try:
        yield
    finally:
        ended.set()


def _digest_in_name(path: Path) -> FileDigest | None:
    """The cache names a file after its digest, also where another program downloaded it."""
    name = path.resolve().name
    return FileDigest(None, name) if path.is_symlink() and _is_digest(name) else None


def _is_digest(text: object) -> bool:
    return isinstance(text, str) and re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", text) is not None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
