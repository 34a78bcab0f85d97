"""The operator's options for the HTTP service over several processes."""

from functools import partial
from typing import Annotated

from pydantic import BeforeValidator

from personalive.errors import InputError
from personalive.gateway.options import GatewayOptions
from personalive.settings import Surface, count_or_auto, setting

_jobs = partial(setting, group="jobs", on=Surface.CLI)


class JobsOptions(GatewayOptions):
    """Where the service listens, over how many processes, and how many jobs may wait for them.

    Raises:
        InputError: a value that cannot be used.
    """

    replicas: Annotated[int | None, BeforeValidator(count_or_auto)] = _jobs(
        None,
        "Processes that animate, each with a GPU of its own where there are GPUs",
        default_text="auto: one for each GPU, or one",
        low=1,
        high=1024,
        text=True,
        metavar="N|auto",
    )
    min_replicas: int | None = _jobs(
        None,
        "Fewest processes, which is what is kept when there is little to do; 0: none at all",
        details="Further ones are started when jobs wait, up to --replicas, and ended some minutes after the last job",
        default_text="as many as --replicas",
        low=0,
        high=1024,
    )
    queue: int = _jobs(100, "The most jobs that wait for a process; further ones are refused", low=1, high=100_000)
    ray: str | None = _jobs(
        None,
        "Work on a Ray cluster: the one that this machine belongs to (auto), or that at an address",
        default_text="on this machine alone",
        metavar="auto|ADDRESS",
    )

    def range_of(self, replicas: int) -> tuple[int, int]:
        """The fewest and the most processes, if there are to be this many.

        Raises:
            InputError: the fewest are more.
        """
        fewest = replicas if self.min_replicas is None else self.min_replicas
        if fewest > replicas:
            raise InputError(f"min_replicas is {fewest}: it must not be more than replicas, which is {replicas}")
        return fewest, replicas
