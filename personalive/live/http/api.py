"""The REST interface: the calls that clients of this pipeline know. Those for single sessions are in `sessions`."""

from typing import Annotated, Any

from fastapi import Depends, Query, Request, Response

from personalive.live.http import schemas
from personalive.live.http.callers import ClientOf, HubOf, IceOf, OwnEntry, WantedPart, address_of, admit_offer
from personalive.live.http.described import (
    IN_SESSION,
    NO_PICTURE,
    NOT_TEXT,
    PICTURE_BODY,
    UNKNOWN,
    new_router,
    problems,
)
from personalive.live.http.metrics import render
from personalive.live.http.settings import LOAD_SCHEMA, PARAMETERS_SCHEMA
from personalive.live.hub.loader import PIPELINE
from personalive.live.hub.modes import MODES
from personalive.live.transport.offer import Candidates, checked
from personalive.live.transport.webrtc import Peer

router = new_router()


@router.post(
    "/api/v1/pipeline/load",
    responses={**NOT_TEXT, **problems(_409="In use, or being loaded, with other parameters")},
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


@router.get("/api/v1/modes", responses=problems(_503="The model is not loaded"))
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
    responses=problems(_400="Not a picture", _413="The picture is too large", _429="Too many"),
)
async def look_for_face(request: Request, hub: HubOf) -> schemas.FaceAnswer:
    """Whether a picture of the camera shows a face that can drive, before a session is opened."""
    hub.looks.admit(address_of(request))
    found, box = await hub.look(await request.body())
    return schemas.FaceAnswer(found=found, box=None if box is None else list(box))


@router.get("/api/v1/webrtc/ice-servers")
async def ice_servers(hub: HubOf) -> schemas.IceServersAnswer:
    """Servers that help browsers to connect."""
    return schemas.IceServersAnswer(iceServers=[each.to_dict() for each in hub.options.ice_servers])


@router.post(
    "/api/v1/webrtc/offer",
    responses={
        200: IN_SESSION,
        **UNKNOWN,
        **problems(_400="Bad SDP or parameters", _429="Too many", _503="Full, or not loaded"),
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
