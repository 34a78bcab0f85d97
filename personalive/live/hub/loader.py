"""Loads the model in the background and reports its progress."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from personalive.errors import PersonaLiveError
from personalive.live.core.engine import Engine
from personalive.live.core.parameters import LoadParameters

logger = logging.getLogger(__name__)

PIPELINE = "personalive"
"""The one pipeline of this server; which weights it uses is the operator's choice."""

STOP_SECONDS = 20.0
"""The longest that a server waits for the end of a stage when it ends."""

Status = Literal["not_loaded", "loading", "loaded", "error"]


EngineFactory = Callable[[LoadParameters, Callable[[str], None]], Engine]
"""Makes the engine; called in the loading thread with a function that takes the name of the current stage."""


class _StoppedError(Exception):
    """The server ends."""


class BusyError(PersonaLiveError):
    """The pipeline cannot be loaded with other parameters now."""


@dataclass(frozen=True)
class LoadState:
    """The progress of loading."""

    status: Status
    parameters: LoadParameters | None = None
    stage: str | None = None
    error: str | None = None

    @property
    def sentence(self) -> str:
        """The answer to a client that wants to use the pipeline before it is loaded."""
        if self.status == "loading":
            return f"the model is being loaded ({self.stage}): try again in a moment"
        if self.status == "error":
            return f"the pipeline could not be loaded: {self.error}"
        return "the pipeline is not loaded: load it first"


class Loader:
    """One model at a time, loaded in a thread of its own."""

    def __init__(self, factory: EngineFactory, on_loaded: Callable[[Engine], None]) -> None:
        """`on_loaded` is called in the loading thread before the status becomes `loaded`."""
        self._factory = factory
        self._on_loaded = on_loaded
        self._state = LoadState("not_loaded")
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stopping = False

    @property
    def state(self) -> LoadState:
        """The progress of loading."""
        return self._state

    def load(self, parameters: LoadParameters, sessions: int) -> str:
        """Start loading; return the answer to the client.

        Raises:
            BusyError: it is loading or in use with other parameters.
        """
        with self._lock:
            if self._stopping:
                raise BusyError("the server is shutting down")
            now = self._state
            same = now.parameters == parameters
            if same and now.status in ("loading", "loaded"):
                return f"the pipeline is {'already loaded' if now.status == 'loaded' else 'already being loaded'}"
            if now.status == "loading":
                raise BusyError("the pipeline is being loaded with other parameters: wait until that is done")
            if now.status == "loaded" and sessions:
                raise BusyError(
                    f"{sessions} session{'s are' if sessions > 1 else ' is'} using the pipeline with other parameters "
                    f"({now.parameters and now.parameters.to_dict()}): try again once they have ended"
                )
            self._state = LoadState("loading", parameters, "starting")
            self._thread = threading.Thread(target=self._run, args=(parameters,), name="live-load", daemon=True)
            self._thread.start()
        return "the pipeline is being loaded"

    def wait(self) -> None:
        """Wait until loading is done, if it has started."""
        if self._thread is not None:
            self._thread.join()

    def stop(self) -> None:
        """Load nothing any more, and wait for what is under way: a process that ends beneath a network aborts.

        Not for ever: a stage may be a download, which may be ended at any time.
        """
        with self._lock:
            self._stopping = True
            thread = self._thread
        if thread is not None:
            thread.join(STOP_SECONDS)

    def _run(self, parameters: LoadParameters) -> None:
        def at_stage(stage: str) -> None:
            if self._stopping:
                raise _StoppedError
            self._state = LoadState("loading", parameters, stage)

        try:
            engine = self._factory(parameters, at_stage)
            if self._stopping:
                raise _StoppedError
            self._on_loaded(engine)
        except _StoppedError:
            self._state = LoadState("not_loaded")
        except PersonaLiveError as error:
            logger.error("loading failed: %s", error)
            self._state = LoadState("error", parameters, error=str(error))
        except Exception:
            logger.exception("loading failed")
            self._state = LoadState("error", parameters, error="loading failed; the server's log says more")
        else:
            self._state = LoadState("loaded", parameters)
