"""The interface: Cog's paths, answered here and by Cog's own server behind it."""

import asyncio
import contextlib
import re
import sys
from collections.abc import AsyncIterator
from typing import Any

from pydantic_core import from_json
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from personalive.gateway.bodies import Bodies
from personalive.gateway.cog_server import CogServer, NotReadyError
from personalive.gateway.json_pieces import json_pieces
from personalive.gateway.openapi import SLOT_TAKEN, describe
from personalive.gateway.predictions import BusyError, Prediction, Predictions
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
TRACE_HEADERS = ("traceparent", "tracestate")
"""Headers that are passed on to webhooks, as with Cog."""
TRACE_VALUE = re.compile(r"[\x21-\x7e ]{1,512}")


def create_app(cog: CogServer, predictions: Predictions, cog_schema: dict[str, Any]) -> Starlette:
    """The public application."""
    interface = _Interface(cog, predictions, cog_schema)
    one = "/predictions/{prediction_id:path}"
    return Starlette(
        routes=[
            Route("/", interface.index),
            Route("/openapi.json", interface.openapi),
            Route("/health-check", interface.health),
            Route("/predictions", interface.begin, methods=["POST"]),
            Route(f"{one}/cancel", interface.cancel, methods=["POST"]),
            Route(one, interface.begin, methods=["PUT"]),
        ],
        exception_handlers={
            HTTPException: _answer_exception,
            InvalidError: _answer_invalid,
            BusyError: _answer_busy,
            NotReadyError: _answer_not_ready,
            ClientDisconnect: _answer_nobody,
        },
        lifespan=_lifespan,
    )


@contextlib.asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[dict[str, Any]]:
    """What the connections need: `bodies` counts what they hold, and there is no TLS."""
    yield {ROOM: WaitingRoom(max_held=sys.maxsize), TLS: None}


class _Interface:
    """The handler of each path."""

    def __init__(self, cog: CogServer, predictions: Predictions, cog_schema: dict[str, Any]) -> None:
        self._cog = cog
        self._predictions = predictions
        self._description = bytes(JSONResponse(describe(cog_schema)).body)  # once, as anybody may ask for it any time
        self._inputs = cog_schema["components"]["schemas"]["Input"]["properties"]
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
        health = self._cog.health
        if health["status"] in ("READY", "BUSY"):
            health = {**health, "status": "READY" if self._predictions.current is None else "BUSY"}
        return JSONResponse(health)

    async def begin(self, request: Request) -> Response:
        """A prediction: POST, or PUT with its id in the path, which may be repeated while it runs."""
        path_id = _checked_id(request) if request.method == "PUT" else None
        if not JSON_TYPE.fullmatch(request.headers.get("content-type", "")):
            raise HTTPException(415, "the body must be JSON, with Content-Type: application/json")
        current = self._predictions.current
        if current is not None:
            await self._bodies.skip(request, MAX_BODY)
            if current.id == path_id:
                return _json(current.state, 202)
            raise BusyError
        async with self._bodies.read(request, MAX_BODY) as body:
            prediction = await self._start(request, body, path_id)
        if _asynchronous(request):
            return _json({"id": prediction.id, "status": "starting"}, 202)
        await self._wait(request, prediction)
        return _json(prediction.state, 200)

    async def _start(self, request: Request, body: bytes, path_id: str | None) -> Prediction:
        wanted = parse(body, self._inputs)
        if path_id is not None:
            if wanted.id not in (None, path_id):
                raise InvalidError(422, [complaint(("body", "id"), "it must equal the id in the URL, or be left out")])
            wanted.id = path_id
        await self._check_addresses(wanted)
        trace = {name: request.headers[name] for name in TRACE_HEADERS if name in request.headers}
        return await self._predictions.start(
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
                await self._predictions.cancel(prediction.id)
                raise ClientDisconnect
        finally:
            gone.cancel()
            done.cancel()

    async def cancel(self, request: Request) -> Response:
        identifier = _checked_id(request)
        if not await self._predictions.cancel(identifier):
            raise HTTPException(404, f"no prediction {identifier} is running")
        return JSONResponse({})


def _checked_id(request: Request) -> str:
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


def _json(values: dict[str, Any], status: int) -> Response:
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
    return _failure(str(error), 503, {"Retry-After": "5"})


async def _answer_nobody(request: Request, error: Exception) -> Response:
    return Response(status_code=499)


def _failure(error: str, status: int, headers: Any) -> Response:
    return JSONResponse({"error": error, "status": "failed"}, status, headers)


def create_events_app(predictions: Predictions, secret: str) -> Starlette:
    """The application that only Cog's server calls, on loopback, with the events of predictions.

    Args:
        secret: the first part of the path, which other processes on the machine do not know.
    """

    async def take(request: Request) -> Response:
        with contextlib.suppress(ValueError):
            predictions.on_event(request.path_params["cog_id"], from_json(await request.body()))
        return Response()

    return Starlette(routes=[Route(f"/{secret}/{{cog_id}}", take, methods=["POST"])], lifespan=_lifespan)
