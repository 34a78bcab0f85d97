"""Runs the service: the interface, the queue behind it, and the processes that the queue feeds."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Awaitable, Callable

from personalive import weights
from personalive.gateway.app import create_app
from personalive.gateway.deliveries import MAX_DELIVERIES, Deliveries
from personalive.gateway.listening import server_of
from personalive.gateway.openapi import describe, inputs_of, own_schema
from personalive.jobs.cluster import Processes, Scale, join, leave
from personalive.jobs.options import JobsOptions
from personalive.jobs.queue import JobQueue
from personalive.jobs.routes import routes
from personalive.jobs.spool import Spool
from personalive.jobs.work import ModelPreparation, Prepare
from personalive.loading import ModelChoice
from personalive.media.held_folder import HeldFolder
from personalive.net.addresses import authority, private_addresses_allowed
from personalive.net.server import FLAGS, bound
from personalive.settings import SigningSettings

logger = logging.getLogger(__name__)

DELIVERY_SECONDS = 300.0
"""Time for webhooks and uploads that are on their way when all jobs have ended."""
ANSWER_SECONDS = 60
"""The same for answers."""
ASKING_SECONDS = 10.0
"""The same for clients that have no webhook and ask now and then."""
HASTY_SECONDS = 5.0
"""The same, and for jobs to stop, when the operator does not want to wait."""


class Service:
    """The interface and its queue.

    Args:
        options: what the operator chose.
        processes: make the jobs.
        spool: keeps inputs of jobs that wait.
    """

    def __init__(self, options: JobsOptions, processes: Processes, spool: Spool) -> None:
        limit = MAX_DELIVERIES + options.queue + processes.limit
        self._deliveries = Deliveries(allow_private=private_addresses_allowed(), limit=limit)
        schema = own_schema()
        inputs = inputs_of(schema)
        self._queue = JobQueue(processes, self._deliveries, spool, inputs, options.queue, options.upload_url)
        self._processes = processes
        self._hurry = asyncio.Event()
        self._drain = asyncio.Event()
        more = routes(self._queue, processes, self._drain.set)
        self._server = server_of(create_app(self._queue, describe(schema, queue=True), inputs, more), ANSWER_SECONDS)

    def stop(self) -> None:
        """Take no more jobs and end when all have ended; the second time, cancel those that have not."""
        if self._queue.is_draining:
            self._hurry.set()
        else:
            logger.info("no more jobs are taken; the service ends when all have ended")
        self._queue.drain()
        self._drain.set()

    async def run(self, listening: socket.socket, start: Callable[[], Awaitable[None]]) -> None:
        """Answer requests until all jobs have ended after a `stop`.

        Args:
            listening: where.
            start: starts the processes; meanwhile the health check says so.

        Raises:
            ServiceError: they cannot be started.
        """
        serving = asyncio.create_task(self._server.serve(sockets=[listening]))
        starting = asyncio.ensure_future(start())
        watching = asyncio.create_task(self._processes.watch())
        stopped = asyncio.create_task(self._drain.wait())
        try:
            await asyncio.wait([starting, stopped], return_when="FIRST_COMPLETED")
            if starting.done():
                starting.result()
                logger.info("ready for jobs")
            await stopped
            await self._end()
        finally:
            for each in (watching, stopped, starting):
                each.cancel()
            self._server.should_exit = True
            await asyncio.wait([serving])

    async def _end(self) -> None:
        empty = asyncio.create_task(self._queue.wait_until_empty())
        hurry = asyncio.create_task(self._hurry.wait())
        await asyncio.wait([empty, hurry], return_when="FIRST_COMPLETED")
        if not hurry.done():
            await asyncio.wait([hurry], timeout=ASKING_SECONDS if self._queue.figures.taken else 0)
        await self._queue.close()
        await asyncio.wait([empty], timeout=HASTY_SECONDS)
        await self._deliveries.close(HASTY_SECONDS if hurry.done() else DELIVERY_SECONDS)
        self._server.force_exit = hurry.done()
        hurry.cancel()
        empty.cancel()


def serve(options: JobsOptions, choice: ModelChoice, prepare: Prepare | None = None) -> None:
    """Run until SIGTERM or SIGINT, and then until all jobs that were taken have ended; a second signal ends it at once.

    Args:
        options: what the operator chose.
        choice: of the model.
        prepare: how processes load it; None: as `ModelPreparation` does.

    Raises:
        MissingExtraError: Ray is not installed.
        PersonaLiveError: the address is taken, the cluster cannot be joined, or the model cannot be loaded.
    """
    with contextlib.closing(bound(options.host, options.resolved_port, FLAGS)) as listening:
        signing = SigningSettings.from_environment(os.environ)
        scale = join(options, choice)
        if prepare is None:
            prepare = preparation(choice, signing, scale, resolve=options.ray is None)
        logger.info("listening on http://%s", authority(options.host, listening.getsockname()[1]))
        asyncio.run(_serve(options, scale, prepare, listening))


def preparation(choice: ModelChoice, signing: SigningSettings, scale: Scale, *, resolve: bool) -> ModelPreparation:
    """How processes load the model.

    Args:
        resolve: whether to download and check the weights here first, once for all.

    Raises:
        WeightsError: they are missing or damaged.
    """
    source, remark = choice.source_on("cuda" if scale.on_gpus else "cpu")
    if remark:
        logger.warning("%s", remark)
    if resolve:
        weights.resolve(source, dtype=choice.resolved_dtype())
    device = "cuda" if scale.on_gpus else "cpu"
    return ModelPreparation(choice.elsewhere(source).replace(device=device), signing, scale.threads)


async def _serve(options: JobsOptions, scale: Scale, prepare: Prepare, listening: socket.socket) -> None:
    with HeldFolder("personalive-jobs-") as folder:
        processes = Processes(scale.most)
        service = Service(options, processes, Spool(folder.path))
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, service.stop)
        try:
            await service.run(listening, lambda: processes.start(prepare, scale))
        finally:
            await leave(local=options.ray is None)
