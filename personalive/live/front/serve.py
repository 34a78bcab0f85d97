"""Runs the front and its workers."""

import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path

import uvicorn

from personalive import weights
from personalive.live.front.app import create_front
from personalive.live.front.ledger import Ledger
from personalive.live.front.pool import Pool
from personalive.live.front.worker import MakeFactory
from personalive.live.http.server import UVICORN, allow_many_files, model_factory, usable
from personalive.live.http.server import serve as serve_alone
from personalive.live.options import ServeOptions
from personalive.media.held_folder import HeldFolder
from personalive.net.server import Server
from personalive.processes import Seat, seats

logger = logging.getLogger(__name__)


def serve(options: ServeOptions) -> None:
    """Run until it is told to stop, with as many workers as the operator chose.

    Raises:
        PersonaLiveError: there is no such device, or the weights are missing.
    """
    places = seats(options.model, options.workers)
    if len(places) == 1:
        serve_alone(options)
        return
    choice = options.model
    source, remark = choice.source_on("cuda" if places[0].gpu is not None else "cpu")
    if remark:
        logger.warning("%s", remark)
    weights.resolve(source, dtype=choice.resolved_dtype())  # downloaded and checked once, not in each process
    serve_with(usable(options).replace(model=choice.replace(model=source)), places, model_factory)


def serve_with(options: ServeOptions, places: Sequence[Seat], make_factory: MakeFactory) -> None:
    """Run a front over a worker for each seat.

    Args:
        options: what the operator chose.
        places: what each worker may use.
        make_factory: see `worker.MakeFactory`; must be importable by name.
    """
    with HeldFolder("personalive-live-") as folder:
        server = front_server(options, places, make_factory, folder.path)
        allow_many_files()
        logger.info("the page is at %s, over %d workers", options.page_url, len(places))
        with contextlib.suppress(KeyboardInterrupt):
            server.run()


def front_server(options: ServeOptions, places: Sequence[Seat], make_factory: MakeFactory, folder: Path) -> Server:
    """A server that ends when all of its workers are drained.

    Args:
        options: what the operator chose.
        places: what each worker may use.
        make_factory: as for `serve_with`.
        folder: for sockets, of this user only.
    """
    pool = Pool(options, places, make_factory, folder, Ledger(len(places)))
    config = uvicorn.Config(
        create_front(options, pool),
        host=options.host,
        port=options.port,
        timeout_graceful_shutdown=5,
        **UVICORN,
    )
    server = Server(config)

    def end() -> None:
        server.should_exit = True

    pool.on_drained = end
    return server
