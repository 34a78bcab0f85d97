"""The whole service as an application of Ray Serve, for clusters that are told what to run, like KubeRay's RayService.

In Ray Serve's configuration it is `import_path: personalive.jobs.application:build`, with `route_prefix: null`: its
front listens by itself, on the cluster's head, as Ray Serve's own proxy holds a body of any size in memory. The options
of `serve-jobs` and of the model are its `args`.
"""

import asyncio
import os
from collections.abc import Mapping
from typing import Any

from personalive.cluster import check_device
from personalive.errors import InputError
from personalive.gateway.listening import ServiceError
from personalive.jobs.cluster import QUIET, Processes, Scale
from personalive.jobs.options import JobsOptions
from personalive.jobs.replica import Replica
from personalive.jobs.serve import Service, preparation
from personalive.jobs.spool import Spool
from personalive.jobs.work import Prepare
from personalive.loading import ModelChoice
from personalive.media.held_folder import HeldFolder
from personalive.net.server import bound
from personalive.settings import SigningSettings

HEAD = {"node:__internal_head__": 0.001}
"""A resource that only the cluster's head has."""
DRAIN_SECONDS = 3600.0
"""Time that jobs have to end when the application is replaced or removed."""


class Front:
    """The interface and its queue, in a process of the cluster.

    Args:
        options: what the operator chose.
        scale: of the processes.
        replicas: Ray Serve's handle of them.
    """

    def __init__(self, options: JobsOptions, scale: Scale, replicas: Any) -> None:
        self._options, self._scale, self._replicas = options, scale, replicas
        self._folder = HeldFolder("personalive-jobs-")
        self._service: Service | None = None
        self._running: asyncio.Task[None] | None = None

    async def check_health(self) -> None:
        """Begin to listen, the first time; later see that it goes on, or has been drained. Ray Serve calls this.

        Raises:
            AddressError: the address is taken, or not this machine's.
            ServiceError: no job can be made.
        """
        if self._running is None:
            listening = bound(self._options.host, self._options.resolved_port, ("host", "port"))
            processes = Processes(self._scale.most)
            self._service = Service(self._options, processes, Spool(self._folder.path))
            self._running = asyncio.create_task(self._service.run(listening, lambda: processes.use(self._replicas)))
        if self._running.done() and (error := self._running.exception()) is not None:
            raise ServiceError(str(error)) from error

    async def __del__(self) -> None:
        """Take no more jobs, and wait for those that were taken. Ray Serve calls and awaits this."""
        if self._service is not None and self._running is not None:
            self._service.stop()
            await asyncio.wait([self._running])
        self._folder.close()


def build(args: Mapping[str, Any]) -> Any:
    """The application.

    Args:
        args: options by their names; `replicas` must be among them.

    Raises:
        InputError: one that does not exist, or a value that is not allowed.
    """
    names = {each.name for each in JobsOptions.declared()}
    options = JobsOptions(**{name: value for name, value in args.items() if name in names})
    choice = ModelChoice(**{name: value for name, value in args.items() if name not in names})
    if options.replicas is None:
        raise InputError("replicas must be a number here: how many GPUs a cluster will have, it does not know yet")
    check_device(choice)
    scale = Scale(*options.range_of(options.replicas), on_gpus=choice.device != "cpu")
    signing = SigningSettings.from_environment(os.environ)
    return application(options, scale, preparation(choice, signing, scale, resolve=False))


def application(options: JobsOptions, scale: Scale, prepare: Prepare) -> Any:
    """The same, with processes that are prepared in a way of their own."""
    from ray import serve

    replicas = serve.deployment(Replica).options(**scale.options()).bind(prepare)
    front = serve.deployment(Front).options(
        num_replicas=1,
        logging_config=QUIET,
        graceful_shutdown_timeout_s=DRAIN_SECONDS,
        ray_actor_options={"num_cpus": 0, "resources": HEAD},
    )
    return front.bind(options, scale, replicas)
