"""The REST interface of single sessions."""

from typing import Annotated, Any, Literal

from fastapi import Body, Request

from personalive.live.http import schemas
from personalive.live.http.callers import ClientOf, HubOf, OwnEntry, WantedPart
from personalive.live.http.described import (
    IN_SESSION,
    NO_PICTURE,
    NOT_TEXT,
    PICTURE_BODY,
    UNKNOWN,
    new_router,
    problems,
)
from personalive.live.http.settings import ParameterChanges
from personalive.live.hub.entries import Entry, SessionState
from personalive.live.transport.messages import session_figures

router = new_router()


@router.post(
    "/api/v1/sessions",
    status_code=201,
    responses={201: IN_SESSION, **problems(_400="Bad parameters", _503="No room")},
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


@router.patch("/api/v1/sessions/{session_id}/parameters", responses={**UNKNOWN, **problems(_400="Bad parameters")})
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


@router.post("/api/v1/sessions/{session_id}/snapshot", responses={**UNKNOWN, **problems(_400="No portrait yet")})
async def snapshot(entry: OwnEntry, hub: HubOf) -> schemas.MessageAnswer:
    """Remember the temporal state of the animation for this client; the last one counts."""
    await hub.snapshot(entry)
    return schemas.MessageAnswer(message="the state is kept until the model is loaded again")


@router.post("/api/v1/sessions/{session_id}/resume", responses={**UNKNOWN, **problems(_400="No snapshot")})
async def resume(entry: OwnEntry, hub: HubOf) -> schemas.MessageAnswer:
    """Continue from the client's snapshot, in this or another session."""
    await hub.resume(entry)
    return schemas.MessageAnswer(message="the session continues from the saved state")


def _described(entry: Entry) -> schemas.SessionAnswer:
    return schemas.SessionAnswer(
        sessionId=entry.session.identifier,
        state=entry.state.value,
        connected=entry.state is SessionState.CONNECTED,
        parameters=entry.session.parameters.given(),
        stats=session_figures(entry.session),
    )
