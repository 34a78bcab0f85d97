"""Runs the front and its workers."""

import logging
import socket
from collections.abc import Sequence

import uvicorn

from personalive import weights
from personalive.cluster import Cluster
from personalive.live.front.app import create_front
from personalive.live.front.on_ray import RayWorkplace
from personalive.live.front.pool import Pool
from personalive.live.front.process import LocalWorkplace, Workplace
from personalive.live.front.worker import MakeFactory
from personalive.live.http.server import UVICORN, listen, model_factory, run, usable
from personalive.live.http.server import serve as serve_alone
from personalive.live.options import ServeOptions
from personalive.loading import ModelChoice
from personalive.media.held_folder import HeldFolder
from personalive.net.server import Server
from personalive.processes import Seat, seats

logger = logging.getLogger(__name__)


def serve(options: ServeOptions) -> None:
    """Run until it is told to stop, with as many workers as the operator chose, here or on a Ray cluster.

    Raises:
        MissingExtraError: Ray is to be used and is not installed.
        PersonaLiveError: there is no such device or cluster, the weights are missing, or the address is taken.
    """
    choice = options.model
    if options.ray is not None:
        with listen(options) as listening:
            cluster = Cluster.join(options.ray, choice, options.workers)
            device = "cuda" if cluster.on_gpus else "cpu"
            chosen = choice.elsewhere(_source(choice, device)).replace(device=device)
            options = usable(options).replace(model=chosen)
            _run(options, RayWorkplace(options, cluster, model_factory), listening)
        return
    places = seats(choice, options.workers)
    if len(places) == 1:
        serve_alone(options)
        return
    with listen(options) as listening:
        source = _source(choice, "cuda" if places[0].gpu is not None else "cpu")
        weights.resolve(source, dtype=choice.resolved_dtype())  # downloaded and checked once, not in each process
        _run_here(usable(options).replace(model=choice.replace(model=source)), places, model_factory, listening)


def _source(choice: ModelChoice, device: str) -> str:
    source, remark = choice.source_on(device)
    if remark:
        logger.warning("%s", remark)
    return source


def serve_with(options: ServeOptions, places: Sequence[Seat], make_factory: MakeFactory) -> None:
    """Run a front over a worker for each seat of this machine.

    Args:
        options: what the operator chose.
        places: what each worker may use.
        make_factory: see `worker.MakeFactory`; must be importable by name.

    Raises:
        AddressError: the address is taken, or not this machine's.
    """
    with listen(options) as listening:
        _run_here(options, places, make_factory, listening)


def _run_here(
    options: ServeOptions, places: Sequence[Seat], make_factory: MakeFactory, listening: socket.socket
) -> None:
    with HeldFolder("personalive-live-") as folder:
        _run(options, LocalWorkplace(options, places, make_factory, folder.path), listening)


def _run(options: ServeOptions, workplace: Workplace, listening: socket.socket) -> None:
    run(front_server(options, workplace), options, listening, f", over {workplace.size} workers")


def front_server(options: ServeOptions, workplace: Workplace) -> Server:
    """A server that ends when all of its workers are drained.

    Args:
        options: what the operator chose.
        workplace: starts the workers' processes.
    """
    pool = Pool(workplace, load_at_start=options.load_at_start)
    server = Server(uvicorn.Config(create_front(options, pool), timeout_graceful_shutdown=5, **UVICORN))

    def end() -> None:
        server.should_exit = True

    pool.on_drained = end
    return server
