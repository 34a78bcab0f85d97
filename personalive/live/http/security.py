"""What every request must pass: size, time, origin, host and token; and what every answer says about itself."""

import asyncio
import hmac
import json
from collections.abc import Iterable
from urllib.parse import urlsplit

from fastapi import HTTPException
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from personalive.live.options import ServeOptions

MAX_BODY = 1024 * 1024
"""Bytes of a JSON body."""
MAX_PICTURE = 20 * 1024 * 1024
"""Bytes of a portrait."""
BODY_SECONDS = 30.0
"""Time that a client has to send a body."""
OPEN_FOLDERS = ("/static/", "/api/v1/watch/")
OPEN_PATHS = ("/", "/embed", "/health", "/openapi.json")
"""What is to be had without a token: the page itself, and the pictures of a session whose watch id the client knows."""
SOCKET_TOKEN = "token."
"""Prefix of the WebSocket subprotocol that carries the token, since browsers can not set headers there."""

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
        matches = [hmac.compare_digest(data, token) for token in self._tokens]  # all of them, whichever fits
        return any(matches)


def given_token(headers: Headers) -> str | None:
    """The token of a request: a bearer token, or a WebSocket subprotocol `token.SECRET`."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    offered = [each.strip() for each in headers.get("sec-websocket-protocol", "").split(",")]
    return next((each.removeprefix(SOCKET_TOKEN) for each in offered if each.startswith(SOCKET_TOKEN)), None)


class Gate:
    """ASGI middleware that turns away what may not come in, and bounds what does."""

    def __init__(self, app: ASGIApp, options: ServeOptions) -> None:
        self._app = app
        self._tokens = TokenCheck(options.tokens)
        self._hosts = _hosts(options)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or socket."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        refused = self._refusal(scope)
        if refused is not None:
            await _refuse(scope, receive, send, *refused)
        elif scope["type"] == "websocket":
            await self._app(scope, receive, send)
        else:
            await self._app(scope, _bounded(scope, receive), _described(scope, send))

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self._hosts and _name(host) not in self._hosts:
            return 400, f"the host name {_name(host)[:100]!r} is not served here; see --allowed_host"
        origin = headers.get("origin")
        changes = scope["type"] == "websocket" or scope["method"] not in ("GET", "HEAD", "OPTIONS")
        if changes and origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return 403, "requests from pages of other sites are not taken"
        path = scope["path"]
        if (
            path not in OPEN_PATHS
            and not path.startswith(OPEN_FOLDERS)
            and not self._tokens.accepts(given_token(headers))
        ):
            return 401, "this server wants a token: send it as 'Authorization: Bearer TOKEN'"
        return None


def _hosts(options: ServeOptions) -> set[str]:
    """Names by which this machine may be called: against pages whose name is made to point here."""
    if not options.is_local and not options.allowed_hosts:
        return set()
    return {"localhost", "127.0.0.1", "::1", options.host, *options.allowed_hosts}


def _name(host: str) -> str:
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


async def _refuse(scope: Scope, receive: Receive, send: Send, status: int, detail: str) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008, "reason": detail})
        return
    body = json.dumps({"detail": detail}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _bounded(scope: Scope, receive: Receive) -> Receive:
    """Count a body while it comes, and give it a time."""
    limit = MAX_PICTURE if scope["path"].endswith("/reference") else MAX_BODY
    announced = Headers(scope=scope).get("content-length", "0")
    left = limit
    deadline = asyncio.get_running_loop().time() + BODY_SECONDS
    complete = False

    async def bounded() -> Message:
        nonlocal left, complete
        if complete:  # what comes now is the end of the connection, which may take its time
            return await receive()
        if announced.isdecimal() and int(announced) > limit:
            raise HTTPException(413, f"the body has {announced} bytes, more than the {limit} that are taken")
        try:
            async with asyncio.timeout_at(deadline):
                message = await receive()
        except TimeoutError:
            raise HTTPException(408, f"the body did not come within {BODY_SECONDS:g} seconds") from None
        left -= len(message.get("body", b""))
        if left < 0:
            raise HTTPException(413, f"the body has more than the {limit} bytes that are taken")
        complete = not message.get("more_body", False)
        return message

    return bounded


def _described(scope: Scope, send: Send) -> Send:
    """Add what browsers should know of every answer."""
    embeddable = scope["path"] == "/embed"

    async def described(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["X-Content-Type-Options"] = "nosniff"
            headers["Referrer-Policy"] = "no-referrer"
            ancestors = "*" if embeddable else "'none'"
            headers["Content-Security-Policy"] = f"{CONTENT_POLICY}; frame-ancestors {ancestors}"
            headers.setdefault("Cache-Control", "no-cache")
        await send(message)

    return described
