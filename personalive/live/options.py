"""What the operator of a live server chooses."""

import argparse
import dataclasses
import ipaddress
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qsl

from personalive.cli.model_args import add_model_arguments, model_choice
from personalive.errors import InputError
from personalive.loading import ModelChoice

TOKEN_VARIABLE = "PERSONALIVE_TOKEN"
"""Environment variable with tokens, separated by commas: other users of the machine cannot see it, unlike flags."""


@dataclass(frozen=True)
class IceServer:
    """A STUN or TURN server that helps browsers and this server to find each other."""

    urls: str
    username: str | None = None
    credential: str | None = None

    @classmethod
    def parse(cls, text: str) -> "IceServer":
        """Read `stun:host:port` or `turn:host:port,username=NAME,credential=SECRET`.

        Raises:
            InputError: not of that form.
        """
        urls, _, rest = text.partition(",")
        given = dict(parse_qsl(rest.replace(",", "&"), keep_blank_values=True))
        if urls.partition(":")[0] not in ("stun", "stuns", "turn", "turns") or set(given) - {"username", "credential"}:
            raise InputError(
                f"the ICE server {text!r} must look like stun:HOST:PORT or turn:HOST:PORT,username=…,credential=…"
            )
        return cls(urls, given.get("username"), given.get("credential"))

    def to_dict(self) -> dict[str, str]:
        """As browsers take it."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}


@dataclass(frozen=True)
class ServeOptions:
    """Settings of a live server; checked when made.

    Raises:
        InputError: a value that cannot be used, or an address open to others without a token.
    """

    host: str = "127.0.0.1"
    port: int = 7860
    media_host: str | None = None
    """Where WebRTC's media is sent from and received; None: at `host`."""
    max_sessions: int = 4
    model: ModelChoice = field(default_factory=ModelChoice)
    latency: Literal["low", "balanced"] = "balanced"
    face_boxes: Literal["mesh", "keypoints"] = "mesh"
    max_batch: int = 1
    """Sessions in one call. A GPU that one session fills gains nothing from more, and everybody waits longer."""
    audio: bool = False
    tokens: tuple[str, ...] = ()
    tls_cert: Path | None = None
    tls_key: Path | None = None
    ice_servers: tuple[IceServer, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    """Names under which browsers may call, besides the address that is listened on; needed behind a proxy."""
    idle_seconds: float = 60.0
    """A session without camera frames for so long is closed."""
    linger_seconds: float = 15.0
    """A session whose client went away is kept for so long, so that it can come back."""
    load_at_start: bool = True
    insecure: bool = False
    """Listen beyond this machine without a token."""
    presets: Path | None = None
    """A folder of portraits that the page offers; None: those of the package."""

    def __post_init__(self) -> None:
        _between("port", self.port, 0, 65535)
        _between("max_sessions", self.max_sessions, 1, 64)
        _between("max_batch", self.max_batch, 1, 16)
        _between("idle_seconds", self.idle_seconds, 1, 86400)
        _between("linger_seconds", self.linger_seconds, 0, 3600)
        if (self.tls_cert is None) != (self.tls_key is None):
            raise InputError("tls_cert and tls_key belong together: give both or neither")
        for path in (self.tls_cert, self.tls_key):
            if path is not None and not path.is_file():
                raise InputError(f"{path} is not a file; tls_cert and tls_key name PEM files")
        if any(not token.isascii() or not 8 <= len(token) <= 256 or not token.isprintable() for token in self.tokens):
            raise InputError("a token must have 8 to 256 printable ASCII characters")
        if not self.is_local and not self.tokens and not self.insecure:
            raise InputError(
                f"listening on {self.host} lets others in: set {TOKEN_VARIABLE} or give --token SECRET, "
                "or --insecure if the network is trusted"
            )

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the server."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def page_url(self) -> str:
        """Where a browser on this machine finds the page."""
        name = "localhost" if self.host in ("0.0.0.0", "::", "127.0.0.1", "::1") else self.host
        return f"{'https' if self.tls_cert else 'http'}://{name}:{self.port}/"


def _between(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise InputError(f"{name} is {value}: it must be from {low} to {high}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the flags of `personalive serve`."""
    add_model_arguments(parser)
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on (default: %(default)s, this machine only)")
    add("--port", type=int, default=7860, help="port to listen on (default: %(default)s)")
    add("--media_host", help="address of this machine for WebRTC's media (UDP), if not --host: behind a proxy, 0.0.0.0")
    add("--max_sessions", type=int, default=4, help="people at once (default: %(default)s)")
    add("--latency", choices=("low", "balanced"), default="balanced", help="low: twice the calls for less delay")
    add(
        "--face_boxes", choices=("mesh", "keypoints"), default="mesh", help="how faces are found (default: %(default)s)"
    )
    add("--max_batch", type=int, default=1, help="sessions in one call, for GPUs that one does not fill")
    add("--audio", action="store_true", help="send the microphone back, delayed like the picture")
    add(
        "--token",
        action="append",
        default=[],
        help="secret that clients must send; may be given several times. Other users of this machine can read it in "
        f"the list of processes: better set {TOKEN_VARIABLE}, with commas between several",
    )
    add("--tls_cert", type=Path, help="certificate (PEM) for https")
    add("--tls_key", type=Path, help="its private key (PEM)")
    add("--ice_server", action="append", default=[], help="stun:HOST:PORT or turn:HOST:PORT,username=…,credential=…")
    add("--allowed_host", action="append", default=[], help="further name under which browsers may call")
    add("--idle_seconds", type=float, default=60.0, help="close sessions without camera frames (default: %(default)s)")
    add("--presets", type=Path, help="folder of portraits that the page offers")
    add("--insecure", action="store_true", help="allow other machines without a token")


def _tokens_of_environment() -> list[str]:
    return [token.strip() for token in os.environ.get(TOKEN_VARIABLE, "").split(",") if token.strip()]


def from_arguments(arguments: argparse.Namespace) -> ServeOptions:
    """The options that the flags of `add_arguments` gave.

    Raises:
        InputError: a value that cannot be used.
    """
    values: dict[str, Any] = {key: getattr(arguments, key) for key in vars(arguments)}
    values["model"] = model_choice(arguments)
    values["tokens"] = (*values.pop("token"), *_tokens_of_environment())
    values["ice_servers"] = tuple(IceServer.parse(text) for text in values.pop("ice_server"))
    values["allowed_hosts"] = tuple(values.pop("allowed_host"))
    known = {each.name for each in dataclasses.fields(ServeOptions)}
    return ServeOptions(**{name: value for name, value in values.items() if name in known})
