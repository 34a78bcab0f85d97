"""The interface: Cog's paths, answered here and by what makes predictions behind it, its `Backend`."""

import asyncio
import contextlib
import re
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Protocol

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from personalive.gateway.bodies import Bodies
from personalive.gateway.json_pieces import json_pieces
from personalive.gateway.openapi import SLOT_TAKEN
from personalive.gateway.prediction import BusyError, NotReadyError, Prediction
from personalive.gateway.requests import (
    MAX_BODY,
    InvalidError,
    PredictionRequest,
    check_addresses,
    check_id,
    complaint,
    parse,
)
from personalive.net.addresses import private_addresses_allowed
from personalive.net.connection import ROOM, TLS
from personalive.net.waiting import WaitingRoom

JSON_TYPE = re.compile(r"application/(?:[\w.+-]+\+)?json\s*(?:;.*)?", re.IGNORECASE)
MAX_CHECKS = 4
"""The most requests whose addresses are looked up at once: a client may name a slow name server."""
CHECK_WAIT_SECONDS = 2.0
"""How long others wait for their turn."""
ACCEPTED = ("id", "status", "queue_position")
"""What is told of a prediction that was taken."""
TRACE_HEADERS = ("traceparent", "tracestate")
"""Headers that are passed on to webhooks, as with Cog."""
TRACE_VALUE = re.compile(r"[\x21-\x7e ]{1,512}")


class Backend(Protocol):
    """What makes predictions: Cog's server, which has room for one, or a queue in front of several processes."""

    @property
    def health(self) -> Mapping[str, Any]:
        """Answer of the health check; its `status` is one of Cog's."""

    def find(self, identifier: str) -> Prediction | None:
        """The prediction with this id that has not ended, if there is one."""

    def check_room(self) -> None:
        """Refuse if a prediction that `start` would be given could not be taken.

        Raises:
            BusyError, NotReadyError
        """

    async def start(self, request: PredictionRequest, headers: Mapping[str, str]) -> Prediction:
        """Take a prediction.

        Raises:
            BusyError, NotReadyError: there is no room.
            InvalidError: its values are wrong.
        """

    async def cancel(self, identifier: str) -> bool:
        """Stop a prediction; whether there is one with this id, or has just been."""


def create_app(
    backend: Backend, description: Mapping[str, Any], inputs: Mapping[str, Any], more: Sequence[BaseRoute] = ()
) -> Starlette:
    """The public application.

    Args:
        backend: makes the predictions.
        description: of the interface, see `openapi.describe`.
        inputs: the schema of each input.
        more: routes that this backend has beyond those of Cog's interface.
    """
    interface = _Interface(backend, description, inputs)
    one = "/predictions/{prediction_id:path}"
    return Starlette(
        routes=[
            Route("/", interface.index),
            Route("/openapi.json", interface.openapi),
            Route("/health-check", interface.health),
            Route("/predictions", interface.begin, methods=["POST"]),
            Route(f"{one}/cancel", interface.cancel, methods=["POST"]),
            Route(one, interface.begin, methods=["PUT"]),
            *more,
        ],
        exception_handlers={
            HTTPException: _answer_exception,
            InvalidError: _answer_invalid,
            BusyError: _answer_busy,
            NotReadyError: _answer_not_ready,
            ClientDisconnect: _answer_nobody,
        },
        lifespan=lifespan,
    )


@contextlib.asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Any]]:
    """What the connections need: `bodies` counts what they hold, and there is no TLS."""
    yield {ROOM: WaitingRoom(max_held=sys.maxsize), TLS: None}


class _Interface:
    """The handler of each path."""

    def __init__(self, backend: Backend, description: Mapping[str, Any], inputs: Mapping[str, Any]) -> None:
        self._backend = backend
        self._description = bytes(JSONResponse(description).body)  # once, as anybody may ask for it any time
        self._inputs = inputs
        self._bodies = Bodies()
        self._checks = asyncio.Semaphore(MAX_CHECKS)

    async def index(self, request: Request) -> Response:
        """The index."""
        return JSONResponse(
            {
                "openapi_url": "/openapi.json",
                "healthcheck_url": "/health-check",
                "predictions_url": "/predictions",
                "predictions_idempotent_url": "/predictions/{prediction_id}",
                "predictions_cancel_url": "/predictions/{prediction_id}/cancel",
            }
        )

    async def openapi(self, request: Request) -> Response:
        return Response(self._description, media_type="application/json")

    async def health(self, request: Request) -> Response:
        """Always 200, as with Cog; what counts is the status."""
        return JSONResponse(self._backend.health)

    async def begin(self, request: Request) -> Response:
        """A prediction: POST, or PUT with its id in the path, which may be repeated while it runs."""
        path_id = checked_id(request) if request.method == "PUT" else None
        if not JSON_TYPE.fullmatch(request.headers.get("content-type", "")):
            raise HTTPException(415, "the body must be JSON, with Content-Type: application/json")
        known = None if path_id is None else self._backend.find(path_id)
        if known is not None:
            await self._bodies.skip(request, MAX_BODY)
            return json_answer(known.state, 202)
        try:
            self._backend.check_room()
        except (BusyError, NotReadyError):
            await self._bodies.skip(request, MAX_BODY)
            raise
        async with self._bodies.read(request, MAX_BODY) as body:
            prediction = await self._start(request, body, path_id)
        if _asynchronous(request):
            return json_answer({name: prediction.state[name] for name in ACCEPTED if name in prediction.state}, 202)
        await self._wait(request, prediction)
        return json_answer(prediction.state, 200)

    async def _start(self, request: Request, body: bytes, path_id: str | None) -> Prediction:
        wanted = parse(body, self._inputs)
        if path_id is not None:
            if wanted.id not in (None, path_id):
                raise InvalidError(422, [complaint(("body", "id"), "it must equal the id in the URL, or be left out")])
            wanted.id = path_id
        await self._check_addresses(wanted)
        trace = {name: request.headers[name] for name in TRACE_HEADERS if name in request.headers}
        return await self._backend.start(
            wanted, {name: value for name, value in trace.items() if TRACE_VALUE.fullmatch(value)}
        )

    async def _check_addresses(self, wanted: PredictionRequest) -> None:
        if wanted.webhook is None and wanted.output_file_prefix is None:
            return
        try:
            async with asyncio.timeout(CHECK_WAIT_SECONDS):
                await self._checks.acquire()
        except TimeoutError:
            raise HTTPException(503, "too many addresses are being looked up", {"Retry-After": "10"}) from None
        try:
            await asyncio.to_thread(check_addresses, wanted, allow_private=private_addresses_allowed())
        finally:
            self._checks.release()

    async def _wait(self, request: Request, prediction: Prediction) -> None:
        """Wait until it has ended. A client that disconnects cancels it."""
        gone = asyncio.create_task(_disconnected(request))
        done = asyncio.create_task(prediction.done.wait())
        try:
            await asyncio.wait([gone, done], return_when="FIRST_COMPLETED")
            if not done.done():
                await self._backend.cancel(prediction.id)
                raise ClientDisconnect
        finally:
            gone.cancel()
            done.cancel()

    async def cancel(self, request: Request) -> Response:
        identifier = checked_id(request)
        if not await self._backend.cancel(identifier):
            raise HTTPException(404, f"no prediction {identifier} is running")
        return JSONResponse({})


def checked_id(request: Request) -> str:
    """The id in a request's path.

    Raises:
        InvalidError: with 422, if it is none.
    """
    # Not from `path_params`: the router ignores a newline at the end.
    identifier = str(request.scope["path"]).removeprefix("/predictions/")
    if request.method == "POST":
        identifier = identifier.removesuffix("/cancel")
    elif identifier.endswith("/cancel"):
        raise HTTPException(405, headers={"Allow": "POST"})
    check_id(identifier)
    return identifier


def _asynchronous(request: Request) -> bool:
    """Whether `Prefer` asks for an answer at once; unknown preferences are not an error (RFC 7240)."""
    preferences = ",".join(request.headers.getlist("prefer")).split(",")
    return any(each.partition(";")[0].strip().lower() == "respond-async" for each in preferences)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def json_answer(values: dict[str, Any], status: int) -> Response:
    """An answer with a state, which may contain a whole video."""

    async def pieces() -> AsyncIterator[bytes]:
        for piece in json_pieces(values):
            yield piece
            await asyncio.sleep(0)

    return StreamingResponse(pieces(), status, media_type="application/json")


async def _answer_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 503:
        return _failure(error.detail, 503, error.headers)
    return JSONResponse({"detail": error.detail}, error.status_code, error.headers)


async def _answer_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, InvalidError)
    return JSONResponse({"detail": error.detail}, error.status)


async def _answer_busy(request: Request, error: Exception) -> Response:
    return JSONResponse(SLOT_TAKEN, 409)


async def _answer_not_ready(request: Request, error: Exception) -> Response:
    assert isinstance(error, NotReadyError)
    return _failure(str(error), 503, {"Retry-After": str(error.retry_after)})


async def _answer_nobody(request: Request, error: Exception) -> Response:
    return Response(status_code=499)


def _failure(error: str, status: int, headers: Any) -> Response:
    return JSONResponse({"error": error, "status": "failed"}, status, headers)
