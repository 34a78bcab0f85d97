"""The places that published files come from: Hugging Face's hub and its mirrors, plain file servers, ModelScope.

They differ in what they say about a file before it comes. A hub with Hugging Face's protocol names the commit, and the
size and digest of every file; ModelScope has sizes and digests, but its own commits; a file server says nothing.
"""

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlencode, urlsplit

from huggingface_hub import HfApi, get_hf_file_metadata, get_session, hf_hub_download, hf_hub_url
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import WeakFileLock, build_hf_headers
from huggingface_hub.utils._runtime import is_xet_available  # which has no public name

from personalive.errors import InputError, WeightsError
from personalive.weights.manifest import FileDigest, Repository, is_digest
from personalive.weights.transfer import NETWORK_ERRORS, persist

MODELSCOPE = "modelscope"
"""What `--hub` calls ModelScope; anything else is `HUGGING_FACE` or an address."""
HUGGING_FACE = "huggingface"
OTHER_HUB = (
    "`personalive download --hub modelscope` (or PERSONALIVE_HUB) takes a mirror, --hub URL one of yours; or copy the "
    "hub cache (HF_HOME) from a machine that has it."
)
_TIMEOUT_SECONDS = 10.0
_NO_LISTING: tuple[type[Exception], ...] = (*NETWORK_ERRORS, ValueError)
_NO_FILES: tuple[type[Exception], ...] = (*_NO_LISTING, LookupError, TypeError)
"""ModelScope's answer may be anything."""
_PLAIN = {"Accept-Encoding": "identity"}
"""Headers: sizes and ranges count the bytes of the file itself."""


class RevisionGoneError(WeightsError):
    """The remote has the repository, but not the revision."""


class RepositoryAbsentError(WeightsError):
    """The remote does not have the repository."""


@dataclass(frozen=True)
class Listing:
    """What a remote has in a repository."""

    revision: str
    """The name of the cache's folder for it: a commit, or one that says where else the files come from."""
    files: Mapping[str, FileDigest]
    """By path; None where the remote states no digest."""
    remote: "Remote"
    """Downloads them."""


class HuggingFace:
    """The Hugging Face hub, or a mirror that speaks its protocol."""

    branch: str | None = None
    """What to ask for instead of the pinned commits, where a remote cannot know them."""

    def __init__(self, endpoint: str | None = None) -> None:
        """Take a mirror's address; None: what `HF_ENDPOINT` says, else the public hub.

        Only these two are sent the user's access token: a mirror may be anybody's.
        """
        self.name = endpoint or "the Hugging Face hub"
        self._endpoint, self._token = endpoint, None if endpoint is None else False

    def listing(self, repository: str, revision: str, paths: Sequence[str]) -> Listing:
        """What there is of these files, and perhaps of others. A mirror without the protocol counts as a `FileServer`.

        Raises:
            RevisionGoneError: there is no such revision.
            RepositoryAbsentError: there is no such repository.
            WeightsError: the remote cannot be reached, refuses, or answers for another commit.
        """
        try:
            info = HfApi(endpoint=self._endpoint, token=self._token).model_info(
                repository, revision=revision, files_metadata=True
            )
        except RevisionNotFoundError as error:
            raise RevisionGoneError(f"{self.name} does not have revision {revision} of {repository}") from error
        except _NO_LISTING as error:
            if self._endpoint is not None and _is_no_hub(error):
                return FileServer(self._endpoint).listing(repository, revision, paths)
            raise _unreadable(self.name, repository, revision, error) from error
        if info.sha is None or not is_digest(info.sha) or (is_digest(revision) and info.sha != revision):
            raise WeightsError(
                f"{self.name} answered with revision {info.sha} of {repository} when asked for {revision}: "
                f"nothing is downloaded from it"
            )
        files = {}
        for sibling in info.siblings or []:
            size, digest = (sibling.lfs.size, sibling.lfs.sha256) if sibling.lfs else (sibling.size, sibling.blob_id)
            files[sibling.rfilename] = FileDigest(size, _require_digest(digest, self.name, sibling.rfilename))
        return Listing(info.sha, files, self)

    def download(self, repository: Repository, path: str, expected: FileDigest, folder: Path) -> Path:
        """Bring one file into a repository's folder in the cache, from where an earlier attempt stopped.

        Raises:
            WeightsError: the connection broke again and again.
        """
        url = hf_hub_url(repository.name, path, revision=repository.revision, endpoint=self._endpoint)
        blob = folder / "blobs" / str(expected.digest)
        partial, lock = blob.with_name(f"{blob.name}.incomplete"), _lock(folder, blob.name)

        def download() -> Path:
            # From version 1 on, the client drops what has come when it is interrupted. What is cached it only links.
            if not blob.is_file():
                found = get_hf_file_metadata(url, token=self._token, endpoint=self._endpoint)
                if found.xet_file_data is None or not is_xet_available():  # Xet is faster, but starts again
                    at_home = urlsplit(found.location).netloc == urlsplit(url).netloc
                    headers = build_hf_headers(token=self._token) if at_home else {}
                    _continue(found.location, partial, blob, lock, headers | _PLAIN, expected.size, path)
            return Path(
                hf_hub_download(
                    repository.name,
                    path,
                    revision=repository.revision,
                    endpoint=self._endpoint,
                    token=self._token,
                    cache_dir=folder.parent,
                )
            )

        return persist(download, partial, f"{repository.label}/{path}", expected.size)


class FileServer:
    """A mirror that has files at Hugging Face's paths, and nothing that vouches for them.

    The name of their folder in the cache is not a commit, so that no program takes them for the hub's.
    """

    branch: str | None = None

    def __init__(self, endpoint: str) -> None:
        self.name = self._endpoint = endpoint

    def listing(self, repository: str, revision: str, paths: Sequence[str]) -> Listing:
        """As `HuggingFace.listing`; only sizes are known."""
        upstream, files = _upstream(revision), {}
        for path in paths:
            try:
                session: Any = get_session()  # of requests, or from version 1 of the hub's client on, of httpx
                follow = "follow_redirects" if hasattr(session, "follow_redirects") else "allow_redirects"
                response = session.head(
                    self._url(repository, upstream, path),
                    headers=_PLAIN,
                    timeout=_TIMEOUT_SECONDS,
                    **{follow: True},
                )
                if response.status_code != 404:
                    response.raise_for_status()
                    size = response.headers.get("Content-Length", "")
                    files[path] = FileDigest(int(size) if size.isdecimal() else None, None)
            except NETWORK_ERRORS as error:
                raise _unreadable(self.name, repository, upstream, error) from error
        if not files:
            raise RevisionGoneError(f"{self.name} has nothing of {repository} at revision {upstream}")
        name = f"{quote(upstream, safe='')}@{re.sub(r'[^0-9A-Za-z.-]+', '_', self._endpoint)}"
        return Listing(name, files, self)

    def download(self, repository: Repository, path: str, expected: FileDigest, folder: Path) -> Path:
        """As `HuggingFace.download`."""
        target = folder / "snapshots" / repository.revision / path
        partial = target.with_name(f"{target.name}.incomplete")
        lock = _lock(folder, f"{repository.revision}/{path}")
        url = self._url(repository.name, _upstream(repository.revision), path)

        def download() -> Path:
            return _continue(url, partial, target, lock, _PLAIN, expected.size, path)

        return persist(download, partial, f"{repository.label}/{path}", expected.size)

    def _url(self, repository: str, revision: str, path: str) -> str:
        return hf_hub_url(repository, path, revision=revision, endpoint=self._endpoint)


class ModelScope(FileServer):
    """ModelScope, or the installation that `MODELSCOPE_ENDPOINT` names.

    Written after its published client; it could not be tried against the real host where this was developed.
    """

    branch: str | None = "master"

    def __init__(self) -> None:
        super().__init__(os.environ.get("MODELSCOPE_ENDPOINT", "https://modelscope.cn").rstrip("/"))
        self.name = "ModelScope"

    def listing(self, repository: str, revision: str, paths: Sequence[str]) -> Listing:
        """As `HuggingFace.listing`; the revision that is returned changes with the content of these files."""
        upstream = _upstream(revision)
        query = urlencode({"Revision": upstream, "Recursive": "true"})
        try:
            response = get_session().get(
                f"{self._endpoint}/api/v1/models/{repository}/repo/files?{query}", timeout=_TIMEOUT_SECONDS
            )
            if response.status_code == 404:
                raise RepositoryAbsentError(f"ModelScope does not have {repository}")
            response.raise_for_status()
            entries = response.json()["Data"]["Files"] or []  # None for an unknown revision
            listed = {entry["Path"]: FileDigest(int(entry["Size"]), entry["Sha256"]) for entry in entries}
        except _NO_FILES as error:
            raise _unreadable(self.name, repository, upstream, error) from error
        files = {path: listed[path] for path in paths if path in listed}
        for path, file in files.items():
            _require_digest(file.digest, self.name, path)
        content = hashlib.sha256(repr(sorted((path, file.digest) for path, file in files.items())).encode())
        name = f"{quote(upstream, safe='')}@{MODELSCOPE}-{content.hexdigest()[:8]}"
        if not files or ("@" in revision and name != revision):
            raise RevisionGoneError(f"ModelScope does not have revision {revision} of {repository}")
        return Listing(name, files, self)

    def _url(self, repository: str, revision: str, path: str) -> str:
        return f"{self._endpoint}/api/v1/models/{repository}/repo?" + urlencode(
            {"Revision": revision, "FilePath": path}
        )


Remote = HuggingFace | FileServer


def open_remotes(address: str) -> list[Remote]:
    """What the user named; after ModelScope, the Hugging Face hub for repositories that it lacks.

    Args:
        address: "modelscope", a mirror's address, or "huggingface" or nothing for the hub alone.

    Raises:
        InputError: it is none of these.
    """
    if address in ("", HUGGING_FACE):
        return [HuggingFace()]
    if address == MODELSCOPE:
        return [ModelScope(), HuggingFace()]
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query or parts.fragment:
        raise InputError(
            f"the hub is {address!r}: it must be {HUGGING_FACE}, {MODELSCOPE}, or the address of a mirror, "
            f"http(s)://HOST, without user, query and fragment"
        )
    return [HuggingFace(address.rstrip("/"))]


def _lock(folder: Path, name: str) -> Path:
    """The file that the hub client locks while it brings a blob into a repository's folder."""
    return folder.parent / ".locks" / folder.name / f"{name}.lock"


def _continue(
    url: str, partial: Path, target: Path, lock: Path, headers: Mapping[str, str], size: int | None, label: str
) -> Path:
    """Bring a file from where an earlier attempt stopped.

    Args:
        partial: what has come so far.
        target: the name that it gets when all has come.
        lock: see `_lock`. Other programs with this cache may be bringing the same file.
        size: of the whole file, in bytes; None: not known.
        label: how the bar calls the file.
    """
    for each in (target, lock):
        each.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(lock):
        if target.is_file():  # another process brought it meanwhile
            return target
        with partial.open("ab") as file:
            if size is not None and file.tell() >= size:  # nothing is left to request, and yet it is not the file
                file.truncate(0)
            http_get(
                url,
                file,
                resume_size=file.seek(0, os.SEEK_END),
                headers=dict(headers),
                expected_size=size,
                displayed_filename=label,
            )
        return partial.replace(target)


def _upstream(revision: str) -> str:
    """What the remote calls the revision behind the name of a cache's folder."""
    name, mirrored, _ = revision.partition("@")
    return unquote(name) if mirrored else revision


def _require_digest(digest: object, remote: str, path: str) -> str:
    if not is_digest(digest):
        raise WeightsError(f"{remote} says that the digest of {path} is {digest!r}, which is not a valid digest")
    return str(digest)


def _unreadable(remote: str, repository: str, revision: str, error: Exception) -> WeightsError:
    reason = str(error).rstrip(".")
    message = (
        f"{repository} at revision {revision} cannot be read from {remote}: {reason}. Check the network, HF_ENDPOINT "
        f"and HF_HUB_OFFLINE. {OTHER_HUB}"
    )
    return RepositoryAbsentError(message) if isinstance(error, RepositoryNotFoundError) else WeightsError(message)


def _is_no_hub(error: Exception) -> bool:
    """Whether what answered does not know Hugging Face's API."""
    response = getattr(error, "response", None)
    unknown = (
        response is not None and response.status_code in (404, 405, 501) and "X-Error-Code" not in response.headers
    )
    return unknown or (isinstance(error, ValueError) and not isinstance(error, HFValidationError))
