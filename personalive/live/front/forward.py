"""Passes requests on to workers, and their answers back."""

from collections.abc import Iterable
from http.cookies import CookieError, SimpleCookie

import httpx
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from personalive.live.front.pool import Worker
from personalive.live.http.security import given_token
from personalive.live.hub.clients import COOKIE, Client
from personalive.net.from_here import ABOUT_THE_SENDER

TIMEOUT = httpx.Timeout(300.0, connect=5.0).as_dict()
"""Preparing a portrait may take minutes where the device is slow; a worker that dies is noticed at once."""
OF_ONE_CONNECTION = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade", b"expect"}
)
"""Headers that are between two neighbours (RFC 9110 section 7.6.1)."""
MADE_HERE = frozenset({b"content-length", b"date", b"server"})


def headers_for(connection: HTTPConnection) -> list[tuple[bytes, bytes]]:
    """A request's headers as its worker gets them, with the client's address as this server sees it."""
    address = connection.client.host if connection.client else "unknown"
    scheme = "https" if connection.url.scheme in ("https", "wss") else "http"
    kept = [
        (name, value)
        for name, value in connection.headers.raw
        if name not in OF_ONE_CONNECTION and name != b"content-length" and not name.startswith(ABOUT_THE_SENDER)
    ]
    return [*kept, (b"x-forwarded-for", address.encode()), (b"x-forwarded-proto", scheme.encode())]


async def forward(worker: Worker, request: Request, body: bytes) -> Response:
    """A worker's answer to a request, whose body may be another than that which came.

    Raises:
        httpx.TransportError: the worker has died, or does not answer.
    """
    path = request.scope["raw_path"]
    query = request.scope["query_string"]
    return await send(worker, request.method, path + (b"?" + query if query else b""), headers_for(request), body)


async def send(
    worker: Worker, method: str, target: bytes, headers: Iterable[tuple[bytes, bytes]], body: bytes
) -> Response:
    """A worker's answer to a request.

    Raises:
        httpx.TransportError: the worker has died, or does not answer.
    """
    outgoing = httpx.Request(
        method,
        httpx.URL(worker.process.url, raw_path=target),
        headers=list(headers),
        content=body,
        extensions={"timeout": TIMEOUT},
    )
    answer = await worker.process.transport.handle_async_request(outgoing)
    try:
        content = await answer.aread()
    finally:
        await answer.aclose()
    response = Response(content, answer.status_code)
    response.raw_headers += [
        (name.lower(), value) for name, value in answer.headers.raw if name.lower() not in OF_ONE_CONNECTION | MADE_HERE
    ]
    return response


def recognised(client: Client, request: Request, response: Response) -> Client:
    """The client of a request, by the cookie that the answer gives it if it had none."""
    if client.has_cookie:
        return client
    for given in response.headers.getlist("set-cookie"):
        try:
            cookie = SimpleCookie(given).get(COOKIE)
        except CookieError:
            continue
        if cookie is not None:
            return Client.new(cookie.value, given_token(request.headers), client.address)
    return client
