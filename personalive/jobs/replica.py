"""A process with the model, which makes one job after the other: what Ray Serve starts, watches and replaces."""

import asyncio
import sys
import threading
import traceback
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from personalive.errors import PersonaLiveError
from personalive.jobs.work import Event, Failed, Line, Made, Make, Prepare, Reporter, StoppedError


class Replica:
    """The process.

    Args:
        prepare: loads the model.
    """

    def __init__(self, prepare: Prepare) -> None:
        self._thread = ThreadPoolExecutor(1, "job")  # the one in which the model is loaded and used
        self._error = ""
        try:
            self._make: Make = self._thread.submit(prepare).result()
        except PersonaLiveError as error:  # Ray would start the process again and again
            self._error = str(error)

    async def setup_error(self) -> str:
        """Why no job can be made; empty if they can."""
        return self._error

    async def run(self, inputs: Mapping[str, Any]) -> AsyncIterator[Event]:
        """Make a job. Cancellation takes effect after the chunk that is being computed."""
        if self._error:
            yield Failed(self._error)
            return
        loop, events, unwanted = asyncio.get_running_loop(), asyncio.Queue[Event](), threading.Event()

        def check() -> None:
            if unwanted.is_set():
                raise StoppedError

        def tell(event: Event) -> None:
            loop.call_soon_threadsafe(events.put_nowait, event)

        reporter = Reporter(lambda line: tell(Line(line)), check)
        working = loop.run_in_executor(self._thread, lambda: tell(self._outcome(inputs, reporter)))
        try:
            while True:
                event = await events.get()
                yield event
                if isinstance(event, Made | Failed):
                    break
        finally:
            unwanted.set()
            await asyncio.wait([working])

    def _outcome(self, inputs: Mapping[str, Any], reporter: Reporter) -> Event:
        try:
            return self._make(inputs, reporter)
        except PersonaLiveError as error:
            return Failed(str(error))
        except Exception:
            print(traceback.format_exc(), file=sys.stderr, flush=True)
            return Failed("internal server error; see the server's log")
