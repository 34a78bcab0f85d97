"""Who gives way when a server is full, and which sessions nobody uses any more."""

from collections import Counter
from collections.abc import Iterable

from personalive.live.hub.clients import Client
from personalive.live.hub.entries import Entry
from personalive.live.options import ServeOptions

CONNECT_SECONDS = 20.0
"""A session that nobody connected to for so long is closed."""
GRACE_SECONDS = 3.0
"""Time to connect in which a session does not give way to others."""
PAUSED_FACTOR = 10
"""A paused session may be idle for so many times longer."""


def who_gives_way(entries: Iterable[Entry], client: Client, limit: int, now: float) -> list[Entry]:
    """Sessions that nobody has connected to, and that are closed when a client opens another.

    A client has one of these at most. When all of `limit` sessions are in use, one gives way that has had its time, or,
    for a newcomer from elsewhere, one of an address that holds more than half of the room with them.
    """
    entries = list(entries)
    pending = sorted((entry for entry in entries if entry.pending), key=lambda entry: entry.created)
    own = [entry for entry in pending if entry.client.is_same(client)]
    if own or len(entries) < limit:
        return own
    held = Counter(entry.client.address for entry in pending)
    greedy = {address for address, count in held.items() if count > limit / 2 and address != client.address}
    return [each for each in pending if each.created < now - GRACE_SECONDS or each.client.address in greedy][:1]


def reason_to_end(entry: Entry, options: ServeOptions, now: float) -> str | None:
    """Why a session is to be closed, or None."""
    if entry.pending and now - entry.created > CONNECT_SECONDS:
        return f"nobody connected within {CONNECT_SECONDS:g} seconds"
    if entry.detached is not None and now - entry.detached > options.linger_seconds:
        return "the connection was lost"
    patience = options.idle_seconds * (PAUSED_FACTOR if entry.session.parameters.paused else 1)
    if entry.transport is not None and now - entry.session.last_frame > patience:
        return f"no camera frame came for {patience:g} seconds"
    return None
