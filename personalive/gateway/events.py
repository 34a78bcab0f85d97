"""What Cog's server reports to: an application that only it calls, on loopback."""

import contextlib

from pydantic_core import from_json
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from personalive.gateway.app import lifespan
from personalive.gateway.predictions import Predictions


def create_events_app(predictions: Predictions, secret: str) -> Starlette:
    """The application, which is told the events of predictions.

    Args:
        predictions: takes them.
        secret: the first part of the path, which other processes on the machine do not know.
    """

    async def take(request: Request) -> Response:
        with contextlib.suppress(ValueError):
            predictions.on_event(request.path_params["key"], from_json(await request.body()))
        return Response()

    return Starlette(routes=[Route(f"/{secret}/{{key}}", take, methods=["POST"])], lifespan=lifespan)
