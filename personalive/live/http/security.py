"""What every request is checked for: size, time, origin, host and token; and the headers of every answer."""

import asyncio
import hmac
import json
import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

from fastapi import HTTPException
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from personalive.live.options import ServeOptions, is_ip_address
from personalive.net.from_here import host_name

MAX_BODY = 1024 * 1024
"""Bytes of a JSON body."""
MAX_PICTURE = 20 * 1024 * 1024
"""Bytes of a portrait, or of a picture behind it."""
PICTURE_PATHS = ("/reference", "/background")
BODY_SECONDS = 30.0
"""Seconds that a client has to send a body."""
MAX_WORKING = 64
"""The most requests with a body that are handled at once."""
OPEN_FOLDERS = ("/static/", "/api/v1/watch/", "/api/v1/whep/")
OPEN_PATHS = ("/", "/embed", "/health", "/openapi.json")
"""What is available without a token: the page itself, and the pictures of a session whose watch id the client knows."""
SOCKET_TOKEN = "token."
"""Prefix of the WebSocket subprotocol that carries the token, since browsers cannot set headers there."""

CONTENT_POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; connect-src 'self' ws: wss:; "
    "object-src 'none'; base-uri 'none'; form-action 'none'"
)


class TokenCheck:
    """Compares tokens in constant time."""

    def __init__(self, tokens: Iterable[str]) -> None:
        self._tokens = [token.encode() for token in tokens]

    def accepts(self, given: str | None) -> bool:
        """Whether a client with this token may come in."""
        if not self._tokens:
            return True
        data = (given or "").encode("utf-8", "surrogateescape")
        matches = [hmac.compare_digest(data, token) for token in self._tokens]  # all of them, to take the same time
        return any(matches)


class HostCheck:
    """The names by which this machine may be called, against pages whose name is made to point here (DNS rebinding).

    On the loopback address, these are its own names. On other addresses, they are any IP address, as that cannot be
    made to point elsewhere, and the machine's own names; with a token, which such a page does not have, any name. The
    names in `--allowed_host` always count too.
    """

    def __init__(self, options: ServeOptions) -> None:
        self._any_name = bool(options.tokens) and not options.is_local and not options.allowed_hosts
        self._any_address = not options.is_local
        own = (options.host, *options.allowed_hosts, *(_machine_names() if self._any_address else ()))
        self._names = {"localhost", "127.0.0.1", "::1", *(name.lower() for name in own)}

    def accepts(self, host: str) -> bool:
        """Whether a `Host` header names this server."""
        name = host_name(host)
        return self._any_name or name in self._names or (self._any_address and is_ip_address(name))


def given_token(headers: Headers) -> str | None:
    """The token of a request: a bearer token, or a WebSocket subprotocol `token.SECRET`."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    offered = [each.strip() for each in headers.get("sec-websocket-protocol", "").split(",")]
    return next((each.removeprefix(SOCKET_TOKEN) for each in offered if each.startswith(SOCKET_TOKEN)), None)


def answer_headers(path: str) -> dict[str, str]:
    """Headers for browsers, for any answer to a request for this path."""
    ancestors = "*" if path == "/embed" else "'none'"
    return {
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Content-Security-Policy": f"{CONTENT_POLICY}; frame-ancestors {ancestors}",
    }


class Gate:
    """ASGI middleware that refuses what may not come in, and limits what does."""

    def __init__(self, app: ASGIApp, options: ServeOptions) -> None:
        self._app = app
        self._tokens = TokenCheck(options.tokens)
        self._hosts = HostCheck(options)
        self._working = 0
        self._turn = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or socket."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        # One request begins at a time, so that pictures, which the same loop sends, have their turn between any two.
        async with self._turn:
            await asyncio.sleep(0)
        send = _described(scope, send)
        refused = self._refusal(scope)
        if refused is not None:
            await _refuse(scope, receive, send, *refused)
        elif scope["type"] == "websocket":
            await self._app(scope, receive, send)
        else:
            await self._serve(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = Body(scope, receive)
        counted = False

        async def bounded() -> Message:
            nonlocal counted
            message = await body.receive()
            if body.complete and body.size and not counted:
                if self._working >= MAX_WORKING:
                    raise HTTPException(503, f"{MAX_WORKING} requests are being handled", {"Retry-After": "2"})
                self._working += 1
                counted = True
            return message

        try:
            await self._app(scope, bounded, send)
        finally:
            self._working -= counted

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self._hosts.accepts(host):
            return 400, f"the host name {host_name(host)[:100]!r} is not served here; see --allowed_host"
        origin = headers.get("origin")
        changes = scope["type"] == "websocket" or scope["method"] not in ("GET", "HEAD", "OPTIONS")
        if changes and origin is not None and _origin_host(origin) != host.lower():
            return 403, "requests from pages of other sites are refused"
        path = scope["path"]
        if (
            path not in OPEN_PATHS
            and not path.startswith(OPEN_FOLDERS)
            and not self._tokens.accepts(given_token(headers))
        ):
            return 401, "this server needs a token: send it as 'Authorization: Bearer TOKEN'"
        return None


class Body:
    """A request's body, counted as it arrives, with a deadline."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.size = 0
        self.complete = False
        self._receive = receive
        self._limit = MAX_PICTURE if scope["path"].endswith(PICTURE_PATHS) else MAX_BODY
        self._announced = Headers(scope=scope).get("content-length", "0")
        self._deadline = asyncio.get_running_loop().time() + BODY_SECONDS

    async def receive(self) -> Message:
        """The next part of it.

        Raises:
            HTTPException: it is too long, or takes too long.
        """
        if self.complete:  # what comes now is the end of the connection, which may take a while
            return await self._receive()
        if self._announced.isdecimal() and int(self._announced) > self._limit:
            raise HTTPException(
                413, f"the body has {self._announced} bytes, more than the {self._limit} that are taken"
            )
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            raise HTTPException(408, f"the body did not arrive within {BODY_SECONDS:g} seconds") from None
        self.size += len(message.get("body", b""))
        if self.size > self._limit:
            raise HTTPException(413, f"the body has more than the {self._limit} bytes that are allowed")
        self.complete = not message.get("more_body", False)
        return message


def _machine_names() -> set[str]:
    name = socket.gethostname().lower()
    return {name, f"{name}.local"} - {""}


def _origin_host(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


async def _refuse(scope: Scope, receive: Receive, send: Send, status: int, detail: str) -> None:
    if scope["type"] == "websocket":
        await receive()
    await _answer(scope, send, status, detail)


async def _answer(scope: Scope, send: Send, status: int, detail: object) -> None:
    kind = "websocket.http" if scope["type"] == "websocket" else "http"
    body = json.dumps({"detail": detail}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": f"{kind}.response.start", "status": status, "headers": headers})
    await send({"type": f"{kind}.response.body", "body": body})


def _described(scope: Scope, send: Send) -> Send:
    """Add headers for browsers to every answer; a socket that is refused without one gets an answer as well."""
    accepted = False

    async def described(message: Message) -> None:
        nonlocal accepted
        kind = message["type"]
        if kind == "websocket.close" and not accepted:
            await _answer(scope, described, 403, message.get("reason") or "there is no such socket")
            return
        accepted = accepted or kind == "websocket.accept"
        if kind in ("http.response.start", "websocket.accept", "websocket.http.response.start"):
            message.setdefault("headers", [])
            headers = MutableHeaders(scope=message)
            headers.update(answer_headers(scope["path"]))
            headers.setdefault("Cache-Control", "no-cache")
        await send(message)

    return described
