"""The published repositories on the hub, and its cache on this machine.

Every file is asked for at the commit of the manifest. So a file that is in the cache is the right one or damaged: no
start needs the network once everything is there.
"""

import logging
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from huggingface_hub import HfApi, constants, hf_hub_download
from huggingface_hub.errors import HFValidationError
from huggingface_hub.file_download import repo_folder_name

from personalive.errors import WeightsError
from personalive.weights.checksum_cache import Records
from personalive.weights.manifest import Known, Manifest, PublishedFile, Repository, published
from personalive.weights.source import format_size

logger = logging.getLogger(__name__)

REMEDY = "Run `personalive download`: it fetches the file anew."
_FAILURES = 3
"""Broken connections in a row, without anything gained, after which a download is given up."""
_PAUSE_SECONDS = 0.5
_LOG_SECONDS = 10.0


@dataclass(frozen=True)
class DownloadProgress:
    """How far the download of one file is."""

    path: str
    done: int
    """Bytes."""
    total: int | None
    """Bytes."""


ProgressCallback = Callable[[DownloadProgress], None]


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
        """Where models in this package's own format lie."""
        return (Path(constants.HF_HOME) if self.home is None else self.home) / "personalive"

    def folder(self, repository: Repository) -> Path:
        """The cache's folder of one repository."""
        return self.cache / repo_folder_name(repo_id=repository.name, repo_type="model")

    def cached(self, file: PublishedFile) -> tuple[str, Path] | None:
        """Name and path of the preferred format of a file that the cache has."""
        snapshot = self.folder(file.repository) / "snapshots" / file.repository.revision
        paths = {name: snapshot / file.hub_path(name) for name in file.names}
        return next(((name, path) for name, path in paths.items() if path.is_file()), None)

    def check(self, file: PublishedFile, name: str, path: Path, listed: Known | None, *, thorough: bool) -> bool:
        """Compare a cached file with what the manifest, the hub or an earlier download says of it.

        Returns:
            False where nothing says anything about the file.

        Raises:
            WeightsError: it differs.
        """
        records = Records(self.folder(file.repository) / "personalive-verified.json")
        key = f"{file.repository.revision}/{file.hub_path(name)}"
        known = file.known.get(name) or listed or records.known(key) or _known_by_blob(path)
        if known is None:
            return False
        records.check(key, path, file.label(name), known, remedy=REMEDY, thorough=thorough)
        return True

    def listing(self, repository: Repository) -> dict[str, Known]:
        """All files of a repository at its pinned commit, with size and digest.

        Raises:
            WeightsError: the hub can not be reached, refuses, or answers for another commit.
        """
        try:
            info = HfApi(endpoint=self.endpoint).model_info(
                repository.name, revision=repository.revision, files_metadata=True
            )
        except (OSError, HFValidationError) as error:
            raise WeightsError(_unreachable(repository, error)) from error
        if info.sha != repository.revision:
            raise WeightsError(
                f"the hub answered with revision {info.sha} of {repository.name} where "
                f"{repository.revision} was asked for: nothing is downloaded from it"
            )
        files = {}
        for sibling in info.siblings or []:
            size, digest = (sibling.lfs.size, sibling.lfs.sha256) if sibling.lfs else (sibling.size, sibling.blob_id)
            if not _is_digest(digest):
                raise WeightsError(f"the hub says that the digest of {sibling.rfilename} is {digest!r}, which is none")
            files[sibling.rfilename] = Known(size, digest)
        return files

    def fetch(self, file: PublishedFile, name: str, known: Known, progress: ProgressCallback, *, anew: bool) -> Path:
        """Download one file into the cache, from where an earlier attempt stopped, and check it.

        Args:
            anew: what is in the cache is damaged: replace it.

        Raises:
            WeightsError: the connection broke again and again, or the file is not what the hub or the manifest says.
        """
        partial = self.folder(file.repository) / "blobs" / f"{known.digest}.incomplete"
        damaged = self.cached(file) if anew else None
        if damaged is not None:
            damaged[1].resolve().unlink()
            damaged[1].unlink(missing_ok=True)
        if known.size is not None and _size(partial) >= known.size:
            partial.unlink()  # nothing is left to ask the hub for, and still it is not the file
        found = self._fetch_persistently(file, name, known, partial, progress)
        self.check(file, name, found, known, thorough=True)
        if self.cached(file) != (name, found):
            raise WeightsError(f"the hub sent {file.label(name)} as part of another revision, {found}: it is not used")
        progress(DownloadProgress(file.hub_path(name), found.stat().st_size, known.size))
        return found

    def _fetch_persistently(
        self, file: PublishedFile, name: str, known: Known, partial: Path, progress: ProgressCallback
    ) -> Path:
        label, path = file.label(name), file.hub_path(name)
        failures = 0
        while True:
            before = _size(partial)
            try:
                with _Watcher(partial, path, known.size, progress):
                    found = hf_hub_download(
                        file.repository.name,
                        path,
                        revision=file.repository.revision,
                        endpoint=self.endpoint,
                        cache_dir=self.cache,
                    )
                return Path(found)
            except (OSError, HFValidationError) as error:
                failures = 1 if _size(partial) > before else failures + 1
                if failures == _FAILURES or not _is_passing(error):
                    raise WeightsError(
                        f"the download of {label} stopped at {format_size(_size(partial))} of "
                        f"{format_size(known.size)}: {error}. "
                        f"Run `personalive download` again: it goes on where it stopped."
                    ) from error
                logger.warning("%s: the connection broke (%s); going on where it stopped", label, error)
                time.sleep(_PAUSE_SECONDS)

    def require_space(self, size: int) -> None:
        """Refuse to begin a download that can not end.

        Raises:
            WeightsError: fewer bytes are free where the cache is.
        """
        self.cache.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.cache).free
        if free < size:
            raise WeightsError(
                f"the download needs {format_size(size)}, but only {format_size(free)} are free at {self.cache}: "
                f"make room, or let HF_HOME name another folder"
            )


def expected_of(file: PublishedFile, listing: Mapping[str, Known]) -> tuple[str, Known] | None:
    """The preferred format that the hub has, and what it must be.

    Raises:
        WeightsError: the hub says something else about a file than the manifest.
    """
    for name in file.names:
        listed = listing.get(file.hub_path(name))
        if listed is None:
            continue
        known = file.known.get(name)
        if known is not None and known != listed:
            raise WeightsError(
                f"the hub offers {file.label(name)} with {listed.size} bytes and digest {listed.digest}, but "
                f"{known.size} bytes and {known.digest} are known: it is not downloaded"
            )
        return name, listed
    return None


def log_progress() -> ProgressCallback:
    """Lines in the log where the hub client shows no bars, that is, where there is no terminal."""
    if sys.stderr.isatty():
        return lambda progress: None
    return lambda progress: logger.info(
        "%s: %s of %s", progress.path, format_size(progress.done), format_size(progress.total)
    )


class _Watcher:
    """Tells every few seconds how much of a file has come."""

    def __init__(self, partial: Path, path: str, total: int | None, progress: ProgressCallback) -> None:
        self._partial, self._path, self._total, self._progress = partial, path, total, progress
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"download of {path}", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(_LOG_SECONDS):
            self._progress(DownloadProgress(self._path, _size(self._partial), self._total))


def _known_by_blob(path: Path) -> Known | None:
    """The cache names a file after its digest, also where another program downloaded it."""
    name = path.resolve().name
    return Known(None, name) if path.is_symlink() and _is_digest(name) else None


def _is_digest(text: object) -> bool:
    return isinstance(text, str) and re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", text) is not None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _is_passing(error: Exception) -> bool:
    """Whether it may go better at once: not where the hub answered and refused."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status is None or status >= 500


def _unreachable(repository: Repository, error: Exception) -> str:
    return (
        f"{repository.name} at revision {repository.revision} can not be read from the hub: {error}. "
        f"Check the network and HF_ENDPOINT, or copy the hub cache (HF_HOME) from a machine that has it."
    )
