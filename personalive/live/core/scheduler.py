"""Shares one device among the sessions: fair, batched when several are ready, and none waits for one that stalls.

Two kinds of threads work for it. A few prepare frames (resize, find faces), each for one session at a time. One alone
talks to the device: it runs a command or a call, for the session that has waited longest, together with the others
that are ready.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from personalive.errors import PersonaLiveError
from personalive.live.core.engine import Engine, LiveStream
from personalive.live.core.session import Session
from personalive.types import RGBArray

logger = logging.getLogger(__name__)

PREPARERS = 2
CALLS = 256
"""The number of calls whose time is remembered."""


@dataclass(frozen=True)
class Call:
    """One call of the model."""

    seconds: float
    sessions: int


@dataclass(frozen=True)
class _Work:
    """What one session brings to a call."""

    session: Session
    stream: LiveStream
    driving: Any


class Scheduler:
    """Drives sessions over one engine until it is stopped."""

    def __init__(
        self,
        engine: Engine,
        *,
        max_batch: int = 1,
        pool: Executor | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Work for `engine`.

        Args:
            engine: the model.
            max_batch: the most sessions in one call.
            pool: where frames are prepared; default: two threads.
            clock: seconds, as for the sessions.
        """
        self.calls: deque[Call] = deque(maxlen=CALLS)
        self.call_count = 0
        self.call_seconds = 0.0
        self.failures = 0
        self._engine = engine
        self._max_batch = max_batch
        self._clock = clock
        self._sessions: dict[str, Session] = {}
        """In the order of their turns: the one that has waited longest comes first."""
        self._changed = threading.Condition()
        self._stopped = False
        self._free_at = 0.0
        self._expected: dict[int, float] = {1: engine.call_seconds} if engine.call_seconds else {}
        self._pool = pool or ThreadPoolExecutor(PREPARERS, thread_name_prefix="live-prepare")
        self._threads = [
            threading.Thread(target=self._run_device, name="live-device", daemon=True),
            threading.Thread(target=self._run_preparing, name="live-coordinate", daemon=True),
        ]

    def start(self) -> None:
        """Start working, in threads of its own."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop after the running call, and wait for it."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        self._pool.shutdown(wait=True)

    def expected(self) -> float:
        """Seconds that a call for one session takes; 0: not known yet."""
        return self._expected.get(1, 0.0)

    def add(self, session: Session) -> None:
        """Serve a session from now on."""
        with self._changed:
            self._sessions[session.identifier] = session
            session.wake = self.wake
        self.wake()

    def remove(self, session: Session) -> None:
        """Stop serving a session."""
        with self._changed:
            self._sessions.pop(session.identifier, None)

    def wake(self) -> None:
        """Look again whether there is something to do."""
        with self._changed:
            self._changed.notify_all()

    def _run_preparing(self) -> None:
        while True:
            with self._changed:
                if self._stopped:
                    return
                self._changed.wait(self.prepare_due())

    def prepare_due(self) -> float | None:
        """Start what is due; return the seconds until the next thing is, None if nothing is in sight."""
        now, wait = self._clock(), None
        for session in self._sessions.values():
            due = session.prepare_at(self._free_at)
            if due is None:
                continue
            if due <= now:
                session.begin_preparing()
                self._pool.submit(self._prepare, session)
            else:
                wait = min(due - now, wait or due - now)
        return wait

    def _prepare(self, session: Session) -> None:
        try:
            session.prepare()
        except Exception as error:
            self._fail(session, error)

    def _paint(self, session: Session) -> None:
        try:
            session.paint()
        except Exception as error:
            self._fail(session, error)

    def _run_device(self) -> None:
        while True:
            with self._changed:
                while not self._stopped and not self._has_work():
                    self._changed.wait()
                if self._stopped:
                    return
            self.work()

    def work(self) -> None:
        """One command, then one call, so a burst of portraits delays others by one of them at most."""
        with self._changed:
            commanding = [each for each in self._sessions.values() if each.has_command]
            calling = [each for each in self._sessions.values() if each.has_chunk]
        for session in commanding[:1]:
            session.run_command()
            self._had_its_turn(session)
        self._call(calling[: self._max_batch])

    def _has_work(self) -> bool:
        return any(session.has_command or session.has_chunk for session in self._sessions.values())

    def _had_its_turn(self, session: Session) -> None:
        with self._changed:
            if session.identifier in self._sessions:
                self._sessions[session.identifier] = self._sessions.pop(session.identifier)

    def _call(self, sessions: Sequence[Session]) -> None:
        began: list[_Work] = []
        for session in sessions:
            try:
                call = session.begin_call()
            except Exception as error:
                self._fail(session, error)
                continue
            if call is not None:
                began.append(_Work(session, *call))
        if began:
            self._advance(began)

    def _advance(self, calls: Sequence[_Work]) -> None:
        frames_before = [each.stream.frames_in for each in calls]
        started = self._clock()
        self._free_at = started + self._expected.get(len(calls), 0.0)
        try:
            with self._engine.guard():
                images = self._engine.advance([each.stream for each in calls], [each.driving for each in calls])
        except Exception as error:
            self._after_failure(calls, frames_before, error)
            return
        finally:
            self._free_at = 0.0
        self._measure(self._clock() - started, len(calls))
        self._deliver([each.session for each in calls], images)

    def _after_failure(self, calls: Sequence[_Work], frames_before: Sequence[int], error: Exception) -> None:
        """Find out which one failed; the others continue.

        A stream that has taken its frames nevertheless is not given them again: that would move its driver twice.
        """
        if len(calls) == 1:
            self._fail(calls[0].session, error)
            return
        logger.warning("a call for %d sessions failed (%s); each is tried alone", len(calls), error)
        for call, frames in zip(calls, frames_before, strict=True):
            if call.stream.frames_in == frames:
                self._advance([call])
            else:
                self._fail(call.session, error)

    def _deliver(self, sessions: Sequence[Session], images: Sequence[RGBArray]) -> None:
        for session, pictures in zip(sessions, images, strict=True):
            self._had_its_turn(session)
            try:
                if session.end_call(pictures):
                    self._pool.submit(self._paint, session)
            except Exception as error:
                self._fail(session, error)

    def _measure(self, seconds: float, sessions: int) -> None:
        self.calls.append(Call(seconds, sessions))
        self.call_count += 1
        self.call_seconds += seconds
        expected = self._expected.get(sessions, seconds)
        self._expected[sessions] = expected + 0.2 * (seconds - expected)

    def _fail(self, session: Session, error: Exception) -> None:
        self.failures += 1
        if isinstance(error, PersonaLiveError):
            logger.warning("session %s ends: %s", session.identifier, error)
            session.close(str(error))
        else:
            logger.error("session %s ends after an unexpected error", session.identifier, exc_info=error)
            session.close("the animation stopped because of an unexpected error; start again")
