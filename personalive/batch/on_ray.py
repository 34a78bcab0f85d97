"""Makes jobs on a Ray cluster, through Ray Data, which starts processes where there is room and replaces lost ones.

A job writes its own result and what is kept about it, so Ray is trusted with nothing but a row for each job.
"""

import logging
import os
import pickle
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, Self

from personalive.batch.job import Job
from personalive.batch.making import DeviceLostError
from personalive.batch.pool import Update
from personalive.batch.preparation import Preparation
from personalive.errors import InputError, PersonaLiveError, first_line
from personalive.extras import require
from personalive.loading import ModelChoice
from personalive.processes import Seat


class RayWorker:
    """One process of the cluster, with the model."""

    def __init__(self, prepare: Preparation) -> None:
        self._error = ""
        try:
            self._make = prepare(Seat())
        except PersonaLiveError as error:  # Ray would start the process again and again
            self._error = str(error)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Make a job.

        Args:
            row: `job`, pickled.

        Returns:
            `result`, pickled; or `error`, if no job can be made.
        """
        if self._error:
            return {"result": b"", "error": self._error}
        try:
            result = self._make(pickle.loads(row["job"]), lambda done, total: None)
        except DeviceLostError:
            os._exit(1)  # Ray replaces the process, and the job counts its attempts itself
        return {"result": pickle.dumps(result), "error": ""}


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster that this process belongs to."""

    workers: int
    """The most processes that work side by side."""
    gpus: bool
    """Whether each has one."""

    @classmethod
    def join(cls, address: str, choice: ModelChoice, workers: int | None) -> Self:
        """Connect to a cluster.

        Args:
            address: as Ray takes it: `auto`, `HOST:PORT`, `ray://HOST:PORT`, or `local` for one of this machine alone.
            choice: of the model and its device.
            workers: the most processes; None: one for each GPU, or one.

        Raises:
            MissingExtraError: Ray is not installed.
            InputError: there is no such cluster, or it has no GPU although one was chosen.
        """
        require("scale")
        import ray

        if not ray.is_initialized():
            try:
                ray.init(address, log_to_driver=False, logging_level=logging.WARNING)
            except (ConnectionError, ValueError, RuntimeError, OSError) as error:
                raise InputError(
                    f"ray is {address!r}: that cluster cannot be joined ({first_line(error)}); start one with "
                    "`ray start --head`, or give local to use this machine alone"
                ) from error
        gpus = int(ray.cluster_resources().get("GPU", 0))
        if choice.device is not None and choice.device not in ("cpu", "cuda"):
            raise InputError(
                f"the device is {choice.device!r}: on a cluster it must be cpu or cuda, as Ray chooses which"
            )
        if choice.device == "cuda" and not gpus:
            raise InputError("the device is 'cuda': the cluster has no GPU")
        use_gpus = bool(gpus) and choice.device != "cpu"
        return cls(workers or (gpus if use_gpus else 1), use_gpus)

    def run(self, jobs: Sequence[Job], prepare: Preparation) -> Generator[Update, None, None]:
        """Make jobs.

        Raises:
            InputError: the model cannot be loaded there.
        """
        import ray.data

        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        # A row is a block, so that a process takes one job at a time, and each result comes as soon as it is there.
        rows = ray.data.from_items([{"job": pickle.dumps(job)} for job in jobs], override_num_blocks=len(jobs))
        made = rows.map(
            RayWorker,
            fn_constructor_args=(prepare,),
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=self.workers),
            **({"num_gpus": 1} if self.gpus else {"num_cpus": 1}),
        )
        for row in made.iter_rows():
            if row["error"]:
                raise InputError(row["error"])
            result = pickle.loads(row["result"])
            yield Update(result.new_frames, result)
