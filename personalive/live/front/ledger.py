"""What the front remembers: where each session is, and what a client needs to go on elsewhere.

Everything here is bounded: sessions by the workers' limits, clients as in a single server, pictures by their bytes.
"""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from personalive.live.core.parameters import Parameters
from personalive.live.front.reports import SessionReport
from personalive.live.hub.clients import MAX_PER_ADDRESS, MAX_PORTRAITS, Client, ClientStore
from personalive.live.hub.entries import SessionState

MAX_PICTURES = 256 * 2**20
"""Bytes of all portraits that are remembered."""
LOST_SECONDS = 120.0
"""For which a client may come back whose worker has died."""
UNREPORTED_SECONDS = 3.0
"""Within which a worker reports a session that it has opened."""


class Pictures:
    """Files of portraits by their content, so that one of which many make use is kept once; the oldest give way."""

    def __init__(self, most: int = MAX_PICTURES) -> None:
        self._most = most
        self._size = 0
        self._kept: OrderedDict[str, bytes] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def put(self, data: bytes) -> str:
        """Keep a file; return the name by which `get` finds it."""
        name = hashlib.sha256(data).hexdigest()
        if name not in self._kept:
            self._kept[name] = data
            self._size += len(data)
        self._kept.move_to_end(name)
        while self._size > self._most:
            _, oldest = self._kept.popitem(last=False)
            self._size -= len(oldest)
        return name

    def get(self, name: str) -> bytes | None:
        """A file, or None if it gave way to others."""
        if name in self._kept:
            self._kept.move_to_end(name)
        return self._kept.get(name)


@dataclass(frozen=True)
class Portrait:
    """A portrait as a client has sent it."""

    picture: str
    """Its name in `Pictures`."""
    media_type: str
    query: bytes
    """Of the request, which says what of it is meant."""


@dataclass
class Known:
    """What is remembered of a client."""

    home: str | None = None
    """The worker that had its last session."""
    portrait: Portrait | None = None
    shown_to: set[str] = field(default_factory=set)
    """Workers that have this portrait."""


@dataclass(eq=False)
class Placed:
    """A session, as the front knows it."""

    identifier: str
    worker: str
    client: Client
    since: float
    """As in `Entry`, by the front's clock."""
    placed: float
    """When the front heard of it."""
    state: SessionState = SessionState.OPENING
    parameters: Parameters = field(default_factory=Parameters)
    portrait: Portrait | None = None
    reported: bool = False
    """Whether its worker has reported it."""


class Ledger:
    """Sessions and clients of all workers; workers are named by texts that are never used again."""

    def __init__(self, workers: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.sessions: dict[str, Placed] = {}
        self.pictures = Pictures()
        self._clock = clock
        self._clients = ClientStore(MAX_PORTRAITS * workers, MAX_PER_ADDRESS * workers, clock)
        self._lost: OrderedDict[str, tuple[float, Placed]] = OrderedDict()

    # ---- clients ----

    def known(self, client: Client) -> Known:
        """What is remembered of a client; change it by `remember`."""
        found: Known | None = self._clients.get(client)
        return found or Known()

    def remember(self, client: Client, known: Known) -> None:
        """Keep it."""
        self._clients.put(client, known)

    def home(self, watch_id: str) -> str | None:
        """The worker that had the last session of the client with this watch id."""
        found: Known | None = self._clients.watched(watch_id)
        return found.home if found else None

    def of(self, client: Client) -> list[Placed]:
        """A client's sessions."""
        return [each for each in self.sessions.values() if each.client.is_same(client)]

    # ---- sessions ----

    def on(self, worker: str) -> list[Placed]:
        """A worker's sessions."""
        return [each for each in self.sessions.values() if each.worker == worker]

    def opened(self, identifier: str, worker: str, client: Client, portrait: Portrait | None) -> None:
        """A worker has answered that it has opened a session."""
        now = self._clock()
        placed = self.sessions.setdefault(identifier, Placed(identifier, worker, client, now, now))
        placed.portrait = portrait

    def reported(self, worker: str, sessions: Iterable[SessionReport], ahead: float = 0.0) -> None:
        """A worker has reported all of its sessions, by a clock that is so many seconds ahead of this one."""
        now = self._clock()
        there = set()
        for each in sessions:
            there.add(each.identifier)
            if each.identifier not in self.sessions:  # by WHIP, whose answer does not say its id in a form of ours
                self._settle(each.client, worker)
            since = each.since - ahead
            placed = self.sessions.setdefault(each.identifier, Placed(each.identifier, worker, each.client, since, now))
            placed.client, placed.state, placed.since = each.client, each.state, since
            placed.parameters, placed.reported = each.parameters, True
        for placed in self.on(worker):
            overdue = placed.reported or now - placed.placed > UNREPORTED_SECONDS
            if placed.identifier not in there and overdue:
                del self.sessions[placed.identifier]

    def _settle(self, client: Client, worker: str) -> None:
        known = self.known(client)
        known.home = worker
        self.remember(client, known)

    def lose(self, worker: str) -> list[Placed]:
        """A worker has died: its sessions end, and are remembered for clients that come back."""
        now = self._clock()
        ended = self.on(worker)
        for placed in ended:
            del self.sessions[placed.identifier]
            self._lost[placed.identifier] = (now, placed)
        self._forget_lost(now)
        return ended

    def lost(self, identifier: str) -> Placed | None:
        """A session whose worker has died."""
        self._forget_lost(self._clock())
        _, placed = self._lost.get(identifier, (0.0, None))
        return placed

    def _forget_lost(self, now: float) -> None:
        while self._lost and next(iter(self._lost.values()))[0] < now - LOST_SECONDS:
            self._lost.popitem(last=False)

    def found_again(self, identifier: str) -> None:
        """Its client has another session in its place."""
        self._lost.pop(identifier, None)
