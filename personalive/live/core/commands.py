"""What is to be done on the device between two calls, in the order of the requests."""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager
from typing import Any

from personalive.errors import InputError, PersonaLiveError

MAX_WAITING = 32
"""The most commands of one session that wait: each takes the device's time and holds its arguments."""


class SessionEndedError(PersonaLiveError):
    """The session ended before it could do what was asked."""


class Commands:
    """A queue of commands with the futures of their results. Any thread may add; the device's thread runs them."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._ended: str | None = None
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, command: Callable[[], Any]) -> "Future[Any]":
        """Queue a command; after `end`, its future fails at once.

        Raises:
            InputError: too many are waiting already.
        """
        future: Future[Any] = Future()
        with self._lock:
            ended = self._ended
            if len(self._waiting) >= MAX_WAITING:
                raise InputError(
                    f"{MAX_WAITING} changes of this session are waiting for the device already: send more later"
                )
            if ended is None:
                self._waiting.append((command, future))
        if ended is not None:
            future.set_exception(SessionEndedError(ended))
        return future

    def run_next(self, guard: Callable[[], AbstractContextManager[None]]) -> None:
        """Run the oldest command under `guard`; its error goes to the caller."""
        with self._lock:
            if not self._waiting:
                return
            command, future = self._waiting.popleft()
        if not future.set_running_or_notify_cancel():  # nothing waits for it any more
            return
        try:
            with guard():
                result = command()
        except Exception as error:
            future.set_exception(error)
        else:
            future.set_result(result)

    def end(self, reason: str) -> None:
        """Fail all futures, including those of commands that come later."""
        with self._lock:
            self._ended = reason
            waiting, self._waiting = list(self._waiting), deque()
        for _, future in waiting:
            if future.set_running_or_notify_cancel():
                future.set_exception(SessionEndedError(reason))
