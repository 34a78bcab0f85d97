"""A process that makes jobs, one after the other, until there are no more or the batch is gone."""

import fcntl
import os
import queue
import signal
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType

from personalive.batch.job import Job, Result
from personalive.errors import PersonaLiveError
from personalive.processes import Seat, obey
from personalive.terminal import log_for_people

MakeJob = Callable[[Job, Callable[[int, int], None]], Result]
Prepare = Callable[[Seat], MakeJob]
"""Is called in the process, to load the model there."""


@dataclass(frozen=True)
class Ready:
    """The process can take jobs."""


@dataclass(frozen=True)
class Frames:
    """How many frames of its job's result are made, and of how many."""

    done: int
    total: int


@dataclass(frozen=True)
class Refused:
    """The process cannot work, and another one could not either."""

    error: str


Message = Ready | Frames | Refused | Result


def work(connection: "Connection[Message, Job]", seat: Seat, prepare: Prepare, lock: Path) -> None:
    """What the process does.

    Args:
        connection: to the batch: jobs come, messages go.
        seat: what it may use.
        prepare: see `Prepare`.
        lock: file that is locked while the process lives.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes, and the batch ends its own
    signal.signal(signal.SIGTERM, _terminate)
    log_for_people()
    seat.take()
    held = os.open(lock, os.O_CREAT | os.O_RDWR, 0o666)
    fcntl.flock(held, fcntl.LOCK_SH)
    jobs: queue.Queue[Job] = queue.Queue()
    obey(connection, jobs.put)  # if the batch is gone, what is unfinished has no name yet, and is removed later
    try:
        make = prepare(seat)
    except PersonaLiveError as error:
        connection.send(Refused(str(error)))
        return
    connection.send(Ready())
    while True:
        connection.send(make(jobs.get(), lambda done, total: connection.send(Frames(done, total))))


def _terminate(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
