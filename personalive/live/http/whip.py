"""Sessions for programs without a browser: WHIP drives one (RFC 9725), WHEP watches it (draft-ietf-wish-whep)."""

from typing import Any

from fastapi import APIRouter, Depends, HTTPException, Request, Response

from personalive.errors import InputError
from personalive.live.http.callers import ClientOf, HubOf, IceOf, OwnEntry, admit_offer
from personalive.live.http.watch import WatchId, watching
from personalive.live.hub.entries import UnknownSessionError
from personalive.live.hub.hub import Hub
from personalive.live.transport.offer import Candidates, checked
from personalive.live.transport.webrtc import Peer

# Not in the OpenAPI description: programs know these calls from their specifications, and none reads SDP from a schema.
router = APIRouter(include_in_schema=False)
SDP, FRAGMENT = "application/sdp", "application/trickle-ice-sdpfrag"


async def _text(request: Request, kind: str) -> str:
    """A body of the kind that these protocols prescribe.

    Raises:
        HTTPException: it is of another.
        InputError: it is not text.
    """
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given != kind:
        raise HTTPException(415, f"the body must be {kind}, not {given[:100] or 'of an unknown kind'}")
    try:
        return (await request.body()).decode()
    except UnicodeDecodeError as error:
        raise InputError("the body is not UTF-8 text") from error


def _created(hub: Hub, sdp: str, location: str) -> Response:
    response = Response(sdp, 201, {"Location": location}, SDP)
    for server in hub.options.ice_servers:
        link = f'<{server.urls}>; rel="ice-server"'
        if server.username and server.credential:
            link += f'; username="{server.username}"; credential="{server.credential}"; credential-type="password"'
        response.headers.append("Link", link)
    return response


def _candidates(fragment: str) -> list[dict[str, Any]]:
    """The candidates of a trickled fragment (RFC 8840): each belongs to the section before it."""
    section, found = None, []
    for line in fragment.splitlines():
        if line.startswith("a=mid:"):
            section = line.removeprefix("a=mid:").strip()
        elif line.startswith("a=candidate:"):
            found.append({"candidate": line.removeprefix("a="), "sdpMid": section})
    return found


@router.post("/api/v1/whip", status_code=201, dependencies=[Depends(admit_offer)])
async def whip(request: Request, hub: HubOf, client: ClientOf, ice: IceOf) -> Response:
    """Drive a session with a program's video, such as OBS's, with the portrait that the client has chosen."""
    sdp = await _text(request, SDP)
    checked(sdp, Candidates(local_only=False))  # before a session that waits gives way to this one
    entry = await hub.open(client, {"muted": False})
    peer = Peer(hub, entry, ice, viewer=False)
    try:
        answer = await peer.answer(sdp)
        hub.connections.attach(entry, peer)
    except BaseException:
        entry.session.close("the offer could not be used")
        await peer.close()
        raise
    return _created(hub, answer, f"/api/v1/whip/{entry.session.identifier}")


@router.patch("/api/v1/whip/{session_id}", status_code=204)
async def whip_candidates(request: Request, entry: OwnEntry) -> None:
    """Add addresses at which the program may be reached."""
    if isinstance(entry.transport, Peer):
        await entry.transport.add_candidates(_candidates(await _text(request, FRAGMENT)))


@router.delete("/api/v1/whip/{session_id}")
async def whip_end(entry: OwnEntry) -> Response:
    """End the session."""
    entry.session.close()
    return Response()


@router.post("/api/v1/whep/{watch_id}", status_code=201, dependencies=[Depends(admit_offer)])
async def whep(request: Request, watch_id: WatchId, hub: HubOf, ice: IceOf) -> Response:
    """Watch a client's session without a browser. No token is needed: the id, which cannot be guessed, is enough."""
    peer, answer = await watching(hub, ice, watch_id, await _text(request, SDP))
    return _created(hub, answer, f"/api/v1/whep/{watch_id}/{peer.identifier}")


def _viewer(watch_id: WatchId, viewer_id: str, hub: HubOf) -> Peer:
    for entry in hub.entries.values():
        for viewer in entry.viewers:
            if isinstance(viewer, Peer) and (entry.client.watch_id, viewer.identifier) == (watch_id, viewer_id):
                return viewer
    raise UnknownSessionError("there is no such viewer")


@router.patch("/api/v1/whep/{watch_id}/{viewer_id}", status_code=204)
async def whep_candidates(request: Request, watch_id: WatchId, viewer_id: str, hub: HubOf) -> None:
    """Add addresses at which the viewer may be reached."""
    await _viewer(watch_id, viewer_id, hub).add_candidates(_candidates(await _text(request, FRAGMENT)))


@router.delete("/api/v1/whep/{watch_id}/{viewer_id}")
async def whep_end(watch_id: WatchId, viewer_id: str, hub: HubOf) -> Response:
    """Stop watching."""
    await _viewer(watch_id, viewer_id, hub).close()
    return Response()
