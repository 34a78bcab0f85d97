"""Processes that share one machine's GPUs or cores: what each may use, how it is started, and how it ended."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import TYPE_CHECKING, Any

from personalive.errors import InputError
from personalive.loading import ModelChoice

if TYPE_CHECKING:
    import torch

# PyTorch is imported where it is used: a process is told its GPU and its threads first.

CONTEXT = multiprocessing.get_context("spawn")
"""CUDA does not work in forked processes."""


@dataclass(frozen=True)
class Seat:
    """What a process may use of the machine."""

    gpu: str | None = None
    """As CUDA_VISIBLE_DEVICES names it; None: as the environment says."""
    threads: int | None = None
    """Of the CPU; None: as the environment says."""

    def take(self) -> None:
        """Keep this process to it; called before anything is computed."""
        if self.gpu is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = self.gpu
        if self.threads is not None:
            import torch

            torch.set_num_threads(self.threads)

    def choice(self, choice: ModelChoice) -> ModelChoice:
        """A choice of model as this process sees the machine: its one GPU is the first."""
        return choice if self.gpu is None else choice.replace(device="cuda")


def seats(choice: ModelChoice, workers: int | None) -> list[Seat]:
    """The processes of this machine.

    Args:
        choice: of the model and its device.
        workers: how many; None: one for each GPU, or one.

    Raises:
        InputError: there is no such device.
    """
    gpus = _gpus(choice)
    if gpus:
        return [Seat(gpu=gpus[index % len(gpus)]) for index in range(workers or len(gpus))]
    count = workers or 1
    cores = len(os.sched_getaffinity(0))
    threads = None if count == 1 or "OMP_NUM_THREADS" in os.environ else max(1, cores // count)
    return [Seat(threads=threads) for _ in range(count)]


def _gpus(choice: ModelChoice) -> list[str]:
    """The GPUs that were chosen, as CUDA_VISIBLE_DEVICES names them; nothing is begun on them."""
    import torch

    kind, _, index = (choice.device or "cuda").partition(":")
    if kind != "cuda":
        choice.resolved_device()
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    names = [name.strip() for name in visible.split(",")][:count] if visible else [*map(str, range(count))]
    if choice.device is None or (not index and names):
        return names
    if not index.isdecimal() or int(index) >= len(names):
        raise InputError(f"the device {choice.device!r} cannot be used here: {_there(len(names))}")
    return [names[int(index)]]


def _there(count: int) -> str:
    if not count:
        return "PyTorch finds no GPU; try cpu"
    return "there is one GPU, cuda:0" if count == 1 else f"there are {count} GPUs, cuda:0 to cuda:{count - 1}"


def spawn(work: Callable[..., None], *arguments: Any, name: str) -> "tuple[SpawnProcess, Connection[Any, Any]]":
    """Start a process that does `work(connection, *arguments)`; return it with our end of the connection.

    When the process ends, however it does, the connection is at its end.
    """
    ours, theirs = CONTEXT.Pipe()
    process = CONTEXT.Process(target=work, args=(theirs, *arguments), name=name, daemon=True)
    process.start()
    theirs.close()  # so that its end is seen here
    return process, ours


def obey(connection: "Connection[Any, Any]", take: Callable[[Any], object]) -> None:
    """In the process: let a thread pass on what comes. When the one that started it is gone, the process ends."""
    threading.Thread(target=_listen, args=(connection, take), name="orders", daemon=True).start()


def _listen(connection: "Connection[Any, Any]", take: Callable[[Any], object]) -> None:
    while True:
        try:
            message = connection.recv()
        except (EOFError, OSError):
            os._exit(0)
        take(message)


def computes(device: "torch.device") -> bool:
    """Whether a device still computes: after some errors a GPU refuses everything, and only another process goes on."""
    import torch

    try:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    except Exception:
        return False
    return True


def how_ended(status: int | None) -> str:
    """How a process ended, for a message."""
    if status is not None and status < 0:
        with contextlib.suppress(ValueError):
            return f"was killed by {signal.Signals(-status).name}"
    return f"ended with status {status}"
