"""What the hub knows of each session, and what it may refuse."""

from dataclasses import dataclass, field
from typing import Protocol

from personalive.errors import PersonaLiveError
from personalive.live.core.frames import Message
from personalive.live.core.session import Session
from personalive.live.core.statistics import DELAY_BOUNDS
from personalive.live.hub.clients import Client


class FullError(PersonaLiveError):
    """There is no room for another session."""


class NotLoadedError(PersonaLiveError):
    """The pipeline is not loaded."""


class UnknownSessionError(PersonaLiveError):
    """No such session."""


class Transport(Protocol):
    """A connection that feeds a session."""

    @property
    def connected(self) -> bool:
        """Whether it is up."""

    def send(self, message: Message) -> None:
        """Tell the client something; any thread."""

    async def close(self) -> None:
        """End the connection."""


@dataclass
class Entry:
    """A session and what the hub knows of it."""

    session: Session
    client: Client
    created: float
    transport: Transport | None = None
    detached: float | None = None
    watchers: set[Transport] = field(default_factory=set)
    opening: bool = True
    """While its state is being made on the device."""

    @property
    def pending(self) -> bool:
        """Whether nobody has connected to it yet."""
        if self.transport is None:
            return self.detached is None and not self.opening
        return not self.transport.connected


@dataclass(frozen=True)
class Totals:
    """Counters over all sessions that ever were."""

    frames_in: int = 0
    pictures_shown: int = 0
    dropped_in: int = 0
    dropped_out: int = 0
    delay_counts: tuple[int, ...] = (0,) * (len(DELAY_BOUNDS) + 1)
    """As in `Delays`."""
    delay_seconds: float = 0.0

    def plus(self, session: Session) -> "Totals":
        """These and one session's."""
        figures, delays, dropped = session.statistics, session.statistics.delays(), session.dropped
        return Totals(
            self.frames_in + figures.frames_in,
            self.pictures_shown + figures.pictures_shown,
            self.dropped_in + dropped[0],
            self.dropped_out + dropped[1],
            tuple(a + b for a, b in zip(self.delay_counts, delays.counts, strict=True)),
            self.delay_seconds + delays.total,
        )
