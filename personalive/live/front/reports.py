"""What a worker tells the front, and the front a worker, over the connection between the two processes."""

import time
from dataclasses import dataclass, field

from personalive.live.core.frames import Message
from personalive.live.core.parameters import LoadParameters, Parameters
from personalive.live.hub.clients import Client
from personalive.live.hub.entries import Entry, SessionState
from personalive.live.hub.loader import LoadState


@dataclass(frozen=True)
class SessionReport:
    """One session of a worker."""

    identifier: str
    client: Client
    state: SessionState
    since: float
    """As in `Entry`."""
    parameters: Parameters

    @classmethod
    def of(cls, entry: Entry) -> "SessionReport":
        """What is to be said about an entry of the hub."""
        session = entry.session
        return cls(session.identifier, entry.client, entry.state, entry.since, session.parameters)


@dataclass(frozen=True)
class Report:
    """The state of a worker that answers requests."""

    loading: LoadState
    sessions: tuple[SessionReport, ...]
    limit: int
    """The most sessions that it takes."""
    call_seconds: float | None
    """See `placement.call_seconds`."""
    now: float = field(default_factory=time.monotonic, compare=False)
    """When that was, by the worker's clock, which on another machine says something else than the front's."""


@dataclass(frozen=True)
class Load:
    """Order: load the model."""

    parameters: LoadParameters


@dataclass(frozen=True)
class Tell:
    """Order: send a message to a session's client."""

    identifier: str
    message: Message


Order = Load | Tell
