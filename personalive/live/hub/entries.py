"""What the hub knows about each session, its state, and what the hub may refuse."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from personalive.errors import PersonaLiveError
from personalive.live.core.frames import Message
from personalive.live.core.session import Session
from personalive.live.core.statistics import DELAY_BOUNDS
from personalive.live.hub.clients import Client


class FullError(PersonaLiveError):
    """There is no room for another session or viewer."""


class NotLoadedError(PersonaLiveError):
    """The pipeline is not loaded."""


class UnknownSessionError(PersonaLiveError):
    """No such session."""


class NotYoursError(PersonaLiveError):
    """The session belongs to another client."""


class Transport(Protocol):
    """A connection that feeds a session, or shows it to a viewer."""

    @property
    def connected(self) -> bool:
        """Whether it is up."""

    def send(self, message: Message) -> None:
        """Send the client a message; any thread."""

    async def close(self) -> None:
        """End the connection."""


class SessionState(Enum):
    """Where a session stands between its opening and its end."""

    OPENING = "opening"
    """It waits for a connection that is not up yet; at first its state is being created on the device."""
    CONNECTED = "connected"
    """A connection is up that may feed it."""
    DETACHED = "detached"
    """Its connection is gone; the client may come back with another."""
    CLOSING = "closing"
    """It has ended and is no longer used."""


TRANSITIONS: Mapping[SessionState, frozenset[SessionState]] = {
    SessionState.OPENING: frozenset({SessionState.CONNECTED, SessionState.DETACHED, SessionState.CLOSING}),
    # to OPENING: another connection, not up yet, replaces the last one
    SessionState.CONNECTED: frozenset({SessionState.OPENING, SessionState.DETACHED, SessionState.CLOSING}),
    SessionState.DETACHED: frozenset({SessionState.OPENING, SessionState.CONNECTED, SessionState.CLOSING}),
    SessionState.CLOSING: frozenset(),
}
"""Which states may follow each state."""


@dataclass(eq=False)
class Entry:
    """A session and what the hub knows about it."""

    session: Session
    client: Client
    since: float
    """When it entered its present state, in seconds on the hub's clock."""
    state: SessionState = SessionState.OPENING
    transport: Transport | None = None
    viewers: list[Transport] = field(default_factory=list)
    """Connections that only watch, oldest first."""

    @property
    def is_shown(self) -> bool:
        """Whether viewers see the animation."""
        return self.state is SessionState.CONNECTED and not self.session.parameters.hidden

    def move_to(self, state: SessionState, now: float) -> None:
        """Change the state.

        Raises:
            ValueError: that state cannot follow the present one.
        """
        if state not in TRANSITIONS[self.state]:
            raise ValueError(f"a session that is {self.state.value} cannot become {state.value}")
        self.state, self.since = state, now


@dataclass(frozen=True)
class Totals:
    """Counters over all sessions that ever existed."""

    frames_in: int = 0
    pictures_shown: int = 0
    dropped_in: int = 0
    dropped_out: int = 0
    delay_counts: tuple[int, ...] = (0,) * (len(DELAY_BOUNDS) + 1)
    """As in `Delays`."""
    delay_seconds: float = 0.0

    def plus(self, session: Session) -> "Totals":
        """These plus one session's."""
        figures, delays, dropped = session.statistics, session.statistics.delays(), session.dropped
        return Totals(
            self.frames_in + figures.frames_in,
            self.pictures_shown + figures.pictures_shown,
            self.dropped_in + dropped[0],
            self.dropped_out + dropped[1],
            tuple(a + b for a, b in zip(self.delay_counts, delays.counts, strict=True)),
            self.delay_seconds + delays.total,
        )
