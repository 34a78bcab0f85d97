"""A Ray cluster: joining one, and what Ray is told of processes that animate."""

import logging
import os
import sys
from dataclasses import dataclass
from typing import Any, Self

from personalive.errors import InputError, first_line
from personalive.extras import require
from personalive.loading import ModelChoice
from personalive.net.addresses import ALLOW_PRIVATE

logger = logging.getLogger(__name__)

PASSED_ON = (ALLOW_PRIVATE, "PERSONALIVE_HUB", "PERSONALIVE_REVISION")
"""Variables of the operator's environment that hold for the processes of all machines."""
ALONE = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # in spite of its name: Ray's processes use the loopback address
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""Variables by which Ray, started for this machine alone, is to be reached by nobody else, and reports to nobody."""


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster that this process belongs to."""

    workers: int
    """The most processes that work side by side."""
    on_gpus: bool
    """Whether each has one."""

    @classmethod
    def join(cls, address: str, choice: ModelChoice, workers: int | None, *, from_outside: bool = False) -> Self:
        """Connect to a cluster.

        Args:
            address: as Ray takes it: `auto`, `HOST:PORT`, `ray://HOST:PORT`, or `local` for one of this machine alone.
            choice: of the model and its device.
            workers: the most processes; None: one for each GPU, or one.
            from_outside: whether this machine need not be one of the cluster's (`ray://`). Processes that tell what
                they do while they do it can only be followed from within.

        Raises:
            MissingExtraError: Ray is not installed.
            InputError: there is no such cluster, or the device cannot be chosen there.
        """
        if address.startswith("ray://") and not from_outside:
            raise InputError(f"ray is {address!r}: run this on one of the cluster's machines, with auto")
        check_device(choice)
        require("scale")
        if address == "local":
            stay_alone()
        import ray
        from ray.exceptions import RayError

        if not ray.is_initialized():
            try:
                ray.init(address, log_to_driver=False, logging_level=logging.WARNING)
            except (ConnectionError, ValueError, RuntimeError, OSError, RayError) as error:
                raise InputError(
                    f"ray is {address!r}: that cluster cannot be joined ({first_line(error)}); start one with "
                    "`ray start --head`, or give local to use this machine alone"
                ) from error
        gpus = int(ray.cluster_resources().get("GPU", 0))
        if choice.device == "cuda" and not gpus:
            raise InputError("the device is 'cuda': the cluster has no GPU; give --device cpu, or add a node with one")
        on_gpus = bool(gpus) and choice.device != "cpu"
        return cls(workers or (gpus if on_gpus else 1), on_gpus)


def stay_alone() -> None:
    """Let a Ray that is started here have `ALONE`. Call it before Ray is imported, which reads some of them then."""
    missing = [f"{name}={value}" for name, value in ALONE.items() if name not in os.environ]
    if missing and "ray" in sys.modules:
        logger.warning(
            "Ray was imported before it could be told to stay on this machine alone, so others may reach it: have %s "
            "in the environment before",
            ", ".join(missing),
        )
    for name, value in ALONE.items():
        os.environ.setdefault(name, value)


def check_device(choice: ModelChoice) -> None:
    """Refuse a device that is one of a certain machine.

    Raises:
        InputError
    """
    if choice.device not in (None, "cpu", "cuda"):
        raise InputError(f"the device is {choice.device!r}: on a cluster it must be cpu or cuda, as Ray chooses which")


def actor_options(*, on_gpus: bool) -> dict[str, Any]:
    """What Ray is told of a process: that it has a GPU, or else a core, of its own, and its environment."""
    resources: dict[str, Any] = {"num_gpus": 1, "num_cpus": 0} if on_gpus else {"num_cpus": 1}
    environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    return {**resources, "runtime_env": {"env_vars": environment}} if environment else resources
