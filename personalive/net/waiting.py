"""Connections that wait for their client share a limit; beyond it, the oldest are closed."""

import ipaddress
from typing import Protocol

MAX_WAITING = 256
"""The most connections that may wait for their clients."""
MAX_HELD = 256 * 2**20
"""The most bytes of unfinished requests' bodies in memory."""


class Visitor(Protocol):
    """A connection that may be in the waiting room."""

    @property
    def address(self) -> str:
        """The client's address."""

    def give_way(self) -> None:
        """End at once; it has already left the room."""


class WaitingRoom:
    """Connections that wait for a handshake, a request, the rest of one, or for their answer to be taken.

    If there are too many, the address with most of them loses the one that has waited longest. So a client with many
    idle connections displaces itself first. If all come from one address, as behind a proxy, those that do nothing
    give way to those that speak.
    """

    def __init__(self, limit: int = MAX_WAITING, max_held: int = MAX_HELD) -> None:
        self._limit = limit
        self._max_held = max_held
        self._queues: dict[str, dict[Visitor, None]] = {}
        """By address, each with the oldest first."""
        self._count = 0
        self._held: dict[Visitor, int] = {}
        """Bytes of bodies, with the oldest body first."""
        self._held_bytes = 0
        self.given_way = 0
        """Connections that were ended to make room."""

    def __len__(self) -> int:
        return self._count

    def enter(self, visitor: Visitor) -> None:
        """Join the waiting connections; another one may have to give way."""
        self._queues.setdefault(group(visitor.address), {})[visitor] = None
        self._count += 1
        if self._count > self._limit:
            greediest = max(self._queues.values(), key=len)
            self._send_away(next(iter(greediest)))

    def leave(self, visitor: Visitor) -> None:
        """Stop waiting; does nothing for one that is not waiting."""
        name = group(visitor.address)
        queue = self._queues.get(name, {})
        if visitor in queue:
            del queue[visitor]
            self._count -= 1
            if not queue:
                del self._queues[name]

    def hold(self, visitor: Visitor, size: int) -> None:
        """Account for bytes of a body in memory; the oldest incomplete body may have to give way."""
        self._held[visitor] = self._held.get(visitor, 0) + size
        self._held_bytes += size
        if self._held_bytes > self._max_held:
            unfinished = (each for each in self._held if each in self._queues.get(group(each.address), {}))
            self._send_away(next(unfinished, visitor))

    def release(self, visitor: Visitor) -> None:
        """The body of a request is no longer in memory."""
        self._held_bytes -= self._held.pop(visitor, 0)

    def _send_away(self, visitor: Visitor) -> None:
        self.leave(visitor)
        self.release(visitor)
        self.given_way += 1
        visitor.give_way()


def group(address: str) -> str:
    """What counts as one address: for IPv6 the network, as each client has a whole one to itself."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.version == 4:
        return address
    return str(parsed.ipv4_mapped or ipaddress.ip_network((parsed, 64), strict=False))
