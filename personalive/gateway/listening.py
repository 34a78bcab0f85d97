"""How the service listens: HTTP for large files and slow lines, without a place for clients that say nothing."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import ClassVar

import uvicorn
from starlette.applications import Starlette

from personalive.errors import PersonaLiveError
from personalive.gateway.bodies import SECONDS as BODY_SECONDS
from personalive.net.connection import HttpConnection, Stage
from personalive.net.server import Server

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
        """Leave signals to the caller."""
        yield


def server_of(app: Starlette, goodbye: int = 1) -> Server:
    """The server of an application; the caller handles signals.

    Args:
        app: the application.
        goodbye: seconds that requests have to end when it is told to stop.
    """
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
            timeout_graceful_shutdown=goodbye,
        )
    )
