"""Who sends a request, and what it is about: what the calls of the REST interface depend on."""

from collections.abc import Callable
from typing import Annotated, Literal

from fastapi import Depends, Path, Query, Request, Response
from starlette.requests import HTTPConnection

from personalive.live.core.faces import Wanted
from personalive.live.http.security import given_token
from personalive.live.http.settings import WhichFace
from personalive.live.hub.clients import COOKIE, Client, new_cookie
from personalive.live.hub.entries import Entry
from personalive.live.hub.hub import Hub
from personalive.live.transport.ice import IceLimits

KEY_HEADER = "X-Client-Key"
"""In place of a client's cookie: its key, which `GET /api/v1/watch` returns. `?key=` in the address does as well."""
CURRENT = "current"
"""In place of a session's id: the client's latest one."""
COOKIE_SECONDS = 365 * 86400
SessionId = Annotated[str, Path(max_length=64, description="What opening the session returned; `current`: the latest")]


def hub_of(request: Request) -> Hub:
    """The hub of the application that serves a request."""
    hub: Hub = request.app.state.hub
    return hub


def client_of(request: Request, response: Response) -> Client:
    """The sender of a request; one without a cookie is given one."""
    return sender_of(request, lambda: give_cookie(request, response))


def sender_of(connection: HTTPConnection, cookie: Callable[[], str]) -> Client:
    """The sender of a request or of a WebSocket's; `cookie` makes one for a client that sends none."""
    address, token = address_of(connection), given_token(connection.headers)
    if key := connection.headers.get(KEY_HEADER) or connection.query_params.get("key"):
        return Client.by_key(key, address, token)
    if known := connection.cookies.get(COOKIE):
        return Client.known(known, address, token)
    return Client.new(cookie(), token, address)


def give_cookie(request: Request, response: Response) -> str:
    """Give a client a cookie by which it is recognised even after its browser was closed, so its watch id stays."""
    cookie, secure = new_cookie(), request.url.scheme == "https"
    response.set_cookie(COOKIE, cookie, COOKIE_SECONDS, httponly=True, samesite="strict", secure=secure)
    return cookie


def ice_of(request: Request) -> IceLimits:
    """Limits for the server's ICE agents."""
    limits: IceLimits = request.app.state.ice
    return limits


def admit_offer(request: Request) -> None:
    """Count an offer of the sender's address.

    Raises:
        TooManyError: it sends too many.
    """
    hub_of(request).offers.admit(address_of(request))


def address_of(connection: HTTPConnection) -> str:
    """The address that a request comes from."""
    return connection.client.host if connection.client else "unknown"


HubOf = Annotated[Hub, Depends(hub_of)]
ClientOf = Annotated[Client, Depends(client_of)]
IceOf = Annotated[IceLimits, Depends(ice_of)]


def own_entry(session_id: SessionId, hub: HubOf, client: ClientOf) -> Entry:
    """The session of a call's path; the client must be allowed to control it."""
    return hub.current(client) if session_id == CURRENT else hub.find(session_id, client)


def wanted_part(
    face: WhichFace = "largest",
    crop: Annotated[Literal["auto", "center"], Query(description="Around the face, or the middle of the picture")] = (
        "auto"
    ),
) -> Wanted:
    """Which part of a portrait is animated."""
    return Wanted(face, crop)


WantedPart = Annotated[Wanted, Depends(wanted_part)]
OwnEntry = Annotated[Entry, Depends(own_entry)]
