"""The front's application: the interface of one live server, over several."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from personalive.live.front import admin
from personalive.live.front.forward import forward
from personalive.live.front.ledger import Placed
from personalive.live.front.metrics import Sums, front_registry
from personalive.live.front.pool import Pool, Worker
from personalive.live.front.sessions import Sessions, instead_of, parsed
from personalive.live.front.sockets import SocketProxy
from personalive.live.http import answers, callers, presets, schemas
from personalive.live.http.metrics import render
from personalive.live.http.security import Gate
from personalive.live.http.server import PRESETS, add_pages, add_socket
from personalive.live.hub.clients import Client, new_cookie
from personalive.live.hub.connections import watched
from personalive.live.hub.rates import RequestRate
from personalive.live.options import ServeOptions
from personalive.net.connection import ROOM, TLS
from personalive.net.waiting import WaitingRoom

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


def create_front(options: ServeOptions, pool: Pool) -> FastAPI:
    """The application, which starts and stops the workers of a pool.

    Args:
        options: what the operator chose.
        pool: not started yet.
    """
    waiting_room = WaitingRoom()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        pool.start()
        yield {ROOM: waiting_room, TLS: options.tls_context()}
        await pool.stop()

    # A worker describes the interface.
    app = FastAPI(lifespan=lifespan, openapi_url=None, docs_url=None, redoc_url=None)
    front = _Front(options, pool, waiting_room)
    answers.add_handlers(app)
    app.add_exception_handler(httpx.TransportError, _answer_ended)
    app.include_router(presets.router(options.presets or PRESETS))
    app.include_router(admin.router(pool))
    add_pages(app)
    _add_paths(app, front)
    add_socket(app, lambda socket, *wanted: SocketProxy(pool, front.sessions, socket).run(*wanted))
    app.add_middleware(Gate, options=options)
    return app


def _add_paths(app: FastAPI, front: "_Front") -> None:
    paths: list[tuple[str, list[str], Callable[..., Any]]] = [
        ("/health", ["GET"], front.health),
        ("/metrics", ["GET"], front.metrics),
        ("/api/v1/pipeline/load", ["POST"], front.load),
        ("/api/v1/pipeline/status", ["GET"], front.status),
        ("/api/v1/personalive/reference", ["POST"], front.set_portrait),
        ("/api/v1/webrtc/offer", ["POST"], front.offer),
        ("/api/v1/sessions", ["POST"], front.open),
        ("/api/v1/webrtc/offer/{session_id}", METHODS, front.to_session),
        ("/api/v1/sessions/{session_id}", METHODS, front.to_session),
        ("/api/v1/sessions/{session_id}/{what:path}", METHODS, front.to_session),
        ("/api/v1/whip", ["POST"], front.open_whip),
        ("/api/v1/whip/{session_id}", METHODS, front.to_session),
        ("/api/v1/watch/{watch_id}", METHODS, front.watch),
        ("/api/v1/watch/{watch_id}/{rest:path}", METHODS, front.watch),
        ("/api/v1/whep/{watch_id}", METHODS, front.watch),
        ("/api/v1/whep/{watch_id}/{rest:path}", METHODS, front.watch),
        ("/{path:path}", METHODS, front.to_any),
    ]
    for path, methods, call in paths:
        app.add_api_route(path, call, methods=methods, response_model=None)


async def _answer_ended(request: Request, error: Exception) -> Response:
    detail = "the process that was to answer has ended or does not answer: try again in a moment"
    return JSONResponse({"detail": detail}, 503, {"Retry-After": "1"})


def _client(request: Request) -> Client:
    # A worker gives the cookie to a client that has none.
    return callers.sender_of(request, new_cookie)


class _Front:
    """The handler of each path."""

    def __init__(self, options: ServeOptions, pool: Pool, waiting_room: WaitingRoom) -> None:
        self.sessions = Sessions(pool)
        self._options = options
        self._pool = pool
        self._offers = RequestRate(options.offer_rate)
        self._sums = Sums(front_registry(pool, waiting_room))

    # ---- all workers ----

    async def health(self) -> schemas.HealthAnswer:
        up = self._pool.up
        return schemas.HealthAnswer(
            status="healthy",
            pipeline=up[0].report.loading.status if up and up[0].report else "loading",
            sessions=len(self._pool.ledger.sessions),
            max_sessions=self._pool.limit,
        )

    async def metrics(self, request: Request) -> Response:
        workers = self._pool.up
        told = await asyncio.gather(*(forward(each, request, b"") for each in workers), return_exceptions=True)
        texts = {
            worker.name: bytes(answer.body).decode()
            for worker, answer in zip(workers, told, strict=True)
            if isinstance(answer, Response) and answer.status_code == 200
        }
        self._sums.update(texts, {worker.name for worker in self._pool.up})
        return Response(render(self._sums.registry), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def load(self, request: Request, wanted: schemas.LoadRequest) -> Response:
        """Load the model in all workers, or in none."""
        body = await request.body()
        answer: Response | None = None
        for worker in sorted(self._pool.up, key=self._may_refuse, reverse=True):
            answer = await forward(worker, request, body)
            if answer.status_code != 200:
                return answer
        self._pool.parameters = wanted.load_params  # also for those that are not up yet
        return answer or JSONResponse({"message": "the pipeline is being loaded"})

    def _may_refuse(self, worker: Worker) -> bool:
        loading = worker.report.loading if worker.report else None
        return bool(self._pool.ledger.on(worker.name)) or (loading is not None and loading.status == "loading")

    async def status(self, request: Request) -> Response:
        if not self._pool.up:
            return JSONResponse({"status": "loading", "stage": "starting the workers"})
        return await forward(self._pool.any(), request, b"")

    # ---- one worker ----

    async def set_portrait(self, request: Request, show: bool = True) -> Response:
        return await self.sessions.set_portrait(request, _client(request), await request.body(), show)

    async def offer(self, request: Request) -> Response:
        """Open a session, continue one, or continue one whose worker has died."""
        self._admit(request)
        client, body = _client(request), await request.body()
        values = parsed(body)
        lost: Placed | None = None
        if isinstance(identifier := values.get("sessionId"), str):
            lost = self.sessions.lost(identifier, client)
            if lost is None:
                return await forward(self.sessions.worker_of(identifier, client), request, body)
            body = instead_of(lost, values)
        return await self.sessions.open(request, client, body, lost)

    async def open(self, request: Request) -> Response:
        return await self.sessions.open(request, _client(request), await request.body(), None)

    async def open_whip(self, request: Request) -> Response:
        """Open a session by an offer of WHIP; its worker's next report tells the front its id."""
        self._admit(request)
        return await self.open(request)

    async def to_session(self, request: Request, session_id: str, what: str = "") -> Response:
        worker, body = self.sessions.worker_of(session_id, _client(request)), await request.body()
        answer = await forward(worker, request, body)
        if what == "reference" and request.method == "PUT" and answer.status_code == 200:
            self.sessions.replaced_portrait(session_id, request, body)
        return answer

    async def watch(self, request: Request, watch_id: str) -> Response:
        """Watch the session that an id shows now, or the still portrait of the last one, wherever that is or was."""
        self._admit(request)
        entry = watched(self._pool.ledger.sessions.values(), watch_id)
        name = entry.worker if entry else self._pool.ledger.home(watch_id)
        worker = self._pool.named(name) if name else None
        return await forward(worker or self._pool.any(), request, await request.body())

    async def to_any(self, request: Request) -> Response:
        """What all workers answer alike."""
        return await forward(self._pool.any(), request, await request.body())

    def _admit(self, request: Request) -> None:
        """Count an offer: workers do that too, but only those that come to them."""
        if request.method == "POST":
            self._offers.admit(request.client.host if request.client else "unknown")
