"""The REST interface of those who watch: by an id that cannot be guessed."""

from io import BytesIO
from typing import Annotated, Literal
from urllib.parse import urlencode

import segno
from fastapi import Depends, Path, Request, Response

from personalive.live.core.pictures import encode
from personalive.live.http import schemas
from personalive.live.http.callers import ClientOf, HubOf, IceOf, admit_offer
from personalive.live.http.described import leads_to, new_router, problems
from personalive.live.hub.connections import watched
from personalive.live.hub.entries import UnknownSessionError
from personalive.live.hub.hub import Hub
from personalive.live.transport.ice import IceLimits
from personalive.live.transport.webrtc import Peer

router = new_router()
WatchId = Annotated[str, Path(max_length=64, description="What `GET /api/v1/watch` returned to the watched client")]


@router.get("/api/v1/watch", responses={200: leads_to("watch_id", "$response.body#/watchId", "watch_state", "watch")})
async def own_watch_id(client: ClientOf) -> schemas.WatchIdAnswer:
    """The id by which others can watch this client's sessions; always the same for one cookie."""
    return schemas.WatchIdAnswer(watchId=client.watch_id, page=f"/embed?watch={client.watch_id}", key=client.key)


@router.get("/api/v1/watch/{watch_id}", response_model_exclude_none=True)
async def watch_state(watch_id: WatchId, hub: HubOf) -> schemas.WatchAnswer:
    """Whether there is something to watch now. No token is needed: the id, which cannot be guessed, is enough."""
    entry = watched(hub.entries.values(), watch_id)
    if entry is None or not entry.is_shown:
        return schemas.WatchAnswer(live=False)
    return schemas.WatchAnswer(live=True, iceServers=[each.to_dict() for each in hub.options.ice_servers])


@router.get("/api/v1/watch/{watch_id}/qr", response_class=Response, responses={200: {"content": {"image/svg+xml": {}}}})
async def watch_code(
    request: Request,
    watch_id: WatchId,
    scheme: Literal["http", "https"] = "http",
    idle: Literal["nothing", "portrait"] = "nothing",
) -> Response:
    """The address of the page that shows a client's sessions, as a QR code for a phone's camera."""
    host = request.headers.get("host", "localhost")  # one that is served here: the gate has looked
    query = urlencode({"watch": watch_id} | ({"idle": idle} if idle == "portrait" else {}))
    drawn = BytesIO()
    segno.make_qr(f"{scheme}://{host}/embed?{query}").save(drawn, "svg", scale=4, border=2)
    return Response(drawn.getvalue(), media_type="image/svg+xml")


@router.get(
    "/api/v1/watch/{watch_id}/portrait",
    response_class=Response,
    responses={200: {"content": {"image/jpeg": {}}}, **problems(_404="There has been no session yet")},
)
async def watch_portrait(watch_id: WatchId, hub: HubOf) -> Response:
    """The portrait of the client's last session as it is, to be shown between streams."""
    image = hub.still(watch_id)
    if image is None:
        raise UnknownSessionError("there has been no session with this watch id lately")
    return Response(encode(image), media_type="image/jpeg")


@router.post(
    "/api/v1/watch/{watch_id}/offer",
    responses=problems(
        _400="Bad SDP", _404="Nothing to watch now", _429="Too many", _503="There are enough viewers already"
    ),
    dependencies=[Depends(admit_offer)],
)
async def watch(watch_id: WatchId, hub: HubOf, ice: IceOf, request: schemas.WatchRequest) -> schemas.WatchOfferAnswer:
    """Watch by WebRTC. No token is needed: the id, which cannot be guessed, is enough."""
    _, answer = await watching(hub, ice, watch_id, request.sdp, opacity=request.opacity)
    width, height = hub.engine.width, hub.engine.height
    return schemas.WatchOfferAnswer(sdp=answer, type="answer", width=width, height=height)


async def watching(hub: Hub, ice: IceLimits, watch_id: str, sdp: str, *, opacity: bool = False) -> tuple[Peer, str]:
    """A viewer's new connection, and the answer to its offer.

    Raises:
        UnknownSessionError: there is nothing to watch.
        FullError: there are enough viewers.
        InputError: the offer cannot be used.
    """
    entry = watched(hub.entries.values(), watch_id)
    if entry is None:
        raise UnknownSessionError("there is nothing to watch now: try again later")
    peer = Peer(hub, entry, ice, viewer=True, opacity=opacity)
    try:
        hub.connections.watch(entry, peer)
        return peer, await peer.answer(sdp)
    except BaseException:
        await peer.close()
        raise
