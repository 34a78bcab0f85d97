"""Makes jobs on a Ray cluster, through Ray Data, which starts processes where there is room and replaces lost ones.

A job writes its own result and what is kept about it, so Ray is trusted with nothing but a row for each job.
"""

import os
import pickle
from collections.abc import Generator, Sequence
from typing import Any

from personalive.batch.job import Job
from personalive.batch.making import DeviceLostError
from personalive.batch.pool import Update
from personalive.batch.preparation import Preparation
from personalive.cluster import Cluster, actor_options
from personalive.errors import InputError, PersonaLiveError
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


def run(cluster: Cluster, jobs: Sequence[Job], prepare: Preparation) -> Generator[Update, None, None]:
    """Make jobs on a cluster.

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
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=cluster.workers),
        **actor_options(on_gpus=cluster.on_gpus),
    )
    for row in made.iter_rows():
        if row["error"]:
            raise InputError(row["error"])
        result = pickle.loads(row["result"])
        yield Update(result.new_frames, result)
