"""The live server: its FastAPI application, and the command that runs it."""

import asyncio
import logging
import resource
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import uvicorn
from fastapi import FastAPI, Query, Request, WebSocket
from fastapi.responses import FileResponse, Response
from fastapi.staticfiles import StaticFiles
from websockets.frames import CloseCode

from personalive.errors import PersonaLiveError
from personalive.extras import missing
from personalive.live.core.faces import Faces, MeshFaces
from personalive.live.core.model import ModelFactory
from personalive.live.http import answers, api, callers, metrics, presets, sessions, watch, whip
from personalive.live.http.connection import LiveConnection, SocketConnection
from personalive.live.http.security import SOCKET_TOKEN, Gate
from personalive.live.hub.clients import COOKIE, new_cookie
from personalive.live.hub.hub import Hub
from personalive.live.hub.loader import EngineFactory
from personalive.live.options import ServeOptions
from personalive.live.transport import aiortc_fixes, virtual_camera
from personalive.live.transport.ice import IceLimits
from personalive.live.transport.virtual_camera import VirtualCamera
from personalive.live.transport.websocket import MAX_MESSAGE_BYTES, Socket
from personalive.media.faces import NO_FACES
from personalive.net.connection import ROOM, TLS
from personalive.net.server import FLAGS, Server, bound
from personalive.net.waiting import WaitingRoom

logger = logging.getLogger(__name__)

STATIC = Path(__file__).parent / "static"
PRESETS = STATIC / "presets"
PictureFormat = Literal["jpeg", "webp"]
ServeSocket = Callable[[WebSocket, str | None, PictureFormat], Awaitable[None]]
"""Serves an accepted WebSocket until it ends: the id of the session to continue, and the format of its pictures."""

PROTOCOL = "personalive"
"""WebSocket subprotocol."""
MAX_FILES = 8192
"""Open files, including sockets, that the process asks for."""
UVICORN: dict[str, Any] = {
    "http": LiveConnection,
    "ws": SocketConnection,
    "ws_max_size": MAX_MESSAGE_BYTES,
    "timeout_keep_alive": 15,
    "proxy_headers": False,
    "server_header": False,
    "access_log": False,
    "log_level": "error",
}
"""How uvicorn is run. It logs only defects: a line for each request would be one more thing to flood."""


def create_app(
    options: ServeOptions, factory: EngineFactory, faces: Faces | None, tls: ssl.SSLContext | None = None
) -> FastAPI:
    """The application.

    Args:
        options: what the operator chose.
        factory: makes the model when it is loaded.
        faces: finds faces; None leaves that to the model.
        tls: for https; None: as the options say.
    """
    aiortc_fixes.apply()
    hub = Hub(options, factory, faces)

    waiting_room = WaitingRoom()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        await hub.start()
        device = options.virtual_camera
        camera = asyncio.create_task(VirtualCamera(hub, device).run()) if device else None
        yield {ROOM: waiting_room, TLS: tls or options.tls_context()}
        if camera is not None:
            camera.cancel()
            await asyncio.wait([camera])
        await hub.stop()

    # The stock documentation pages load their scripts from other hosts; the description itself stays.
    app = FastAPI(title="PersonaLive live", version="1", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.hub = hub
    app.state.ice = IceLimits(options.media_host or options.host)
    app.state.metrics = metrics.registry(hub, waiting_room)
    answers.add_handlers(app)
    for calls in (api, watch, sessions):
        app.include_router(calls.router)
    app.include_router(whip.router)
    app.include_router(presets.router(options.presets or PRESETS))
    add_pages(app)
    add_socket(app, partial(_serve_socket, hub))
    app.add_middleware(Gate, options=options)
    return app


def add_pages(app: FastAPI) -> None:
    """Let an application serve the pages and what they load."""

    def page(request: Request, name: str) -> Response:
        response = FileResponse(STATIC / name)
        if COOKIE not in request.cookies:
            callers.give_cookie(request, response)
        return response

    @app.get("/", include_in_schema=False)
    async def index(request: Request) -> Response:
        return page(request, "index.html")

    @app.get("/embed", include_in_schema=False)
    async def embed(request: Request) -> Response:
        return page(request, "embed.html")

    app.mount("/static", StaticFiles(directory=STATIC), name="static")


def add_socket(app: FastAPI, serve: ServeSocket) -> None:
    """Let an application take WebSockets, and hand each one over when it is accepted."""

    @app.websocket("/api/v1/ws")
    async def socket(
        socket: WebSocket,
        sessionId: Annotated[str | None, Query(max_length=64)] = None,
        format: PictureFormat = "jpeg",
    ) -> None:
        wanted = socket.headers.get("sec-websocket-protocol", "")
        await socket.accept(PROTOCOL if PROTOCOL in wanted or SOCKET_TOKEN in wanted else None)
        await serve(socket, sessionId or None, format)


async def _serve_socket(hub: Hub, socket: WebSocket, session_id: str | None, picture_format: PictureFormat) -> None:
    try:
        client = callers.sender_of(socket, new_cookie)
        entry = hub.find(session_id, client) if session_id else await hub.open(client, {})
    except PersonaLiveError as error:
        await socket.send_json({"type": "stream_stopped", "error_message": str(error)})
        await socket.close(CloseCode.TRY_AGAIN_LATER, str(error)[:120])
        return
    connection = Socket(hub, entry, socket, picture_format)
    connection.send({"type": "session", "sessionId": entry.session.identifier})
    hub.connections.attach(entry, connection)
    await connection.run()


def model_factory(options: ServeOptions) -> ModelFactory:
    """Loads the model that the options name."""
    _, substitute = options.model.resolved_source()
    if substitute:
        logger.warning("%s", substitute)
    return ModelFactory(options.model.load, face_boxes=options.face_boxes == "mesh")


def usable(options: ServeOptions) -> ServeOptions:
    """The options, without what would need packages that are not installed."""
    if options.face_boxes == "mesh" and missing("faces"):
        logger.warning("%s", NO_FACES)
        return options.replace(face_boxes="keypoints")
    return options


def faces_of(options: ServeOptions) -> Faces | None:
    """What finds faces; None leaves that to the model."""
    return MeshFaces() if options.face_boxes == "mesh" else None


def serve(options: ServeOptions) -> None:
    """Run the server until it is told to stop.

    Raises:
        AddressError: its address is taken, or not this machine's.
    """
    options = usable(options)
    if options.virtual_camera:
        virtual_camera.check(options.virtual_camera)
    with listen(options) as listening:
        app = create_app(options, model_factory(options), faces_of(options))
        run(Server(uvicorn.Config(app, timeout_graceful_shutdown=5, **UVICORN)), options, listening)


def listen(options: ServeOptions) -> socket.socket:
    """Take the address that the operator chose, before anything that takes long.

    Raises:
        AddressError: it is taken, or not this machine's.
    """
    return bound(options.host, options.port, FLAGS)


def run(server: Server, options: ServeOptions, listening: socket.socket, behind: str = "") -> None:
    """Let a server answer at its address until it is told to stop.

    Args:
        listening: see `listen`.
        behind: what answers, for the operator.
    """
    allow_many_files()
    url = options.replace(port=listening.getsockname()[1]).page_url  # port 0 has become another
    logger.info("the page is at %s%s", url, behind)
    with suppress(KeyboardInterrupt):
        server.run([listening])


def allow_many_files() -> None:
    """Raise the limit on open files to what the system allows: a crowd that connects at once needs them briefly."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_FILES)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
