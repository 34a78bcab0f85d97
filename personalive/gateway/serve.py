"""Runs the service: the public interface, the endpoint that Cog reports to, and Cog's server between them."""

import asyncio
import json
import logging
import secrets
import signal
from pathlib import Path
from typing import Any

from personalive.gateway.app import create_app
from personalive.gateway.cog_server import CogServer
from personalive.gateway.deliveries import Deliveries
from personalive.gateway.events import create_events_app
from personalive.gateway.listening import ServiceError, server_of
from personalive.gateway.openapi import describe, inputs_of
from personalive.gateway.options import GatewayOptions
from personalive.gateway.predictions import Predictions
from personalive.media.held_folder import HeldFolder
from personalive.net.addresses import authority, private_addresses_allowed
from personalive.net.server import FLAGS, bound

logger = logging.getLogger(__name__)

SCHEMA = Path(".cog", "openapi_schema.json")
"""Where Cog looks for it, in the folder in which it is started. Without it, Cog checks no inputs."""
CANCEL_SECONDS = 3.5
"""Time for a prediction to stop when the service is stopped, then for its webhook, then for Cog's server."""
DELIVERY_SECONDS = 2.0


def serve(options: GatewayOptions) -> None:
    """Run until SIGTERM or SIGINT.

    Raises:
        AddressError: the address is taken, or not this machine's.
        ServiceError: this is not the repository's folder, or Cog's server no longer works.
    """
    if not SCHEMA.exists() or not Path("predict.py").exists():
        raise ServiceError(f"there is no predict.py or no {SCHEMA} here: start the service in the repository's folder")
    asyncio.run(_serve(options, json.loads(SCHEMA.read_text())))


async def _serve(options: GatewayOptions, cog_schema: dict[str, Any]) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    public, private = bound(options.host, options.resolved_port, FLAGS), bound("127.0.0.1", 0)
    secret = secrets.token_urlsafe(32)
    with HeldFolder("personalive-cog-") as scratch:
        cog = CogServer(Path.cwd(), scratch.path)
        deliveries = Deliveries(allow_private=private_addresses_allowed())
        events_url = f"http://127.0.0.1:{private.getsockname()[1]}/{secret}/"
        predictions = Predictions(cog, deliveries, events_url, options.upload_url)
        servers = [
            server_of(create_app(predictions, describe(cog_schema), inputs_of(cog_schema))),
            server_of(create_events_app(predictions, secret)),
        ]
        tasks = [
            asyncio.create_task(each.serve(sockets=[listening]))
            for each, listening in zip(servers, (public, private), strict=True)
        ]
        logger.info("listening on http://%s", authority(options.host, public.getsockname()[1]))
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
