"""Makes jobs in several processes of this machine. One that dies is replaced, and its job is made again."""

import contextlib
import time
from collections import Counter, deque
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

from personalive.batch.job import Job, Result, failed
from personalive.batch.worker import Frames, Message, Prepare, Ready, Refused, work
from personalive.errors import InputError, PersonaLiveError
from personalive.processes import Seat, how_ended, spawn

PATIENCE = 10.0
"""Seconds that processes have to clean up after themselves when the batch is stopped."""
STARTS = 3
"""How often in a row a process may die before it takes a job."""


class WorkersError(PersonaLiveError):
    """The processes of a batch cannot work."""


@dataclass(frozen=True)
class Update:
    """What has happened."""

    frames: int = 0
    """Frames that were made since the last update."""
    result: Result | None = None
    """Of a job that has ended."""
    message: str = ""
    """Something that the user should know."""


@dataclass
class _Worker:
    """A process, as the batch sees it."""

    seat: int
    process: SpawnProcess
    connection: "Connection[Job, Message]"
    is_ready: bool = False
    job: Job | None = None
    frames: int = 0

    @property
    def is_idle(self) -> bool:
        """Whether it waits for a job."""
        return self.is_ready and self.job is None


class Pool:
    """Processes with one queue of jobs."""

    def __init__(self, seats: Sequence[Seat], prepare: Prepare, lock: Path, retries: int) -> None:
        """Nothing is started yet.

        Args:
            seats: one for each process.
            prepare: see `worker.Prepare`.
            lock: file that processes lock while they live.
            retries: how often a job is made again whose process died.
        """
        self._seats, self._prepare, self._lock, self._retries = seats, prepare, lock, retries
        self._workers: list[_Worker] = []
        self._waiting: deque[Job] = deque()
        self._deaths: Counter[int] = Counter()
        self._false_starts = 0

    def run(self, jobs: Iterable[Job]) -> Generator[Update, None, None]:
        """Make jobs; closing the generator stops the processes.

        Raises:
            InputError: a process cannot load the model.
            WorkersError: processes die before they take a job.
        """
        self._waiting.extend(jobs)
        try:
            while self._waiting or any(worker.job for worker in self._workers):
                self._start_missing()
                self._hand_out()
                for connection in wait([worker.connection for worker in self._workers]):
                    (worker,) = (each for each in self._workers if each.connection is connection)
                    yield from self._hear(worker)
        finally:
            self._stop()

    def _start_missing(self) -> None:
        """A process for each free seat, as long as there are jobs for it."""
        taken = {worker.seat for worker in self._workers}
        free = [seat for seat in range(len(self._seats)) if seat not in taken]
        unoccupied = sum(worker.job is None for worker in self._workers)
        for seat in free[: max(0, len(self._waiting) - unoccupied)]:
            arguments = (self._seats[seat], self._prepare, self._lock)
            self._workers.append(_Worker(seat, *spawn(work, *arguments, name=f"batch {seat}")))

    def _hand_out(self) -> None:
        for worker in self._workers:
            if worker.is_idle and self._waiting:
                worker.job, worker.frames = self._waiting.popleft(), 0
                with contextlib.suppress(OSError):  # it has died, which is about to be heard
                    worker.connection.send(worker.job)

    def _hear(self, worker: _Worker) -> Generator[Update, None, None]:
        try:
            message = worker.connection.recv()
        except (EOFError, OSError):
            yield from self._replace(worker)
            return
        if isinstance(message, Ready):
            worker.is_ready, self._false_starts = True, 0
        elif isinstance(message, Refused):
            raise InputError(message.error)
        elif isinstance(message, Frames):
            yield Update(frames=message.done - worker.frames)
            worker.frames = message.done
        else:
            known, worker.job = worker.frames, None
            self._hand_out()  # before anything else, so that the device never waits
            yield Update(message.new_frames - known, message)

    def _replace(self, worker: _Worker) -> Generator[Update, None, None]:
        """Forget a process that died; another takes its seat if there is something to do."""
        self._workers.remove(worker)
        worker.connection.close()
        worker.process.join()
        how = how_ended(worker.process.exitcode)
        if worker.job is None:
            self._false_starts += not worker.is_ready
            if self._false_starts >= STARTS:
                raise WorkersError(f"processes cannot start: the last one {how}; try the same with personalive animate")
            return
        job = worker.job
        self._deaths[job.row] += 1
        if self._deaths[job.row] <= self._retries:
            self._waiting.appendleft(job)
            yield Update(-worker.frames, message=f"row {job.row}: its process {how}; it is made again in another one")
        else:
            times = self._deaths[job.row]
            yield Update(-worker.frames, failed(job, f"its process {how}, {times} times in all", attempts=times))

    def _stop(self) -> None:
        """End all processes: those that work clean up after themselves, if they do so in time."""
        for worker in self._workers:
            if worker.job is not None:
                worker.process.terminate()
            else:
                worker.process.kill()
        until = time.monotonic() + PATIENCE
        for worker in self._workers:
            worker.process.join(max(0.0, until - time.monotonic()))
            worker.process.kill()
            worker.process.join()
            worker.connection.close()
        self._workers.clear()
