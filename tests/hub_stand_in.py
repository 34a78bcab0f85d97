"""A hub on loopback: enough of its protocol for `huggingface_hub`, with the faults of networks and disks.

It serves repositories out of folders, at one revision each. Files of `LARGE` bytes or more are answered as the hub
answers for files in git LFS: with a redirect, a sha256 as ETag, and ranges. The redirect leads to this host again, so
clients from version 2 on follow it before they read the hub's headers: these come there too. It can also be a server of
files with the same paths, or answer as ModelScope's published client expects.
"""

import hashlib
import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = 2000
"""Bytes from which a file is kept outside git."""

_API = re.compile(r"/api/models/(?P<name>[^/]+/[^/]+)/revision/(?P<revision>[^/]+)")
_RESOLVE = re.compile(r"/(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
_MODELSCOPE = re.compile(r"/api/v1/models/(?P<name>[^/]+/[^/]+)/repo(?P<files>/files)?")
_BLOB = re.compile(r"/blobs/(?P<digest>[0-9a-f]{64})")


@dataclass(frozen=True)
class StoredRepository:
    """A folder that is served as a repository, at one commit."""

    folder: Path
    revision: str
    branches: tuple[str, ...] = ("main",)
    """Other names of the revision."""

    def files(self) -> dict[str, Path]:
        """By path inside the repository."""
        return {str(path.relative_to(self.folder)): path for path in sorted(self.folder.rglob("*")) if path.is_file()}


@dataclass
class Faults:
    """What goes wrong; may be changed while the server runs."""

    cuts: list[int] = field(default_factory=list)
    """Bytes after which the connection breaks while a large file is sent, one number for each time."""
    cut_path: str = ""
    """The file that is cut."""
    corrupt: set[str] = field(default_factory=set)
    """Paths whose last byte is sent wrong."""
    claim_revision: str | None = None
    """The revision that answers claim, whatever was asked for."""
    claim_commit: str | None = None
    """The same, but only where files are sent."""
    kind: Literal["hugging face", "files", "modelscope"] = "hugging face"
    """Which kind of server it is."""
    claim: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What listings say of LFS files, by path, instead of the truth: `size`, `sha256`."""


@dataclass(frozen=True)
class Request:
    """What a client asked for."""

    method: str
    path: str
    start: int
    """First byte of the range, 0 where none was asked for."""
    authorization: str | None


class HubStandIn:
    """The running server; a context manager."""

    def __init__(self, repositories: dict[str, StoredRepository]) -> None:
        self.repositories = repositories
        self.faults = Faults()
        self.requests: list[Request] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        """What HF_ENDPOINT must be."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def fetched(self, name: str) -> list[Request]:
        """Requests for the content of the large file whose path ends in `name`."""
        return [request for request in self.requests if request.method == "GET" and request.path.endswith(name)]

    def blobs(self) -> dict[str, tuple[str, Path, StoredRepository]]:
        """Large files: path inside the repository, file and repository, by digest."""
        return {
            hashlib.sha256(path.read_bytes()).hexdigest(): (name, path, repository)
            for repository in self.repositories.values()
            for name, path in repository.files().items()
            if path.stat().st_size >= LARGE
        }

    def stop(self) -> None:
        """Like a machine whose network is gone."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> "HubStandIn":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._thread.is_alive():
            self.stop()


class _Handler(BaseHTTPRequestHandler):
    hub: HubStandIn
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._route()

    def do_HEAD(self) -> None:
        self._route()

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def _route(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if self.hub.faults.kind == "modelscope":
            self._answer_as_modelscope(
                path, {key: value[0] for key, value in parse_qs(urlsplit(self.path).query).items()}
            )
        elif self.hub.faults.kind == "files":
            self._answer_as_file_server(path)
        elif match := _API.fullmatch(path):
            self._remember(path)
            if repository := self._repository(match):
                self._send(json.dumps(self._listing(match["name"], repository)).encode(), {})
        elif match := _RESOLVE.fullmatch(path):
            self._remember(path)
            if repository := self._repository(match):
                self._resolve(repository, match["path"])
        elif (match := _BLOB.fullmatch(path)) and match["digest"] in (blobs := self.hub.blobs()):
            name, file, repository = blobs[match["digest"]]
            self._remember(f"/blobs/{name}")
            self._send_blob(name, file, self._commit(repository) | _large(match["digest"], file))
        else:
            self._refuse("EntryNotFound")

    def _answer_as_file_server(self, path: str) -> None:
        self._remember(path)
        match = _RESOLVE.fullmatch(path)
        repository = self.hub.repositories.get(match["name"]) if match else None
        if match and repository and match["revision"] in (repository.revision, *repository.branches):
            file = repository.files().get(match["path"])
            if file is not None:
                self._send_blob(match["path"], file)
                return
        self._send(b"<html>not here</html>", {}, status=404)

    def _answer_as_modelscope(self, path: str, query: dict[str, str]) -> None:
        self._remember(query.get("FilePath", path))
        match = _MODELSCOPE.fullmatch(path)
        repository = self.hub.repositories.get(match["name"]) if match else None
        if match is None or repository is None:
            self._send(json.dumps({"Code": 10010205001, "Data": None, "Success": False}).encode(), {}, status=404)
            return
        known = query["Revision"] in repository.branches
        if match["files"]:
            entries: list[dict[str, Any]] = [{"Path": "pretrained_weights", "Type": "tree", "Size": 0, "Sha256": ""}]
            for name, file in repository.files().items():
                content = file.read_bytes()
                entry = {
                    "Path": name,
                    "Type": "blob",
                    "Size": len(content),
                    "Sha256": hashlib.sha256(content).hexdigest(),
                }
                entries.append(entry | self.hub.faults.claim.get(name, {}))
            data = {"Files": entries if known else None, "LatestCommitter": None}
            self._send(json.dumps({"Code": 200, "Data": data, "Success": True}).encode(), {})
        elif known and (blob := repository.files().get(query["FilePath"])) is not None:
            self._send_blob(query["FilePath"], blob)
        else:
            self._send(b"", {}, status=404)

    def _remember(self, path: str) -> None:
        self.hub.requests.append(Request(self.command, path, self._start(), self.headers.get("Authorization")))

    def _start(self) -> int:
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        return int(match[1]) if match else 0

    def _repository(self, match: re.Match[str]) -> StoredRepository | None:
        repository = self.hub.repositories.get(match["name"])
        if repository is None:
            self._refuse("RepoNotFound")
        elif (
            match["revision"] not in (repository.revision, *repository.branches)
            and self.hub.faults.claim_revision is None
        ):
            self._refuse("RevisionNotFound")
            return None
        return repository

    def _revision(self, repository: StoredRepository) -> str:
        return self.hub.faults.claim_revision or repository.revision

    def _listing(self, name: str, repository: StoredRepository) -> dict[str, Any]:
        siblings = []
        for path, file in repository.files().items():
            content = file.read_bytes()
            entry: dict[str, Any] = {"rfilename": path, "size": len(content), "blobId": _git_id(content)}
            if len(content) >= LARGE:
                lfs = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
                entry["lfs"] = lfs | self.hub.faults.claim.get(path, {})
            siblings.append(entry)
        return {"_id": "0", "id": name, "modelId": name, "sha": self._revision(repository), "siblings": siblings}

    def _resolve(self, repository: StoredRepository, path: str) -> None:
        file = repository.files().get(path)
        if file is None:
            self._refuse("EntryNotFound")
            return
        content = file.read_bytes()
        headers = self._commit(repository)
        if len(content) < LARGE:
            self._send(content, headers | {"ETag": f'"{_git_id(content)}"'})
            return
        digest = hashlib.sha256(content).hexdigest()
        headers |= _large(digest, file)
        self._send(b"", headers | {"Location": f"{self.hub.url}/blobs/{digest}"}, status=302)

    def _commit(self, repository: StoredRepository) -> dict[str, str]:
        return {"X-Repo-Commit": self.hub.faults.claim_commit or self._revision(repository)}

    def _send_blob(self, name: str, file: Path, more: Mapping[str, str] = MappingProxyType({})) -> None:
        content, start, faults = file.read_bytes(), self._start(), self.hub.faults
        if start >= len(content):
            self._send(b"", {"Content-Range": f"bytes */{len(content)}"}, status=416)
            return
        if name in faults.corrupt:
            content = content[:-1] + bytes([content[-1] ^ 1])
        headers = {"Accept-Ranges": "bytes", **more}
        if "Range" in self.headers:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        cut = faults.cuts.pop(0) if faults.cuts and (self.command, name) == ("GET", faults.cut_path) else None
        self._send(content[start:], headers, status=206 if "Range" in self.headers else 200, cut=cut)

    def _send(self, body: bytes, headers: dict[str, str], status: int = 200, cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if cut is not None and len(body) > cut:
            self.wfile.write(body[:cut])
            self.close_connection = True
        else:
            self.wfile.write(body)

    def _refuse(self, code: str) -> None:
        self._send(b"", {"X-Error-Code": code, "X-Error-Message": code}, status=404)


def _large(digest: str, file: Path) -> dict[str, str]:
    """What the hub says of a file outside git."""
    return {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(file.stat().st_size)}


def _git_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
