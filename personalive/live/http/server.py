"""The live server: its FastAPI application, and the command that runs it."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Literal

import uvicorn
from fastapi import FastAPI, Query, Request, WebSocket
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles

from personalive.errors import DeviceMemoryError, InputError, PersonaLiveError
from personalive.extras import missing, pip_install
from personalive.live.core.commands import SessionEndedError
from personalive.live.core.faces import Faces, MeshFaces
from personalive.live.core.model import ModelFactory
from personalive.live.http import api, metrics, schemas
from personalive.live.http.security import SOCKET_TOKEN, Gate, given_token
from personalive.live.hub.clients import COOKIE, Client, new_cookie
from personalive.live.hub.entries import FullError, NotLoadedError, NotYoursError, UnknownSessionError
from personalive.live.hub.hub import Hub
from personalive.live.hub.loader import BusyError, EngineFactory
from personalive.live.options import ServeOptions
from personalive.live.transport import aiortc_fixes
from personalive.live.transport.websocket import MAX_MESSAGE_BYTES, Socket

logger = logging.getLogger(__name__)

STATIC = Path(__file__).parent / "static"
PRESETS = STATIC / "presets"
PROTOCOL = "personalive"
"""WebSocket subprotocol."""
ANSWERS: dict[type[PersonaLiveError], int] = {
    FullError: 503,
    DeviceMemoryError: 503,
    UnknownSessionError: 404,
    SessionEndedError: 404,
    NotYoursError: 403,
    BusyError: 409,
    InputError: 400,
    PersonaLiveError: 400,
}


def create_app(options: ServeOptions, factory: EngineFactory, faces: Faces | None) -> FastAPI:
    """The application.

    Args:
        options: what the operator chose.
        factory: makes the model when it is loaded.
        faces: finds faces; None leaves that to the model.
    """
    aiortc_fixes.apply()
    hub = Hub(options, factory, faces)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await hub.start()
        yield
        await hub.stop()

    # The stock documentation pages load their scripts from other hosts; the description itself stays.
    app = FastAPI(title="PersonaLive live", version="1", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.hub = hub
    app.state.metrics = metrics.registry(hub)
    for kind in ANSWERS:
        app.add_exception_handler(kind, _answer_error)
    app.add_exception_handler(NotLoadedError, _answer_not_loaded)
    app.include_router(api.router)
    _add_pages(app, options.presets or PRESETS)
    _add_socket(app)
    app.add_middleware(Gate, options=options)
    return app


async def _answer_error(request: Request, error: Exception) -> Response:
    status = next(ANSWERS[kind] for kind in type(error).__mro__ if kind in ANSWERS)
    headers = {"Retry-After": "10"} if status == 503 else None
    return JSONResponse({"detail": str(error)}, status, headers)


async def _answer_not_loaded(request: Request, error: Exception) -> Response:
    # Clients of this interface expect 400 where they send a portrait before anything is loaded.
    status = 400 if request.url.path.endswith("/reference") else 503
    return JSONResponse({"detail": str(error)}, status, {"Retry-After": "5"})


def _add_pages(app: FastAPI, presets: Path) -> None:
    def page(request: Request, name: str) -> Response:
        response = FileResponse(STATIC / name)
        if COOKIE not in request.cookies:
            api.give_cookie(request, response)
        return response

    @app.get("/", include_in_schema=False)
    async def index(request: Request) -> Response:
        return page(request, "index.html")

    @app.get("/embed", include_in_schema=False)
    async def embed(request: Request) -> Response:
        return page(request, "embed.html")

    @app.get("/api/v1/presets")
    async def list_presets() -> list[schemas.Preset]:
        """Portraits that the page offers."""
        files = sorted(path for path in presets.glob("*") if path.suffix in (".png", ".jpg", ".webp"))
        return [schemas.Preset(name=path.stem, url=f"/static/presets/{path.name}") for path in files]

    if presets.is_dir():
        app.mount("/static/presets", StaticFiles(directory=presets), name="presets")
    app.mount("/static", StaticFiles(directory=STATIC), name="static")


def _add_socket(app: FastAPI) -> None:
    @app.websocket("/api/v1/ws")
    async def socket(
        socket: WebSocket,
        sessionId: Annotated[str | None, Query(max_length=64)] = None,
        format: Literal["jpeg", "webp"] = "jpeg",
    ) -> None:
        hub: Hub = socket.app.state.hub
        wanted = socket.headers.get("sec-websocket-protocol", "")
        await socket.accept(PROTOCOL if PROTOCOL in wanted or SOCKET_TOKEN in wanted else None)
        try:
            client = _client(socket)
            entry = hub.find(sessionId, client) if sessionId else await hub.open(client, {})
        except PersonaLiveError as error:
            await socket.send_json({"type": "stream_stopped", "error_message": str(error)})
            await socket.close(1013, str(error)[:120])
            return
        connection = Socket(hub, entry, socket, format)
        connection.send({"type": "session", "sessionId": entry.session.identifier})
        hub.connections.attach(entry, connection)
        await connection.run()


def _client(socket: WebSocket) -> Client:
    address = socket.client.host if socket.client else "unknown"
    cookie, token = socket.cookies.get(COOKIE), given_token(socket.headers)
    return Client.known(cookie, address, token) if cookie else Client.new(new_cookie(), token, address)


def model_factory(options: ServeOptions) -> ModelFactory:
    """Loads what the options name."""
    _, substitute = options.model.resolved_source()
    if substitute:
        logger.warning("%s", substitute)
    return ModelFactory(options.model.load, face_boxes=options.face_boxes == "mesh")


def serve(options: ServeOptions) -> None:
    """Run the server until it is told to stop."""
    if options.face_boxes == "mesh" and missing("faces"):
        logger.warning(
            "mediapipe is not installed, so faces are cut out by the model's keypoints; this installs it: %s",
            pip_install("faces"),
        )
        options = options.replace(face_boxes="keypoints")
    app = create_app(options, model_factory(options), MeshFaces() if options.face_boxes == "mesh" else None)
    logger.info("the page is at %s", options.page_url)
    uvicorn.run(
        app,
        host=options.host,
        port=options.port,
        ssl_certfile=options.tls_cert,
        ssl_keyfile=options.tls_key,
        ws_max_size=MAX_MESSAGE_BYTES,
        ws_max_queue=8,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=5,
        limit_concurrency=256,
        proxy_headers=False,
        server_header=False,
    )
