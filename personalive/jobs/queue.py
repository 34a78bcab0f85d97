"""The queue: takes predictions, lets each wait for its turn, has it made, and reports what came of it."""

import asyncio
import base64
import contextlib
import itertools
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any, Protocol

from personalive.errors import PersonaLiveError
from personalive.gateway.deliveries import Deliveries
from personalive.gateway.prediction import NotReadyError, Prediction, fail
from personalive.gateway.requests import PredictionRequest
from personalive.jobs.checking import check_inputs
from personalive.jobs.ended import Ended
from personalive.jobs.figures import Figures
from personalive.jobs.spool import Spool
from personalive.jobs.work import Began, Event, Failed, Line, Made

RETRIES = 1
"""How often a job is made again whose process died while making it."""
MAX_LOG = 64 * 1024
"""Characters of a job's log."""


class LostError(PersonaLiveError):
    """The process that a job was given to is gone."""


class Makers(Protocol):
    """The processes."""

    status: str
    """How they are: one of Cog's words STARTING, READY, and DEFUNCT."""
    running: int
    """How many there are."""
    limit: int
    """The most that there can be."""

    def run(self, inputs: Mapping[str, Any]) -> AsyncGenerator[Event, None]:
        """Let one make a job as soon as one is free; closing the generator stops it. `Began` comes before the process
        can have done anything.

        Raises:
            LostError: the process is gone.
        """


class Job(Prediction):
    """A prediction that waits, or is being made."""

    task: asyncio.Task[dict[str, Any]] | None = None
    """Makes it; None while it waits."""
    run: asyncio.Task[None] | None = None
    """Waits for that, and ends it; likewise."""
    began: float | None = None
    """When its latest process was chosen, by the event loop's clock."""
    is_made = False
    """Whether only its delivery is left."""


class JobQueue:
    """First come, first served. A `Backend` of the interface; belongs to the event loop.

    Args:
        makers: the processes.
        deliveries: sends events and results.
        spool: keeps inputs.
        schema: of each input.
        limit: the most jobs that wait.
        upload_url: where results go if their request does not say; None leaves them in the answer.
    """

    def __init__(
        self,
        makers: Makers,
        deliveries: Deliveries,
        spool: Spool,
        schema: Mapping[str, Any],
        limit: int,
        upload_url: str | None,
    ) -> None:
        self.figures = Figures()
        self.limit = limit
        self.is_draining = False
        self._makers, self._deliveries, self._spool, self._schema = makers, deliveries, spool, schema
        self._upload_url = upload_url
        self._jobs: dict[str, Job] = {}
        """By id: those that have not ended."""
        self._waiting: dict[str, Job] = {}
        self._making: dict[str, Job] = {}
        self._ended = Ended()
        self._empty = asyncio.Event()
        self._empty.set()

    # ---- for the interface ----

    @property
    def health(self) -> dict[str, Any]:
        """READY while jobs are taken, BUSY while they are refused for lack of room or as the service is to end."""
        status = self._makers.status
        if status == "READY" and (self.is_draining or self.waiting >= self.limit):
            status = "BUSY"
        return {
            "status": status,
            "replicas": self._makers.running,
            "running": self.making,
            "queued": self.waiting,
            "draining": self.is_draining,
        }

    @property
    def waiting(self) -> int:
        """Jobs that wait for a process."""
        return len(self._jobs) - self.making - sum(job.is_made for job in self._jobs.values())

    @property
    def making(self) -> int:
        """Jobs that a process has, or is about to be given."""
        return len(self._making)

    def find(self, identifier: str) -> Job | None:
        """The job with this id that has not ended."""
        job = self._jobs.get(identifier)
        if job is not None and identifier in self._waiting:
            position = next(i for i, each in enumerate(self._waiting, 1) if each == identifier)
            job.state = {**job.state, "queue_position": position}
        return job

    def state(self, identifier: str) -> dict[str, Any] | None:
        """The state of a job that has not ended, or has lately."""
        job = self.find(identifier)
        return self._ended.find(identifier) if job is None else job.state

    def check_room(self) -> None:
        """Look whether another job can be taken.

        Raises:
            NotReadyError
        """
        try:
            if self.is_draining:
                raise NotReadyError("the service takes no more jobs, as it is about to end", retry_after=30)
            if self._makers.status != "READY":
                reason = "Ray does not answer" if self._makers.status == "DEFUNCT" else "the model is not loaded"
                raise NotReadyError(f"{reason}; see GET /health-check")
            if self.waiting >= self.limit:
                raise NotReadyError(
                    f"{self.limit} jobs are waiting, which is the most: try again later",
                    retry_after=self.figures.seconds_until_free(self._makers.limit),
                )
        except NotReadyError:
            self.figures.refused += 1
            raise

    async def start(self, request: PredictionRequest, headers: Mapping[str, str]) -> Job:
        """Take a job, or return the one that has its id and has not ended.

        Args:
            headers: to be sent with its webhooks.

        Raises:
            NotReadyError: there is no room.
            InvalidError: its values are wrong.
        """
        check_inputs(request.input, self._schema)
        known = None if request.id is None else self.find(request.id)
        if known is not None:
            return known
        self.check_room()
        job = Job(request, headers, self._deliveries, self._upload_url)
        job.state["created_at"] = _now()
        self._jobs[job.id] = job  # so that its place is taken while its inputs are written
        self._empty.clear()
        try:
            await self._spool.put(job.key, request.input)
        except BaseException:
            self._forget(job)
            raise
        self.figures.taken += 1
        job.begin()
        self._waiting[job.id] = job
        self._feed()
        return self.find(job.id) or job

    async def cancel(self, identifier: str) -> bool:
        """Stop a job: at once if it waits, else at its next chunk.

        Returns:
            Whether there is one with this id. It may just have ended, which its client could not know.
        """
        job = self._jobs.get(identifier)
        if job is None:
            return self._ended.find(identifier) is not None
        if self._waiting.pop(identifier, None) is not None:
            self._complete(job, {**job.state, "status": "canceled", "completed_at": _now()})
        elif job.task is not None and not job.is_made and not job.task.cancelling():
            job.task.cancel()
        return True

    # ---- jobs ----

    def _feed(self) -> None:
        """Give jobs to processes. Ray is told of as many at once as it may start processes, and so starts them."""
        while self._waiting and len(self._making) < self._makers.limit:
            identifier, job = next(iter(self._waiting.items()))
            del self._waiting[identifier]
            job.state = _without_place(job.state)
            self._making[identifier] = job
            job.task = asyncio.create_task(self._make(job))
            job.run = asyncio.create_task(self._run(job, job.task))

    async def _run(self, job: Job, task: asyncio.Task[dict[str, Any]]) -> None:
        # Its end is a task of its own: a task that is cancelled before it has begun never runs at all.
        state: dict[str, Any] = {}
        try:
            state = await task
        except asyncio.CancelledError:
            state = {"status": "canceled"}
        except Exception as error:  # a defect: the others must go on
            fail(state, "internal server error; see the server's log")
            self.figures.report(error)
        del self._making[job.id]
        job.is_made = True
        self._feed()
        state = {**job.state, **state, "completed_at": _now()}
        if job.began is not None:
            seconds = asyncio.get_running_loop().time() - job.began
            state["metrics"] = {"predict_time": seconds}
            if state["status"] == "succeeded":
                self.figures.took(seconds)
        upload = job.upload(state)
        if upload is not None:
            await asyncio.wait([upload])
        self._complete(job, state)

    async def _make(self, job: Job) -> dict[str, Any]:
        """What its last state has beyond the present one."""
        inputs = await self._spool.get(job.key)
        died = unreached = 0
        while True:
            began = False
            with contextlib.suppress(LostError):
                async with aclosing(self._makers.run(inputs)) as events:
                    async for event in events:
                        began = began or isinstance(event, Began)
                        ended = await self._hear(job, event)
                        if ended is not None:
                            return ended
            if began:
                died += 1
                if died > RETRIES:
                    return _failed(f"the process that made it died {died} times; is there enough memory for it?")
                self.figures.retried += 1
                self._say(job, "the process that made it died: it is made again from the beginning")
            else:
                unreached += 1
                if unreached > RETRIES:
                    return _failed("no process could be reached that would make it; see the server's log")
                self._say(job, "no process was reached: another is asked")

    async def _hear(self, job: Job, event: Event) -> dict[str, Any] | None:
        """Take what a process says of a job; at its end, what its last state has."""
        if isinstance(event, Began):
            job.began = asyncio.get_running_loop().time()
            if job.state["status"] == "starting":
                job.state = {**job.state, "status": "processing", "started_at": _now()}
                job.tell("start")
        elif isinstance(event, Line):
            self._say(job, event.text)
        elif isinstance(event, Failed):
            return _failed(event.error)
        elif isinstance(event, Made):
            content = await asyncio.to_thread(base64.b64encode, event.content)
            return {"status": "succeeded", "output": f"data:{event.kind};base64,{content.decode()}"}
        return None

    def _say(self, job: Job, line: str) -> None:
        if len(job.state["logs"]) + len(line) < MAX_LOG:
            job.state = {**job.state, "logs": f"{job.state['logs']}{line}\n"}
            job.tell("logs")

    def _complete(self, job: Job, state: dict[str, Any]) -> None:
        state = _without_place(state)
        self.figures.ended[state["status"]] += 1
        self._ended.add(state)
        self._forget(job)
        job.complete(state)

    def _forget(self, job: Job) -> None:
        self._spool.drop(job.key)
        del self._jobs[job.id]
        if not self._jobs:
            self._empty.set()

    # ---- the end ----

    def drain(self) -> None:
        """Take no more jobs."""
        self.is_draining = True

    def reopen(self) -> None:
        """Take jobs again."""
        self.is_draining = False

    async def wait_until_empty(self) -> None:
        """Until every job that was taken has ended."""
        await self._empty.wait()

    async def close(self) -> None:
        """Take no more jobs, and cancel those that have not ended."""
        self.drain()
        for identifier in list(itertools.chain(self._waiting, self._making)):
            await self.cancel(identifier)


def _failed(error: str) -> dict[str, Any]:
    return {"status": "failed", "error": f"Prediction failed: {error}"}


def _without_place(state: Mapping[str, Any]) -> dict[str, Any]:
    """A state is being sent, perhaps: it is replaced, not changed."""
    return {name: value for name, value in state.items() if name != "queue_position"}


def _now() -> str:
    return datetime.now(UTC).isoformat()
