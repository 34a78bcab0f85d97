"""The options of a live server's operator."""

import dataclasses
import ipaddress
import os
import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qsl

from pydantic import BeforeValidator, Field

from personalive.errors import InputError
from personalive.loading import ModelChoice
from personalive.net.addresses import authority
from personalive.settings import AnimateOptions, Settings, Surface, count_or_auto, same, setting
from personalive.types import FaceBoxes, Latency

MAX_WORKERS = 64
HOST_NAME = re.compile(r"[A-Za-z0-9._-]+")
"""As browsers send it, without a port."""
ICE_URL = re.compile(
    rf"(?:stun|turn)s?:(?:{HOST_NAME.pattern}|\[[0-9A-Fa-f:.]+\])(?::([0-9]{{1,5}}))?(?:\?transport=(?:udp|tcp))?"
)
HIGHEST_PORT = 65535
TOKEN_VARIABLE = "PERSONALIVE_TOKEN"
"""Environment variable with tokens, separated by commas: other users of the machine cannot see it, unlike flags."""


def tokens_of_environment() -> tuple[str, ...]:
    """The tokens of `TOKEN_VARIABLE`."""
    return tuple(token.strip() for token in os.environ.get(TOKEN_VARIABLE, "").split(",") if token.strip())


@dataclass(frozen=True)
class IceServer:
    """A STUN or TURN server that helps browsers and this server find each other."""

    urls: str
    username: str | None = None
    credential: str | None = None

    @classmethod
    def parse(cls, text: str) -> "IceServer":
        """Read `stun:host:port` or `turn:host:port,username=NAME,credential=SECRET`.

        Raises:
            InputError: it has another form.
        """
        urls, _, rest = text.partition(",")
        given = dict(parse_qsl(rest.replace(",", "&"), keep_blank_values=True))
        found = ICE_URL.fullmatch(urls)
        if found is None or set(given) - {"username", "credential"}:
            raise InputError(
                f"the ICE server {text!r} must look like stun:HOST:PORT or turn:HOST:PORT,username=…,credential=…"
            )
        if found[1] is not None and not 1 <= int(found[1]) <= HIGHEST_PORT:
            raise InputError(f"the ICE server {text!r} has the port {found[1]}: it must be from 1 to {HIGHEST_PORT}")
        return cls(urls, given.get("username"), given.get("credential"))

    def to_dict(self) -> dict[str, str]:
        """In the form that browsers take."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}


def is_ip_address(text: str) -> bool:
    """Whether it is one of IPv4 or IPv6, without brackets."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _parsed(servers: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(IceServer.parse(each) if isinstance(each, str) else each for each in servers)


_server = partial(setting, group="server", on=Surface.CLI)
_several = partial(_server, ())


class ServeOptions(Settings):
    """Settings of a live server; checked when made.

    Raises:
        InputError: a value that cannot be used, or an address open to others without a token.
    """

    model: ModelChoice = Field(default_factory=ModelChoice)
    host: str = _server("127.0.0.1", "Address to listen on; 127.0.0.1: this machine only", metavar="ADDRESS")
    port: int = _server(7860, "Port to listen on", low=0, high=HIGHEST_PORT)
    media_host: str | None = _server(
        None,
        "Address of this machine for WebRTC's media (UDP); 0.0.0.0 behind a proxy on this machine",
        metavar="ADDRESS",
        default_text="that of --host",
    )
    max_sessions: int = _server(4, "Concurrent sessions, of each worker if there are several", low=1, high=64)
    workers: Annotated[int | None, BeforeValidator(count_or_auto)] = _server(
        1,
        "Processes that animate, behind one address; auto: one for each GPU",
        details="Each takes as many sessions as the time of its calls allows, up to --max_sessions",
        low=1,
        high=MAX_WORKERS,
        text=True,
        metavar="N|auto",
    )
    ray: str | None = _server(
        None,
        "Run the workers on a Ray cluster: the one that this machine belongs to (auto), or that at an address",
        default_text="on this machine alone",
        metavar="auto|ADDRESS",
    )
    latency: Latency = _server("balanced", "low: less delay for twice the computing")
    face_boxes: FaceBoxes = same(AnimateOptions, "face_boxes", group="server", on=Surface.CLI)
    max_batch: int = _server(
        1,
        "Sessions in one call",
        details="A GPU that one session fills gains nothing from more, and everyone waits longer",
        low=1,
        high=16,
    )
    offer_rate: float = _server(
        2.0,
        "WebRTC offers a second that one address may send, and ten times as many at once",
        details="Each takes 30 ms of the server's time, so a flood of them would let no picture through",
        low=0.1,
        high=1e6,
    )
    tokens: tuple[str, ...] = _several(
        "Secret of 8 to 256 printable ASCII characters that clients must send; may be given several times",
        details=f"Other users of this machine can read it in the list of processes: better set {TOKEN_VARIABLE}, with "
        "commas between several",
        flags=("--token",),
        metavar="SECRET",
    )
    tls_cert: Path | None = _server(None, "Certificate (PEM) for https")
    tls_key: Path | None = _server(None, "Its private key (PEM)")
    ice_servers: Annotated[tuple[IceServer, ...], BeforeValidator(_parsed)] = _several(
        "stun:HOST:PORT or turn:HOST:PORT,username=…,credential=…; may be given several times",
        flags=("--ice_server",),
        metavar="SERVER",
    )
    allowed_hosts: tuple[str, ...] = _several(
        "Further host name that browsers may use; needed behind a proxy",
        flags=("--allowed_host",),
        metavar="NAME",
    )
    idle_seconds: float = _server(
        60.0, "Seconds without camera frames after which a session is closed", low=1, high=86400
    )
    linger_seconds: float = _server(
        15.0,
        "Seconds for which a session is kept after its client has gone, so that it can come back",
        low=0,
        high=3600,
    )
    load_at_start: bool = setting(True, "Load the model before a client asks for it")
    """For programs that start the server, and whose client calls `POST /api/v1/pipeline/load`; the page does not."""
    presets: Path | None = _server(
        None, "Folder of portraits that the page offers", default_text="those of the package"
    )
    virtual_camera: str | None = _server(
        None,
        "Also show the picture as this camera of the machine, such as /dev/video10; auto: the first there is",
        details='Needs v4l2loopback and pip install "personalive[camera]"',
        metavar="DEVICE|auto",
    )
    insecure: bool = _server(False, "Let other machines connect without a token")

    def model_post_init(self, context: Any) -> None:
        """Check settings that depend on each other, and what they name."""
        if not is_ip_address(self.host) and not HOST_NAME.fullmatch(self.host):
            bare = self.host.removeprefix("[").removesuffix("]")
            instead = (
                f"write {bare}" if is_ip_address(bare) else "give one of this machine's, or 0.0.0.0 for all of them"
            )
            raise InputError(f"host is {self.host!r}, which is not an address: {instead}")
        for name in self.allowed_hosts:
            if not is_ip_address(name) and not HOST_NAME.fullmatch(name):
                raise InputError(
                    f"the allowed host {name!r} must be a name such as live.example, as browsers send it: without "
                    "https://, port and path"
                )
        if self.presets is not None and not self.presets.is_dir():
            raise InputError(f"presets is {self.presets}: there is no such folder; give one with pictures")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise InputError("tls_cert and tls_key belong together: give both or neither")
        if self.virtual_camera and (self.workers != 1 or self.ray):
            raise InputError("virtual_camera shows the sessions of one process: leave workers at 1, without ray")
        self.tls_context()
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
        return ipaddress.ip_address(self.host).is_loopback if is_ip_address(self.host) else self.host == "localhost"

    def tls_context(self) -> ssl.SSLContext | None:
        """What connections need for https; None: they have none.

        Raises:
            InputError: the certificate or its key cannot be used.
        """
        if self.tls_cert is None or self.tls_key is None:
            return None
        from personalive.media.credentials import read_pem  # Pillow and NumPy would delay the command's help

        for path, what in ((self.tls_cert, "the certificate"), (self.tls_key, "the private key")):
            read_pem(path, what)

        def refuse() -> str:
            # Without it, OpenSSL would ask on the terminal, and wait.
            raise InputError(f"the private key {self.tls_key} is encrypted: give one without a password")

        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            context.load_cert_chain(self.tls_cert, self.tls_key, password=refuse)
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                why = f"the private key {self.tls_key} is not that of the certificate {self.tls_cert}"
            else:
                why = f"{self.tls_cert} and {self.tls_key} cannot be used for https ({error.reason or 'not PEM'})"
            raise InputError(f"{why}: give a certificate and the private key that belongs to it, in PEM") from error
        return context

    @property
    def page_url(self) -> str:
        """Where a browser on this machine finds the page."""
        here = {"0.0.0.0": "localhost", "127.0.0.1": "localhost", "::": "::1"}  # where localhost may not be of IPv6
        name = here.get(self.host, self.host)
        return f"{'https' if self.tls_cert else 'http'}://{authority(name, self.port)}/"
