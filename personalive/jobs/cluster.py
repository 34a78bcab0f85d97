"""The processes of a service, on this machine or on a Ray cluster: Ray Serve starts, watches, adds and ends them."""

import asyncio
import concurrent.futures
import contextlib
import logging
import os
import threading
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from personalive.cluster import Cluster, actor_options, stay_alone
from personalive.errors import InputError, first_line
from personalive.extras import require
from personalive.gateway.listening import ServiceError
from personalive.jobs.options import JobsOptions
from personalive.jobs.queue import LostError
from personalive.jobs.replica import Replica
from personalive.jobs.work import Began, Event, Prepare
from personalive.loading import ModelChoice
from personalive.processes import seats

logger = logging.getLogger(__name__)

T = TypeVar("T")

APPLICATION, DEPLOYMENT = "personalive", "Replica"
"""What Ray calls them."""
QUIET = {"log_level": "WARNING", "enable_access_log": False}
START_ATTEMPTS = 3
"""Ray gives itself 30 seconds, which is not enough on a machine that has much else to do."""
POLL_SECONDS = 2.0
ANSWER_SECONDS = 10.0
"""Time within which Ray says how many processes there are, unless it is busy."""
MISSED_ANSWERS = 3
"""After so many in a row it is taken to be dead."""
LEAVE_SECONDS = 70.0
"""Ray Serve itself gives up after 60, if it lives."""
LONGEST_START_SECONDS = 3600.0
"""A model may have to be downloaded first."""
IDLE_SECONDS = 300.0


@dataclass(frozen=True)
class Scale:
    """How many processes there are to be, and what each has."""

    fewest: int
    most: int
    on_gpus: bool
    threads: int | None = None
    """Of the CPU, for each; None: as PyTorch chooses."""
    idle_seconds: float = IDLE_SECONDS
    """Time without work after which a process beyond the fewest ends."""

    def options(self) -> dict[str, Any]:
        """What Ray Serve's deployment takes."""
        result = {
            "name": DEPLOYMENT,
            "ray_actor_options": actor_options(on_gpus=self.on_gpus),
            "max_ongoing_requests": 1,
            "logging_config": QUIET,
            "graceful_shutdown_timeout_s": LONGEST_START_SECONDS,  # what it has begun, it finishes
        }
        if self.fewest == self.most:
            return {**result, "num_replicas": self.most}
        scaling = {
            "min_replicas": self.fewest,
            "max_replicas": self.most,
            "initial_replicas": max(1, self.fewest),
            "target_ongoing_requests": 1,
            "upscale_delay_s": 5.0,
            "downscale_delay_s": self.idle_seconds,
        }
        return {**result, "autoscaling_config": scaling}


def join(options: JobsOptions, choice: ModelChoice) -> Scale:
    """Start Ray on this machine, reachable from it alone, or join a cluster.

    Raises:
        MissingExtraError: Ray is not installed.
        InputError: there is no such cluster, or no such device.
        ServiceError: Ray does not start here.
    """
    require("scale")
    if options.ray is not None:
        cluster = Cluster.join(options.ray, choice, options.replicas)
        return Scale(*options.range_of(cluster.workers), cluster.on_gpus)
    places = seats(choice, options.replicas)
    on_gpus = places[0].gpu is not None
    gpus = list(dict.fromkeys(place.gpu for place in places if place.gpu is not None))
    if on_gpus and len(gpus) < len(places):
        raise InputError(f"replicas is {len(places)}: each needs a GPU of its own, and there are {len(gpus)}")
    fewest, most = options.range_of(len(places))
    stay_alone()
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    _start(cpus=max(os.cpu_count() or 1, most), gpus=len(gpus))
    return Scale(fewest, most, on_gpus, places[0].threads)


def _start(*, cpus: int, gpus: int) -> None:
    """Start Ray for this process.

    Raises:
        ServiceError: it does not start.
    """
    import ray

    for attempt in range(1, START_ATTEMPTS + 1):
        try:
            ray.init(
                "local",
                num_cpus=cpus,
                num_gpus=gpus,
                include_dashboard=False,
                log_to_driver=True,
                logging_level=logging.WARNING,
            )
            return
        except Exception as error:  # Ray raises no narrower one
            logger.warning("Ray does not start, attempt %d of %d: %s", attempt, START_ATTEMPTS, first_line(error))
            ray.shutdown()
            reason = error
    raise ServiceError(f"Ray cannot be started: {first_line(reason)}") from reason


class Processes:
    """The processes; what `queue.Makers` describes."""

    def __init__(self, limit: int) -> None:
        """None is started yet; `limit` is the most that there can be."""
        self.status = "STARTING"
        self.running = 0
        self.limit = limit
        self._handle: Any = None
        self._missed = 0

    async def start(self, prepare: Prepare, scale: Scale) -> None:
        """Start them, and wait until the first can make jobs.

        Raises:
            ServiceError: none can.
        """
        from ray import serve
        from ray.exceptions import RayError
        from ray.serve.exceptions import RayServeException

        application = serve.deployment(Replica).options(**scale.options()).bind(prepare)

        def run() -> Any:
            serve.start(proxy_location="Disabled", logging_config=QUIET)
            return serve.run(application, name=APPLICATION, route_prefix=None)

        try:
            handle = await asyncio.to_thread(run)
        except (RuntimeError, RayError, RayServeException) as error:
            raise ServiceError(f"no process can be started: {first_line(error)}; see Ray's log") from error
        await self.use(handle)

    async def use(self, handle: Any) -> None:
        """Take those behind a handle of Ray Serve, once the first can make jobs.

        Raises:
            ServiceError: it cannot.
        """
        from ray.exceptions import RayError
        from ray.serve.exceptions import RayServeException

        self._handle = handle
        try:
            error = await handle.setup_error.remote()
        except (RayError, RayServeException) as lost:
            raise ServiceError(f"the first process is lost: {first_line(lost)}; see Ray's log") from lost
        if error:
            raise ServiceError(error)
        self.status = "READY"

    async def watch(self) -> None:
        """Follow how many there are, for ever. They are DEFUNCT while Ray does not say."""
        asking: asyncio.Future[int] | None = None
        try:
            while True:
                # One question at a time: it is never answered if Ray has died, and keeps its thread.
                asking = asking or in_thread(count_running)
                try:
                    self._hear(await asyncio.wait_for(asyncio.shield(asking), ANSWER_SECONDS))
                except Exception as error:
                    self._miss(error)
                if asking.done():
                    asking = None
                await asyncio.sleep(POLL_SECONDS)
        finally:
            if asking is not None:
                asking.cancel()

    def _hear(self, running: int) -> None:
        self.running, self._missed = running, 0
        if self.status == "DEFUNCT":
            logger.warning("Ray answers again, and jobs are taken")
            self.status = "READY"

    def _miss(self, error: Exception) -> None:
        if self.status == "STARTING":
            return  # Ray Serve may not have been started yet
        self._missed += 1
        if self._missed == 1:
            logger.warning("Ray does not say how many processes there are: %s", first_line(error))
        elif self._missed == MISSED_ANSWERS:
            logger.error("Ray has not answered %d times in a row: no jobs are taken until it does", MISSED_ANSWERS)
            self.status, self.running = "DEFUNCT", 0

    async def run(self, inputs: Mapping[str, Any]) -> AsyncGenerator[Event, None]:
        """Let one make a job as soon as one is free; closing the generator stops it.

        A process is chosen first, and kept free for the job, and only then sent the job: so one that is lost from then
        on is lost with the job, even if it dies before it can say anything. Ray would send a job by itself to another
        process, and again to another, if it did both in one.

        Raises:
            LostError: it is gone.
        """
        from ray.exceptions import RayError
        from ray.serve.exceptions import RayServeException, ReplicaUnavailableError

        handle = self._handle.options(method_name="run", stream=True)
        while True:
            try:
                async with handle.choose_replica() as process:
                    yield Began()
                    response = handle.dispatch(process, inputs)
                    try:
                        async for event in response:
                            yield event
                        return
                    finally:
                        response.cancel()
            except ReplicaUnavailableError:  # it was ended in between, and has not been sent the job
                continue
            except (RayError, RayServeException) as error:
                logger.warning("a process is lost: %s", first_line(error))
                raise LostError(first_line(error)) from error


def in_thread(call: Callable[[], T]) -> asyncio.Future[T]:
    """What a call of Ray's returns that may never return: unlike one of `to_thread`, it cannot keep a process alive."""
    future = concurrent.futures.Future[T]()
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            future.set_result(call())
        except Exception as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return asyncio.wrap_future(future)


def count_running() -> int:
    """How many processes Ray Serve says can make jobs.

    Raises:
        ServiceError: it does not know of them.
        RayError: it cannot be asked.
    """
    from ray import serve

    states = [
        deployment.replica_states
        for application in serve.status().applications.values()
        for name, deployment in application.deployments.items()
        if name == DEPLOYMENT
    ]
    if not states:  # what Ray Serve says when it is gone, too
        raise ServiceError("Ray Serve does not know of them")
    return sum(int(each.get("RUNNING", 0)) for each in states)


async def leave(*, local: bool) -> None:
    """End the processes, and Ray if it was started for them."""
    import ray
    from ray import serve

    try:  # Ray may have died, and then may never answer
        await asyncio.wait_for(in_thread(lambda: serve.delete(APPLICATION)), LEAVE_SECONDS)
    except Exception as error:
        logger.warning("Ray Serve does not say that the processes have ended: %s", first_line(error))
    if local:
        with contextlib.suppress(Exception):
            await asyncio.to_thread(serve.shutdown)
    ray.shutdown()
