"""The REST interface: the calls that clients of this pipeline know, and those for single sessions."""

from collections.abc import Callable
from io import BytesIO
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

import segno
from fastapi import APIRouter, Body, Depends, Path, Query, Request, Response
from starlette.requests import HTTPConnection

from personalive.live.core.faces import Wanted
from personalive.live.core.pictures import encode
from personalive.live.http import schemas
from personalive.live.http.metrics import render
from personalive.live.http.security import MAX_PICTURE, given_token
from personalive.live.http.settings import LOAD_SCHEMA, PARAMETERS_SCHEMA, ParameterChanges, WhichFace
from personalive.live.hub.clients import COOKIE, Client, new_cookie
from personalive.live.hub.connections import watched
from personalive.live.hub.entries import Entry, SessionState, UnknownSessionError
from personalive.live.hub.hub import Hub
from personalive.live.hub.loader import PIPELINE
from personalive.live.hub.modes import MODES
from personalive.live.transport.ice import IceLimits
from personalive.live.transport.messages import session_figures
from personalive.live.transport.offer import Candidates, checked
from personalive.live.transport.webrtc import Peer
from personalive.media.images import media_types

router = APIRouter(generate_unique_id_function=lambda route: route.name)
KEY_HEADER = "X-Client-Key"
"""In place of a client's cookie: its key, which `GET /api/v1/watch` returns. `?key=` in the address does as well."""
CURRENT = "current"
"""In place of a session's id: the client's latest one."""
COOKIE_SECONDS = 365 * 86400
SessionId = Annotated[str, Path(max_length=64, description="What opening the session returned; `current`: the latest")]
WatchId = Annotated[str, Path(max_length=64, description="What `GET /api/v1/watch` returned to the watched client")]

PICTURE_BODY = {
    "requestBody": {
        "required": True,
        "description": f"A portrait, at most {MAX_PICTURE // 2**20} MB",
        "content": {
            kind: {"schema": {"type": "string", "format": "binary"}} for kind in sorted(set(media_types().values()))
        },
    }
}


def _problems(**reasons: str) -> dict[int | str, dict[str, Any]]:
    return {int(code[1:]): {"model": schemas.Problem, "description": reason} for code, reason in reasons.items()}


UNKNOWN = _problems(_403="Another client's session", _404="No such session")
NO_PICTURE = _problems(
    _400="Not loaded, empty, not a picture, or no face in it",
    _413="The picture is too large",
    _503="The model is being loaded",
)
NOT_TEXT = _problems(_400="The body is not text")


def _leads_to(name: str, value: str, *operations: str) -> dict[str, Any]:
    """Links of OpenAPI: operations that take something which an answer brings."""
    return {"links": {each: {"operationId": each, "parameters": {name: value}} for each in operations}}


IN_SESSION = _leads_to(
    "session_id",
    "$response.body#/sessionId",
    *("session", "close_session", "replace_reference", "change_parameters", "pause", "reset", "set_neutral"),
    *("snapshot", "resume", "candidates", "set_backdrop"),
)


def hub_of(request: Request) -> Hub:
    """The hub of the application that serves a request."""
    hub: Hub = request.app.state.hub
    return hub


def client_of(request: Request, response: Response) -> Client:
    """The sender of a request; one without a cookie is given one."""
    return sender_of(request, lambda: give_cookie(request, response))


def sender_of(connection: HTTPConnection, cookie: Callable[[], str]) -> Client:
    """The sender of a request or of a WebSocket's; `cookie` makes one for a client that sends none."""
    address, token = _address(connection), given_token(connection.headers)
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
    hub_of(request).offers.admit(_address(request))


def _address(connection: HTTPConnection) -> str:
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


@router.post(
    "/api/v1/pipeline/load",
    responses={**NOT_TEXT, **_problems(_409="In use, or being loaded, with other parameters")},
)
async def load(hub: HubOf, request: schemas.LoadRequest) -> schemas.MessageAnswer:
    """Load the pipeline in the background."""
    return schemas.MessageAnswer(message=hub.load(request.load_params))


@router.get("/api/v1/pipeline/status", response_model_exclude_none=True)
async def status(hub: HubOf) -> schemas.StatusAnswer:
    """The progress of loading."""
    state, speed = hub.loader.state, hub.speed()
    return schemas.StatusAnswer(
        status=state.status,
        pipeline_id=PIPELINE if state.parameters else None,
        load_params=state.parameters.to_dict() if state.parameters else None,
        stage=state.stage,
        error=state.error,
        pictures_per_second=round(speed.pictures_per_second, 1) or None,
        advice=speed.advice or None,
    )


@router.get("/api/v1/pipelines/schemas")
async def pipeline_schemas() -> dict[str, Any]:
    """What can be loaded, and with which parameters."""
    return {
        "pipelines": {
            PIPELINE: {
                "id": PIPELINE,
                "name": "PersonaLive",
                "description": "A portrait that is driven by a face in front of a camera",
                "requires_reference_image": True,
                "config_schema": LOAD_SCHEMA,
                "parameters_schema": PARAMETERS_SCHEMA,
            }
        }
    }


@router.get("/api/v1/modes", responses=_problems(_503="The model is not loaded"))
async def modes(hub: HubOf) -> list[schemas.ModeAnswer]:
    """What matters most, as settings: delay and size of the picture."""
    native = hub.engine.native_side
    return [
        schemas.ModeAnswer(
            name=mode.name,
            label=mode.label,
            description=mode.description,
            load_params={"width": mode.side(native), "height": mode.side(native)},
            parameters={"latency": mode.latency},
        )
        for mode in MODES
    ]


@router.post("/api/v1/personalive/reference", openapi_extra=PICTURE_BODY, responses=NO_PICTURE)
async def set_reference(
    request: Request,
    hub: HubOf,
    client: ClientOf,
    wanted: WantedPart,
    show: Annotated[bool, Query(description="false: running sessions keep theirs")] = True,
) -> schemas.ReferenceAnswer:
    """Set the portrait of the client's next session, and of its running ones."""
    running, remarks = await hub.set_portrait(client, await request.body(), wanted, show_now=show)
    where = f"shown in {running} running session{'s' * (running > 1)}" if running else "used by the next session"
    return schemas.ReferenceAnswer(success=True, message=f"the portrait is set and {where}", remarks=remarks)


@router.post(
    "/api/v1/personalive/face",
    openapi_extra=PICTURE_BODY,
    responses=_problems(_400="Not a picture", _413="The picture is too large", _429="Too many"),
)
async def look_for_face(request: Request, hub: HubOf) -> schemas.FaceAnswer:
    """Whether a picture of the camera shows a face that can drive, before a session is opened."""
    hub.looks.admit(_address(request))
    found, box = await hub.look(await request.body())
    return schemas.FaceAnswer(found=found, box=None if box is None else list(box))


@router.get("/api/v1/webrtc/ice-servers")
async def ice_servers(hub: HubOf) -> schemas.IceServersAnswer:
    """Servers that help browsers to connect."""
    return schemas.IceServersAnswer(iceServers=_ice_servers(hub))


def _ice_servers(hub: Hub) -> list[dict[str, str]]:
    return [each.to_dict() for each in hub.options.ice_servers]


@router.post(
    "/api/v1/webrtc/offer",
    responses={
        200: IN_SESSION,
        **UNKNOWN,
        **_problems(_400="Bad SDP or parameters", _429="Too many", _503="Full, or not loaded"),
    },
    dependencies=[Depends(admit_offer)],
)
async def offer(hub: HubOf, client: ClientOf, ice: IceOf, request: schemas.OfferRequest) -> schemas.OfferAnswer:
    """Connect by WebRTC: open a session, or continue one."""
    checked(request.sdp, Candidates(local_only=False))  # before a session that waits gives way to this one
    parameters = request.initialParameters or {}
    fresh = request.sessionId is None
    entry = await hub.open(client, parameters) if request.sessionId is None else hub.find(request.sessionId, client)
    peer = Peer(hub, entry, ice, viewer=False)
    try:
        sdp = await peer.answer(request.sdp)
        if not fresh:
            entry.session.change(parameters)
        hub.connections.attach(entry, peer)
    except BaseException:
        if fresh:
            entry.session.close("the offer could not be used")
        await peer.close()
        raise
    return schemas.OfferAnswer(sdp=sdp, type="answer", sessionId=entry.session.identifier)


@router.patch("/api/v1/webrtc/offer/{session_id}", status_code=204, responses={**UNKNOWN, **NOT_TEXT})
async def candidates(entry: OwnEntry, request: schemas.CandidatesRequest) -> None:
    """Add addresses at which the client may be reached."""
    if isinstance(entry.transport, Peer):
        await entry.transport.add_candidates([each.model_dump() for each in request.candidates])


@router.get("/api/v1/watch", responses={200: _leads_to("watch_id", "$response.body#/watchId", "watch_state", "watch")})
async def own_watch_id(client: ClientOf) -> schemas.WatchIdAnswer:
    """The id by which others can watch this client's sessions; always the same for one cookie."""
    return schemas.WatchIdAnswer(watchId=client.watch_id, page=f"/embed?watch={client.watch_id}", key=client.key)


@router.get("/api/v1/watch/{watch_id}", response_model_exclude_none=True)
async def watch_state(watch_id: WatchId, hub: HubOf) -> schemas.WatchAnswer:
    """Whether there is something to watch now. No token is needed: the id, which cannot be guessed, is enough."""
    entry = watched(hub.entries.values(), watch_id)
    if entry is None or not entry.is_shown:
        return schemas.WatchAnswer(live=False)
    return schemas.WatchAnswer(live=True, iceServers=_ice_servers(hub))


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
    responses={200: {"content": {"image/jpeg": {}}}, **_problems(_404="There has been no session yet")},
)
async def watch_portrait(watch_id: WatchId, hub: HubOf) -> Response:
    """The portrait of the client's last session as it is, to be shown between streams."""
    image = hub.still(watch_id)
    if image is None:
        raise UnknownSessionError("there has been no session with this watch id lately")
    return Response(encode(image), media_type="image/jpeg")


@router.post(
    "/api/v1/watch/{watch_id}/offer",
    responses=_problems(
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


@router.post(
    "/api/v1/sessions",
    status_code=201,
    responses={201: IN_SESSION, **_problems(_400="Bad parameters", _503="No room")},
)
async def create_session(
    hub: HubOf,
    client: ClientOf,
    parameters: Annotated[ParameterChanges, Body(default_factory=dict)],
) -> schemas.SessionAnswer:
    """Open a session before connecting to it."""
    entry = await hub.open(client, parameters)
    return _described(entry)


@router.get("/api/v1/sessions/{session_id}", responses=UNKNOWN)
async def session(entry: OwnEntry) -> schemas.SessionAnswer:
    """Settings and figures of a session."""
    return _described(entry)


@router.delete("/api/v1/sessions/{session_id}", status_code=204, responses=UNKNOWN)
async def close_session(entry: OwnEntry) -> None:
    """End a session."""
    entry.session.close()


@router.put("/api/v1/sessions/{session_id}/reference", openapi_extra=PICTURE_BODY, responses={**UNKNOWN, **NO_PICTURE})
async def replace_reference(
    request: Request, entry: OwnEntry, hub: HubOf, wanted: WantedPart
) -> schemas.ReferenceAnswer:
    """Show another portrait; the motion continues."""
    remarks = await hub.replace_portrait(entry, await request.body(), wanted)
    return schemas.ReferenceAnswer(success=True, message="the portrait is set", remarks=remarks)


@router.put("/api/v1/sessions/{session_id}/background", openapi_extra=PICTURE_BODY, responses={**UNKNOWN, **NO_PICTURE})
async def set_backdrop(request: Request, entry: OwnEntry, hub: HubOf) -> schemas.MessageAnswer:
    """The picture behind the portrait, of which the middle is used; it is seen while `background` is `picture`."""
    await hub.set_backdrop(entry, await request.body())
    return schemas.MessageAnswer(message="the picture is set")


@router.patch("/api/v1/sessions/{session_id}/parameters", responses={**UNKNOWN, **_problems(_400="Bad parameters")})
async def change_parameters(entry: OwnEntry, changes: ParameterChanges) -> dict[str, Any]:
    """Change settings; return all of them."""
    return entry.session.change(changes).given()


@router.post("/api/v1/sessions/{session_id}/pause", responses={**UNKNOWN, **NOT_TEXT})
async def pause(
    entry: OwnEntry,
    request: Annotated[schemas.PauseRequest, Body()] = schemas.PauseRequest(),  # noqa: B008
) -> schemas.MessageAnswer:
    """Stand still, or continue with `paused: false`."""
    entry.session.change({"paused": request.paused})
    return schemas.MessageAnswer(message="the session is paused" if request.paused else "the session continues")


@router.post("/api/v1/sessions/{session_id}/reset", responses=UNKNOWN)
async def reset(entry: OwnEntry) -> schemas.MessageAnswer:
    """Forget the driver and start again from the portrait."""
    entry.session.change({"reset_cache": True})
    return schemas.MessageAnswer(message="the session starts again")


@router.post("/api/v1/sessions/{session_id}/neutral", responses=UNKNOWN)
async def set_neutral(entry: OwnEntry) -> schemas.MessageAnswer:
    """Measure motion from the driver's next frame on, as from a face at rest."""
    entry.session.change({"set_neutral": True})
    return schemas.MessageAnswer(message="the driver's next frame is the neutral one")


@router.post("/api/v1/sessions/{session_id}/toggle/{name}", responses=UNKNOWN)
async def toggle(entry: OwnEntry, name: Literal["paused", "hidden", "muted", "mirror"]) -> dict[str, Any]:
    """Turn a switch over; return all settings."""
    return entry.session.change({name: not getattr(entry.session.parameters, name)}).given()


@router.post("/api/v1/sessions/{session_id}/press", responses={**UNKNOWN, **NOT_TEXT})
async def press(entry: OwnEntry, request: schemas.PressRequest) -> schemas.MessageAnswer:
    """Have the client's page do something: its portraits, its countdown and its recorder are in the browser."""
    entry.session.on_message({"type": "press", "press": request.press, "number": request.number})
    return schemas.MessageAnswer(message="the page has been told")


@router.post("/api/v1/sessions/{session_id}/snapshot", responses={**UNKNOWN, **_problems(_400="No portrait yet")})
async def snapshot(entry: OwnEntry, hub: HubOf) -> schemas.MessageAnswer:
    """Remember the temporal state of the animation for this client; the last one counts."""
    await hub.snapshot(entry)
    return schemas.MessageAnswer(message="the state is kept until the model is loaded again")


@router.post("/api/v1/sessions/{session_id}/resume", responses={**UNKNOWN, **_problems(_400="No snapshot")})
async def resume(entry: OwnEntry, hub: HubOf) -> schemas.MessageAnswer:
    """Continue from the client's snapshot, in this or another session."""
    await hub.resume(entry)
    return schemas.MessageAnswer(message="the session continues from the saved state")


@router.get("/health")
async def health(hub: HubOf) -> schemas.HealthAnswer:
    """Whether the server is up."""
    return schemas.HealthAnswer(
        status="healthy",
        pipeline=hub.loader.state.status,
        sessions=len(hub.entries),
        max_sessions=hub.options.max_sessions,
    )


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(request: Request) -> Response:
    """Figures for Prometheus."""
    return Response(render(request.app.state.metrics), media_type="text/plain; version=0.0.4; charset=utf-8")


def _described(entry: Entry) -> schemas.SessionAnswer:
    return schemas.SessionAnswer(
        sessionId=entry.session.identifier,
        state=entry.state.value,
        connected=entry.state is SessionState.CONNECTED,
        parameters=entry.session.parameters.given(),
        stats=session_figures(entry.session),
    )
