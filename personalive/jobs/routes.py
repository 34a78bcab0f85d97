"""What the service answers beyond Cog's interface: the state of a job, figures, and the operator's calls."""

from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from personalive.gateway.app import checked_id, json_answer
from personalive.jobs.figures import QueueCollector
from personalive.jobs.queue import JobQueue, Makers
from personalive.net.from_here import NOT_FROM_HERE, comes_from_here

TEXT = "text/plain; version=0.0.4; charset=utf-8"
"""Prometheus' format."""


def routes(queue: JobQueue, makers: Makers, on_drain: Callable[[], None]) -> list[Route]:
    """The routes.

    Args:
        queue: takes the jobs.
        makers: the processes.
        on_drain: is called when the operator wants the service to end once it is empty.
    """
    metrics = CollectorRegistry()
    metrics.register(QueueCollector(queue, makers))
    ProcessCollector(registry=metrics)

    async def state(request: Request) -> Response:
        identifier = checked_id(request)
        found = queue.state(identifier)
        if found is None:
            raise HTTPException(404, f"no prediction {identifier} is waiting or running, or has ended lately")
        return json_answer(found, 200)

    async def figures(request: Request) -> Response:
        return Response(generate_latest(metrics), media_type=TEXT)

    async def drain(request: Request) -> Response:
        if not comes_from_here(request.headers.raw, request.client.host if request.client else ""):
            raise HTTPException(403, NOT_FROM_HERE)
        if request.method == "POST":
            queue.drain()
            on_drain()
        return JSONResponse(_described(queue))

    return [
        Route("/predictions/{prediction_id:path}", state, methods=["GET"]),
        Route("/metrics", figures),
        Route("/admin/drain", drain, methods=["GET", "POST"]),
    ]


def _described(queue: JobQueue) -> dict[str, Any]:
    health = queue.health
    return {name: health[name] for name in ("draining", "queued", "running", "replicas")}
