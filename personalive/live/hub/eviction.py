"""Which sessions give way when another is opened, and which are no longer used."""

from collections import Counter
from collections.abc import Iterable

from personalive.live.hub.clients import Client
from personalive.live.hub.entries import Entry, SessionState
from personalive.live.options import ServeOptions

CONNECT_SECONDS = 20.0
"""Seconds after which a session whose connection is not up is closed."""
GRACE_SECONDS = 3.0
"""Seconds to connect during which a session does not give way to other clients."""
PAUSED_FACTOR = 10
"""A paused session may be idle this many times longer."""


def sessions_to_evict(entries: Iterable[Entry], client: Client, limit: int, now: float) -> list[Entry]:
    """Sessions without a connection that are closed because a client opens another.

    The client's own always give way: it has at most one of these. Of the others, one gives way when all of `limit`
    sessions are in use: the oldest that has had its time to connect (or, whatever its age, one of an address that holds
    more than half of the room with such sessions, unless the newcomer comes from there), else the one whose connection
    has been gone for longest.
    """
    entries = list(entries)
    opening = _in_state(entries, SessionState.OPENING)
    detached = _in_state(entries, SessionState.DETACHED)
    own = [entry for entry in [*opening, *detached] if entry.client.is_same(client)]
    if own or len(entries) < limit:
        return own
    held = Counter(entry.client.address for entry in opening)
    greedy = {address for address, count in held.items() if count > limit / 2 and address != client.address}
    overdue = [each for each in opening if each.since < now - GRACE_SECONDS or each.client.address in greedy]
    return [*overdue, *detached][:1]


def reason_to_end(entry: Entry, options: ServeOptions, now: float) -> str | None:
    """Why a session is to be closed, or None."""
    elapsed = now - entry.since
    if entry.state is SessionState.OPENING and elapsed > CONNECT_SECONDS:
        return f"nobody connected within {CONNECT_SECONDS:g} seconds"
    if entry.state is SessionState.DETACHED and elapsed > options.linger_seconds:
        return "the connection was lost"
    patience = options.idle_seconds * (PAUSED_FACTOR if entry.session.parameters.paused else 1)
    if entry.state is SessionState.CONNECTED and now - max(entry.since, entry.session.last_frame) > patience:
        return f"no camera frame came for {patience:g} seconds"
    return None


def _in_state(entries: Iterable[Entry], state: SessionState) -> list[Entry]:
    return sorted((entry for entry in entries if entry.state is state), key=lambda entry: entry.since)
