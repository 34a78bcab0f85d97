"""Limits for a server's ICE agents: the addresses they send from, and how much they send to one that never answers.

A client names the addresses at which it may be reached, and the server tries them all. Without limits it would send
hundreds of packets to any address that someone names.
"""

import ipaddress
import socket
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from personalive.errors import InputError

MAX_UNANSWERED = 20
"""The most packets in `WINDOW_SECONDS` to one address, over all connections, before it has answered."""
WINDOW_SECONDS = 60.0
MAX_ADDRESSES = 4096
"""The most addresses that are remembered."""


@dataclass
class _Traffic:
    since: float
    sent: int = 0
    allowed: int = MAX_UNANSWERED
    has_answered: bool = False


class IceLimits:
    """Limits that all connections of one server share."""

    def __init__(self, host: str, clock: Callable[[], float] = time.monotonic) -> None:
        """`host`: where media is sent from and received; `0.0.0.0` or `::` stands for every address.

        Raises:
            InputError: it is not an address.
        """
        self.addresses = _addresses(host)
        """This machine's addresses to send from and receive at; None: all."""
        self._clock = clock
        self._traffic: OrderedDict[str, _Traffic] = OrderedDict()

    @property
    def local_only(self) -> bool:
        """Whether only this machine can be reached."""
        return self.addresses is not None and all(ipaddress.ip_address(each).is_loopback for each in self.addresses)

    def may_send(self, address: str) -> bool:
        """Count a connectivity check to an address; False: the limit is reached."""
        traffic = self._of(address)
        if traffic.has_answered:
            return True
        if traffic.sent == traffic.allowed:
            return False
        traffic.sent += 1
        return True

    def heard_from(self, address: str) -> None:
        """A check came from an address, which may be forged: one more may be sent there in return."""
        self._of(address).allowed += 1

    def answered(self, address: str) -> None:
        """An address has answered a check: what goes there is wanted."""
        traffic = self._of(address)
        traffic.has_answered, traffic.since = True, self._clock()

    def _of(self, address: str) -> _Traffic:
        now = self._clock()
        traffic = self._traffic.get(address)
        if traffic is None or now - traffic.since > WINDOW_SECONDS:
            traffic = self._traffic[address] = _Traffic(now)
            self._traffic.move_to_end(address)
            if len(self._traffic) > MAX_ADDRESSES:
                self._traffic.popitem(last=False)
        return traffic


def _addresses(host: str) -> list[str] | None:
    try:
        found = {str(each[4][0]) for each in socket.getaddrinfo(host, None, type=socket.SOCK_DGRAM)}
    except OSError as error:
        raise InputError(f"{host!r} is not an address of this machine: {error}") from error
    if any(ipaddress.ip_address(each).is_unspecified for each in found):
        return None
    return sorted(found)
