"""Errors as answers of one form, `{"detail": …}`, which can be sent whatever the client has sent."""

import logging

from fastapi import FastAPI, Request, WebSocket
from fastapi.exceptions import RequestValidationError, WebSocketRequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.requests import ClientDisconnect
from starlette.routing import Route
from websockets.frames import CloseCode

from personalive.errors import DeviceMemoryError, InputError, PersonaLiveError
from personalive.live.core.commands import SessionEndedError
from personalive.live.http.security import answer_headers
from personalive.live.hub.entries import FullError, NotLoadedError, NotYoursError, UnknownSessionError
from personalive.live.hub.loader import BusyError
from personalive.live.hub.rates import TooManyError

logger = logging.getLogger(__name__)

ANSWERS: dict[type[PersonaLiveError], int] = {
    FullError: 503,
    TooManyError: 429,
    DeviceMemoryError: 503,
    UnknownSessionError: 404,
    SessionEndedError: 404,
    NotYoursError: 403,
    BusyError: 409,
    InputError: 400,
    PersonaLiveError: 400,
}
RETRY_AFTER = {503: "10", 429: "1"}
"""Seconds."""
MAX_DETAIL = 1000
"""The most characters of a reason, which may repeat what the client has sent."""


def add_handlers(app: FastAPI) -> None:
    """Make an application answer every error."""
    for kind in ANSWERS:
        app.add_exception_handler(kind, _answer_error)
    app.add_exception_handler(NotLoadedError, _answer_not_loaded)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    app.add_exception_handler(WebSocketRequestValidationError, _refuse_socket)
    app.add_exception_handler(405, _answer_method)
    app.add_exception_handler(RecursionError, _answer_nested)
    app.add_exception_handler(ClientDisconnect, _answer_nobody)
    app.add_exception_handler(Exception, _answer_defect)


async def _answer_error(request: Request, error: Exception) -> Response:
    status = next(ANSWERS[kind] for kind in type(error).__mro__ if kind in ANSWERS)
    return _answer(str(error), status, {"Retry-After": RETRY_AFTER[status]} if status in RETRY_AFTER else None)


async def _answer_not_loaded(request: Request, error: Exception) -> Response:
    # Clients of this interface expect 400 where they send a portrait before anything is loaded or being loaded.
    is_early = request.app.state.hub.loader.state.status == "not_loaded"
    status = 400 if is_early and request.url.path.endswith("/reference") else 503
    return _answer(str(error), status, {"Retry-After": "5"})


async def _answer_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return JSONResponse({"detail": _problems(error)}, 422)


async def _refuse_socket(socket: WebSocket, error: Exception) -> None:
    assert isinstance(error, WebSocketRequestValidationError)
    await socket.close(CloseCode.POLICY_VIOLATION, "; ".join(str(each["msg"]) for each in _problems(error)))


async def _answer_method(request: Request, error: Exception) -> Response:
    # The router names the methods of the first route with this path only.
    routes = (
        each for each in request.app.routes if isinstance(each, Route) and each.path_regex.match(request.url.path)
    )
    allowed = sorted({method for each in routes for method in each.methods or ()})
    return _answer("Method Not Allowed", 405, {"Allow": ", ".join(allowed)})


async def _answer_nested(request: Request, error: Exception) -> Response:
    return _answer("the JSON is nested too deeply", 400)


async def _answer_nobody(request: Request, error: Exception) -> Response:
    return _answer("the connection ended before the request", 400)


async def _answer_defect(request: Request, error: Exception) -> Response:
    # This one is sent past the middleware, which would add the headers.
    return _answer("an unexpected error; the server's log says more", 500, answer_headers(request.url.path))


def _problems(error: RequestValidationError | WebSocketRequestValidationError) -> list[dict[str, object]]:
    """Where and what, without the values: clients can send some that JSON cannot express, such as NaN."""
    return [
        {
            "type": each["type"],
            "loc": [part if isinstance(part, int) else _plain(str(part)) for part in each["loc"]],
            "msg": _plain(each["msg"]),
        }
        for each in error.errors()
    ]


def _answer(detail: str, status: int, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"detail": _plain(detail)}, status, headers)


def _plain(text: str) -> str:
    """Text that can be sent: half a character, which is valid JSON, becomes a question mark."""
    return text[:MAX_DETAIL].encode("utf-8", "replace").decode()
