"""What is sent to addresses that clients name: events to webhooks, and results.

Cog would send both itself, to any address, looking it up again after any check of ours. So it sends its events only to
this process, which passes them on through the checks in `personalive.net`.
"""

import asyncio
import base64
import http.client
import logging
import mimetypes
import os
from collections import deque
from collections.abc import Coroutine, Mapping, Set
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from personalive.errors import InputError, PersonaLiveError, first_line
from personalive.gateway.json_pieces import json_pieces
from personalive.net.outbound import request
from personalive.net.pace import Pace

logger = logging.getLogger(__name__)

MAX_DELIVERIES = 32
"""The most webhooks and uploads for one prediction at a time, and the most threads that send."""
ATTEMPTS = 8
"""Attempts for the last event; the others are sent once."""
ATTEMPT_SECONDS = 60.0
UPLOAD_SECONDS = 300.0
LEAST_RATE = 64 * 1024
REPEATED = (408, 425, 429)
"""Statuses below 500 after which another attempt makes sense."""


class UploadError(PersonaLiveError):
    """A result could not be sent where it was wanted."""


class Deliveries:
    """Sends requests in threads, each with a deadline.

    Args:
        allow_private: whether clients may name private addresses.
        limit: the most webhooks and uploads at once. Beyond that, the oldest gives way.
    """

    def __init__(self, *, allow_private: bool, limit: int = MAX_DELIVERIES) -> None:
        self._allow_private = allow_private
        self._limit = limit
        self._threads = ThreadPoolExecutor(MAX_DELIVERIES, "delivery")
        self._tasks: dict[asyncio.Task[None], None] = {}
        """The oldest first."""

    async def send(
        self, method: str, url: str, body: bytes, headers: Mapping[str, str], pace: Pace, *, trusted: bool = False
    ) -> int:
        """Send a body and return the answer's status.

        Args:
            trusted: the address is the operator's, which may be any.

        Raises:
            InputError: the address is not allowed.
            OSError, http.client.HTTPException, ValueError: it was not delivered.
        """
        allowed = trusted or self._allow_private

        def send() -> int:
            with request(method, url, pace=pace, allow_private=allowed, headers=headers, body=body) as answer:
                return answer.status

        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, send)
        except asyncio.CancelledError:
            pace.stop()
            raise

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something that sends; if there is too much of it, the oldest is dropped."""
        task = asyncio.create_task(work)
        self._tasks[task] = None
        task.add_done_callback(lambda done: self._tasks.pop(done, None))
        if len(self._tasks) > self._limit:
            logger.warning("more than %d webhooks and uploads at once: the oldest is dropped", self._limit)
            next(iter(self._tasks)).cancel()
        return task

    async def close(self, seconds: float) -> None:
        """Wait that long for what is on its way, and drop the rest."""
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=seconds)
        for task in list(self._tasks):
            task.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def upload(self, result: str, prefix: str, *, trusted: bool) -> str:
        """Send a result, a data: URL, to a name under the prefix; return its address there.

        Raises:
            UploadError: it was not delivered.
        """
        head, _, content = result.partition(",")
        kind = head.removeprefix("data:").partition(";")[0]
        url = f"{prefix.rstrip('/')}/output{mimetypes.guess_extension(kind) or ''}"
        pace = Pace(seconds=UPLOAD_SECONDS, rate=LEAST_RATE)
        try:
            body = await asyncio.to_thread(base64.b64decode, content)
            status = await self.send("PUT", url, body, {"Content-Type": kind}, pace, trusted=trusted)
        except (InputError, OSError, http.client.HTTPException, ValueError) as error:
            raise UploadError(f"the result cannot be sent to {url[:200]!r}: {error}") from error
        if status >= 300:
            raise UploadError(f"the result cannot be sent to {url[:200]!r}: the server answers {status}")
        return url


class Webhook:
    """A client's address for events. They arrive in order, each at most once, the last with several attempts.

    Args:
        deliveries: sends them.
        url: where to.
        events: which of start, output, logs and completed.
        headers: sent with them.
    """

    def __init__(self, deliveries: Deliveries, url: str, events: Set[str], headers: Mapping[str, str]) -> None:
        self._deliveries = deliveries
        self._url = url
        self._events = events
        self._headers = {"Content-Type": "application/json", **headers}
        if token := os.environ.get("WEBHOOK_AUTH_TOKEN"):
            self._headers["Authorization"] = f"Bearer {token}"
        self._waiting: deque[tuple[str, dict[str, Any]]] = deque()
        self._something = asyncio.Event()

    def tell(self, event: str, payload: dict[str, Any]) -> None:
        """Send an event, after those before. Waiting logs are replaced by longer ones."""
        if self._waiting and self._waiting[-1][0] == event == "logs":
            self._waiting.pop()
        self._waiting.append((event, payload))
        self._something.set()

    async def run(self) -> None:
        """Send the events until the prediction is completed."""
        event = ""
        while event != "completed":
            await self._something.wait()
            event, payload = self._waiting.popleft()
            if not self._waiting:
                self._something.clear()
            if event in self._events:
                await self._send(payload, ATTEMPTS if event == "completed" else 1)

    async def _send(self, payload: dict[str, Any], attempts: int) -> None:
        body = await asyncio.to_thread(lambda: b"".join(json_pieces(payload)))
        for attempt in range(attempts):
            if attempt:
                await asyncio.sleep(min(5.0, 0.1 * 2**attempt))
            pace = Pace(seconds=ATTEMPT_SECONDS, rate=LEAST_RATE)
            try:
                status = await self._deliveries.send("POST", self._url, body, self._headers, pace)
            except InputError as error:
                logger.warning("a webhook is not called: %s", error)
                return
            except (OSError, http.client.HTTPException, ValueError) as error:
                logger.info("a webhook did not answer: %s", first_line(error))
                continue
            if status < 500 and status not in REPEATED:
                return
