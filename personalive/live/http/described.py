"""How the REST interface describes itself: bodies, problems, and which call takes what another has returned."""

from typing import Any

from fastapi import APIRouter

from personalive.live.http import schemas
from personalive.live.http.security import MAX_PICTURE
from personalive.media.images import media_types

PICTURE_BODY = {
    "requestBody": {
        "required": True,
        "description": f"A portrait, at most {MAX_PICTURE // 2**20} MB",
        "content": {
            kind: {"schema": {"type": "string", "format": "binary"}} for kind in sorted(set(media_types().values()))
        },
    }
}


def problems(**reasons: str) -> dict[int | str, dict[str, Any]]:
    """Answers that are no success, such as `_404="No such session"`."""
    return {int(code[1:]): {"model": schemas.Problem, "description": reason} for code, reason in reasons.items()}


UNKNOWN = problems(_403="Another client's session", _404="No such session")
NO_PICTURE = problems(
    _400="Not loaded, empty, not a picture, or no face in it",
    _413="The picture is too large",
    _503="The model is being loaded",
)
NOT_TEXT = problems(_400="The body is not text")


def leads_to(name: str, value: str, *operations: str) -> dict[str, Any]:
    """Links of OpenAPI: operations that take something which an answer brings."""
    return {"links": {each: {"operationId": each, "parameters": {name: value}} for each in operations}}


IN_SESSION = leads_to(
    "session_id",
    "$response.body#/sessionId",
    *("session", "close_session", "replace_reference", "change_parameters", "pause", "reset", "set_neutral"),
    *("snapshot", "resume", "candidates", "set_backdrop"),
)


def new_router() -> APIRouter:
    """For calls whose operations have the names of their functions."""
    return APIRouter(generate_unique_id_function=lambda route: route.name)
