"""Runs the service: the public interface, the endpoint that Cog reports to, and Cog's server between them."""

import asyncio
import contextlib
import json
import logging
import secrets
import signal
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import uvicorn
from starlette.applications import Starlette

from personalive.errors import PersonaLiveError
from personalive.gateway.app import create_app, create_events_app
from personalive.gateway.bodies import SECONDS as BODY_SECONDS
from personalive.gateway.cog_server import CogServer
from personalive.gateway.deliveries import Deliveries
from personalive.gateway.options import GatewayOptions
from personalive.gateway.predictions import Predictions
from personalive.media.held_folder import HeldFolder
from personalive.net.addresses import private_addresses_allowed
from personalive.net.connection import HttpConnection, Stage
from personalive.net.server import Server

logger = logging.getLogger(__name__)

SCHEMA = Path(".cog", "openapi_schema.json")
"""Where Cog looks for it, in the folder in which it is started. Without it, Cog checks no inputs."""
CANCEL_SECONDS = 3.5
"""Time for a prediction to stop when the service is stopped, then for its webhook, then for Cog's server."""
DELIVERY_SECONDS = 2.0
MAX_HEAD = 32 * 1024
"""Bytes of a request's line and headers."""


class ServiceError(PersonaLiveError):
    """The service cannot run, or cannot continue."""


class GatewayConnection(HttpConnection):
    """HTTP/1.1 for large files and slow lines: how fast a body has to come, `bodies` says."""

    seconds: ClassVar[Mapping[Stage, float]] = {
        **HttpConnection.seconds,
        Stage.BODY: BODY_SECONDS + 10.0,
        Stage.ANSWER: 30.0,
    }


class _Server(Server):
    """uvicorn without its signal handlers, as this process runs two of them."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to `run`."""
        yield


def serve(options: GatewayOptions) -> None:
    """Run until SIGTERM or SIGINT.

    Raises:
        ServiceError: the address is taken, this is not the repository's folder, or Cog's server no longer works.
    """
    if not SCHEMA.exists() or not Path("predict.py").exists():
        raise ServiceError(f"there is no predict.py or no {SCHEMA} here: start the service in the repository's folder")
    asyncio.run(_serve(options, json.loads(SCHEMA.read_text())))


async def _serve(options: GatewayOptions, cog_schema: dict[str, Any]) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    public, private = _bind(options.host, options.resolved_port), _bind("127.0.0.1", 0)
    secret = secrets.token_urlsafe(32)
    with HeldFolder("personalive-cog-") as scratch:
        cog = CogServer(Path.cwd(), scratch.path)
        deliveries = Deliveries(allow_private=private_addresses_allowed())
        events_url = f"http://127.0.0.1:{private.getsockname()[1]}/{secret}/"
        predictions = Predictions(cog, deliveries, events_url, options.upload_url)
        servers = [
            _server(create_app(cog, predictions, cog_schema)),
            _server(create_events_app(predictions, secret)),
        ]
        tasks = [
            asyncio.create_task(each.serve(sockets=[bound]))
            for each, bound in zip(servers, (public, private), strict=True)
        ]
        logger.info("listening on http://%s:%d", options.host, public.getsockname()[1])
        try:
            await cog.start()
            broken = await _until(stop, cog)
            if broken is not None:
                predictions.abandon("failed", f"Prediction failed: {broken}")
        finally:
            await predictions.close(CANCEL_SECONDS)
            await deliveries.close(DELIVERY_SECONDS)
            for each in servers:
                each.should_exit = True
            await asyncio.wait([*tasks, asyncio.create_task(cog.stop())])
    if broken is not None:
        raise ServiceError(f"{broken}; start the service again")


async def _until(stop: asyncio.Event, cog: CogServer) -> str | None:
    """Wait for a signal or for the end of Cog, and return the reason."""
    stopped, watched = asyncio.create_task(stop.wait()), asyncio.create_task(cog.watch())
    await asyncio.wait([stopped, watched], return_when="FIRST_COMPLETED")
    stopped.cancel()
    if watched.done():
        return watched.result()
    watched.cancel()
    return None


def _server(app: Starlette) -> _Server:
    return _Server(
        uvicorn.Config(
            app,
            http=GatewayConnection,
            h11_max_incomplete_event_size=MAX_HEAD,
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=15,
            timeout_graceful_shutdown=1,
        )
    )


def _bind(host: str, port: int) -> socket.socket:
    # With its protocol named: otherwise asyncio does not turn Nagle's algorithm off, and waits 40 ms.
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise ServiceError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    return bound
