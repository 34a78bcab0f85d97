"""The workers, as their front sees them: started, replaced when they die, drained and ended."""

import asyncio
import contextlib
import itertools
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from personalive.errors import first_line
from personalive.live.core.parameters import LoadParameters
from personalive.live.front.ledger import Ledger
from personalive.live.front.placement import Load as Busy
from personalive.live.front.placement import order
from personalive.live.front.process import Process, Workplace
from personalive.live.front.reports import Load, Report
from personalive.live.hub.clients import Client
from personalive.live.hub.entries import FullError, SessionState

logger = logging.getLogger(__name__)

STOP_SECONDS = 10.0
"""Time for workers to end their sessions."""
FIRST_WAIT, LONGEST_WAIT = 1.0, 30.0
"""Seconds before a worker is started again that ended before it had loaded the model; each time twice as many."""
RANKS = ("not_loaded", "error", "loading", "loaded")


@dataclass(eq=False)
class Worker:
    """One of them."""

    seat: int
    """Its number, which a process that replaces it has too."""
    name: str
    """Which no other process has."""
    process: Process
    report: Report | None = None
    """The last one; None: it does not answer requests yet."""
    pending: int = 0
    """Sessions that are on their way to it."""
    is_ending: bool = False
    """Whether it was told to end: it takes no new sessions, even if its seat does again."""

    @property
    def is_loaded(self) -> bool:
        """Whether it can animate."""
        return self.report is not None and self.report.loading.status == "loaded"


class Pool:
    """A worker for each seat. Belongs to the event loop."""

    def __init__(
        self,
        workplace: Workplace,
        *,
        load_at_start: bool,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        """Nothing is started yet.

        Args:
            workplace: starts their processes.
            load_at_start: whether they load the model before a client asks.
            sleep: waits for so many seconds.
        """
        self.seats = range(workplace.size)
        self.ledger = Ledger(len(self.seats))
        self.draining: set[int] = set()
        """Seats whose workers take no new sessions, and end when they have none."""
        self.deaths = 0
        self.on_drained: Callable[[], None] = lambda: None
        """Is called when all have been drained."""
        self.parameters = LoadParameters() if load_at_start else None
        """With which the model is loaded; None: not until a client asks."""
        self._workplace = workplace
        self._workers: dict[int, Worker] = {}
        self._names = itertools.count()
        self._waits = dict.fromkeys(self.seats, FIRST_WAIT)
        """For each seat, how long it stays empty the next time that it has to."""
        self._sleep = sleep
        self._call_seconds: float | None = None
        self._stopping = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    # ---- life ----

    def start(self) -> None:
        """Start all workers."""
        self._loop = asyncio.get_running_loop()
        for seat in self.seats:
            self._start(seat)

    async def stop(self) -> None:
        """End all workers; their clients are told."""
        self._stopping = True
        for task in self._tasks:
            task.cancel()
        ending = [worker.process for worker in self._workers.values()]
        for process in ending:
            process.terminate()
        await asyncio.to_thread(_end, ending, STOP_SECONDS)
        for process in ending:
            await process.close()

    def _start(self, seat: int) -> None:
        name = f"{seat}.{next(self._names)}"
        try:
            process = self._workplace.start(seat, name, self._call_seconds)
        except Exception as error:  # the system and Ray have many kinds; whichever it is, the others serve on
            logger.warning("worker %d cannot be started, and is tried again: %s", seat, first_line(error))
            self._spawn_task(self._start_later(seat))
            return
        worker = self._workers[seat] = Worker(seat, name, process)
        threading.Thread(target=self._follow, args=(worker,), name=f"worker {name}", daemon=True).start()

    def _follow(self, worker: Worker) -> None:
        """Pass on what a worker says, and that it has ended (a thread of its own)."""
        loop = self._loop
        assert loop is not None

        def call(method: Callable[[Worker, Any], None], said: Report | str) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(method, worker, said)

        how = "was lost"
        try:
            how = worker.process.follow(lambda report: call(self._hear, report))
        except Exception:
            logger.exception("worker %d can no longer be followed", worker.seat)
            worker.process.kill(0.0)  # another one takes its seat, and its GPU
        finally:
            call(self._ended, how)

    def _hear(self, worker: Worker, report: Report) -> None:
        if worker.report is None and self.parameters is not None:
            worker.process.send(Load(self.parameters))
        worker.report = report
        if worker.is_loaded:
            self._waits[worker.seat] = FIRST_WAIT
        self._call_seconds = report.call_seconds or self._call_seconds
        self.ledger.reported(worker.name, report.sessions, report.now - time.monotonic())
        self._end_if_drained(worker)

    def _ended(self, worker: Worker, how: str) -> None:
        """A process is gone: its sessions are too, and another one takes its seat."""
        if self._stopping:
            return
        del self._workers[worker.seat]
        self._spawn_task(worker.process.close())
        lost = self.ledger.lose(worker.name)
        if worker.seat in self.draining:
            if len(self.draining) == len(self.seats) and not self._workers:
                self.on_drained()
            return
        if not worker.is_ending:
            self.deaths += 1
            logger.warning("worker %d %s, with %d sessions; another one takes its place", worker.seat, how, len(lost))
        if worker.is_ending or worker.is_loaded:
            self._start(worker.seat)
        else:  # what it died of, such as too little memory for the model, is likely to be there still
            self._spawn_task(self._start_later(worker.seat))

    async def _start_later(self, seat: int) -> None:
        wait = self._waits[seat]
        self._waits[seat] = min(LONGEST_WAIT, 2 * wait)
        await self._sleep(wait)
        if seat not in self._workers and seat not in self.draining:
            self._start(seat)

    def _spawn_task(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ---- which ----

    @property
    def up(self) -> list[Worker]:
        """Those that answer requests, the furthest loaded first."""
        there = [worker for worker in self._workers.values() if worker.report is not None]
        return sorted(there, key=lambda worker: (-RANKS.index(_status(worker)), worker.seat))

    def any(self) -> Worker:
        """One that answers what all would answer.

        Raises:
            FullError: none is up.
        """
        up = self.up
        if not up:
            raise FullError("no worker is up: try again in a moment")
        return up[0]

    def named(self, name: str | None) -> Worker | None:
        """The worker of this name, if it lives."""
        return next((worker for worker in self.up if worker.name == name), None)

    def ordered(self, client: Client) -> list[Worker]:
        """The workers to ask for a place for a client's new session; see `placement.order`.

        Raises:
            FullError: none takes one.
        """
        loaded = [worker for worker in self.up if worker.is_loaded]
        if not loaded and len(self.draining) < len(self.seats):
            return [self.any()]  # which says why there is none
        chosen = [loaded[index] for index in order([self._busy(worker, client) for worker in loaded])]
        if not chosen:
            raise FullError(self._full())
        return chosen

    def takes_sessions(self, worker: Worker) -> bool:
        """Whether a worker may be given new ones."""
        return worker.seat not in self.draining and not worker.is_ending

    def _busy(self, worker: Worker, client: Client) -> Busy:
        assert worker.report is not None
        sessions, known = self.ledger.on(worker.name), self.ledger.known(client)
        waiting = [each for each in sessions if each.state is not SessionState.CONNECTED]
        return Busy(
            len(sessions) + worker.pending,
            worker.report.limit if self.takes_sessions(worker) else 0,
            len(waiting),
            has_own=any(each.client.is_same(client) for each in waiting),
            is_home=worker.name == known.home,
            has_portrait=worker.name in known.shown_to,
        )

    def check_room(self) -> None:
        """Look whether anywhere a session fits without another giving way.

        Raises:
            FullError: nowhere.
        """
        takers = [each for each in self.up if self.takes_sessions(each)]
        if len(takers) == 0 or sum(len(self.ledger.on(each.name)) for each in takers) >= self.limit > 0:
            raise FullError(self._full())

    def _full(self) -> str:
        if len(self.draining) == len(self.seats):
            return "the server is being drained: it takes no new sessions"
        limit = self.limit
        if not limit:
            return "no worker takes new sessions now: try again in a moment"
        return f"the server is full: {limit} of {limit} sessions are in use; try again later"

    @property
    def limit(self) -> int:
        """The most sessions of all workers that take new ones."""
        return sum(each.report.limit for each in self.up if each.report and self.takes_sessions(each))

    # ---- draining ----

    def drain(self, seats: Sequence[int]) -> None:
        """Let these take no new sessions; each ends when it has none."""
        self.draining.update(seats)
        for worker in [self._workers[seat] for seat in seats if seat in self._workers]:
            self._end_if_drained(worker)
        if len(self.draining) == len(self.seats) and not self._workers:
            self.on_drained()

    def reopen(self, seats: Sequence[int]) -> None:
        """Let these take sessions again; those that have ended, or were told to, are started again."""
        drained = self.draining.intersection(seats)
        self.draining -= drained
        for seat in drained - self._workers.keys():
            self._start(seat)

    def _end_if_drained(self, worker: Worker) -> None:
        if worker.seat in self.draining and not worker.pending and not self.ledger.on(worker.name):
            worker.is_ending = True
            worker.process.terminate()

    def described(self) -> list[dict[str, object]]:
        """Each worker's state, for its operator."""
        return [self._described(seat) for seat in self.seats]

    def _described(self, seat: int) -> dict[str, object]:
        worker = self._workers.get(seat)
        if worker is None:
            return {"worker": seat, "state": "drained" if seat in self.draining else "starting", "sessions": 0}
        report = worker.report
        state = "draining" if not self.takes_sessions(worker) else _status(worker) if report else "starting"
        described = {"worker": seat, "state": state, "sessions": len(self.ledger.on(worker.name))}
        if report is not None:
            described |= {"max_sessions": report.limit, **worker.process.described}
            if report.call_seconds is not None:
                described["call_ms"] = round(report.call_seconds * 1e3)
        return described


def _status(worker: Worker) -> str:
    return worker.report.loading.status if worker.report else RANKS[0]


def _end(processes: Sequence[Process], seconds: float) -> None:
    until = time.monotonic() + seconds
    for process in processes:
        process.kill(max(0.0, until - time.monotonic()))
