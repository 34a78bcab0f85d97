"""A worker: a live server in a process of its own, which only its front can call."""

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import uvicorn

from personalive.errors import PersonaLiveError
from personalive.live.front.identity import Identity
from personalive.live.front.placement import call_seconds, carries
from personalive.live.front.reports import Load, Order, Report, SessionReport, Tell
from personalive.live.http.server import UVICORN, allow_many_files, create_app, faces_of
from personalive.live.hub.hub import Hub
from personalive.live.hub.loader import EngineFactory
from personalive.live.options import ServeOptions
from personalive.net.server import Server
from personalive.processes import Seat, obey
from personalive.terminal import log_for_people

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.1
"""Between two looks for changes to report."""
REPORT_SECONDS = 1.0
"""The longest time without a report."""

MakeFactory = Callable[[ServeOptions], EngineFactory]
"""Is called in the worker, with its options."""


@dataclass(frozen=True)
class Secured:
    """How a worker makes sure that its front calls it."""

    own: Identity
    front: str
    """Its certificate."""


@dataclass(frozen=True)
class Duty:
    """What a worker is started with."""

    seat: Seat
    options: ServeOptions
    """See `for_worker`."""
    make_factory: MakeFactory
    listening: socket.socket
    """Where the front calls it."""
    call_seconds: float | None
    """What a session's chunk takes on workers like this, as long as it has not measured that itself."""
    secured: Secured | None = None
    """None: nobody else can reach the socket."""


def for_worker(options: ServeOptions) -> ServeOptions:
    """A front's options, without what it does itself and files that it alone has."""
    return options.replace(tls_cert=None, tls_key=None, presets=None, load_at_start=False)


def work(connection: "Connection[Report, Order]", duty: Duty) -> None:
    """What the process does, until it gets SIGTERM or its front is gone."""
    os.setsid()  # Ctrl-C is for the front only, which then ends this process
    log_for_people()
    duty.seat.take()
    options = duty.options.replace(model=duty.seat.choice(duty.options.model))
    secured = duty.secured
    tls = None if secured is None else secured.own.serving(secured.front)
    app = create_app(options, duty.make_factory(options), faces_of(options), tls)
    allow_many_files()
    # Every request comes from the front, which has replaced what its client may have sent as these headers.
    proxied = {"proxy_headers": True, "forwarded_allow_ips": "*"}
    config = uvicorn.Config(app, timeout_graceful_shutdown=5, **UVICORN | proxied)
    asyncio.run(_serve(Server(config), app.state.hub, connection, duty))


async def _serve(server: Server, hub: Hub, connection: "Connection[Report, Order]", duty: Duty) -> None:
    async with asyncio.TaskGroup() as tasks:
        reporting = tasks.create_task(_report(server, hub, connection, duty.call_seconds))
        await server.serve(sockets=[duty.listening])
        reporting.cancel()


async def _report(
    server: Server, hub: Hub, connection: "Connection[Report, Order]", expected_seconds: float | None
) -> None:
    """Tell the front what has changed, and do what it says."""
    while not server.started:
        await asyncio.sleep(LOOK_SECONDS / 10)
    loop = asyncio.get_running_loop()
    obey(connection, lambda order: loop.call_soon_threadsafe(_obey, hub, order))
    last, sent, most = None, 0.0, hub.options.max_sessions
    while True:
        report = _look(hub, most, expected_seconds)
        if report != last or time.monotonic() - sent > REPORT_SECONDS:
            with contextlib.suppress(OSError):  # the front is gone; so will this process be
                connection.send(report)
            last, sent = report, time.monotonic()
        await asyncio.sleep(LOOK_SECONDS)


def _look(hub: Hub, most: int, expected_seconds: float | None) -> Report:
    """The hub's state; on the way, its limit becomes what it carries."""
    measured = call_seconds([*hub.scheduler.calls.copy()]) if hub.scheduler is not None else None
    seconds = measured or expected_seconds
    limit = carries(seconds, hub.options.latency, most)
    if limit != hub.options.max_sessions:
        hub.options = hub.options.replace(max_sessions=limit)
    sessions = tuple(SessionReport.of(entry) for entry in hub.entries.values())
    return Report(hub.loader.state, sessions, limit, None if seconds is None else round(seconds, 3))


def _obey(hub: Hub, order: Any) -> None:
    if isinstance(order, Tell):
        entry = hub.entries.get(order.identifier)
        if entry is not None:
            entry.session.on_message(order.message)
    elif isinstance(order, Load):
        try:
            hub.load(order.parameters)
        except PersonaLiveError as error:  # a client was faster
            logger.warning("%s", error)
