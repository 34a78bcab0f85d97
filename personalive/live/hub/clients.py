"""Client identity and chosen portraits, bounded so that no client can exhaust memory or evict others."""

import hashlib
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

COOKIE = "personalive_client"
"""Name of the cookie by which a client is recognised."""
MAX_PORTRAITS = 64
"""The most portraits that wait for their client's next offer."""
MAX_PER_ADDRESS = 16
"""The most of them from one address."""
KEEP_SECONDS = 3600.0
"""Seconds for which a portrait is kept after its last use."""


@dataclass(frozen=True)
class Client:
    """The sender of a request, with every name by which it may be recognised.

    A client with a cookie is recognised by that alone. One without is given a cookie, but may not send it back, so it
    is also recognised by its token and address.
    """

    address: str
    has_cookie: bool
    cookie_key: str
    address_key: str
    """Of address and token together."""
    token_key: str | None
    watch_id: str
    """With this, others can watch the client's sessions and do nothing else; always the same for one cookie."""
    key: str = field(repr=False)
    """With this, other programs act as this client, which keeps the cookie itself; always the same for one cookie."""

    @classmethod
    def known(cls, cookie: str, address: str, token: str | None = None) -> "Client":
        """A client that sent its cookie."""
        return cls._of(key_of(cookie), token, address, has_cookie=True)

    @classmethod
    def by_key(cls, key: str, address: str, token: str | None = None) -> "Client":
        """A program that sent a client's key: a stream deck, or OBS."""
        return cls._of(key, token, address, has_cookie=True)

    @classmethod
    def new(cls, cookie: str, token: str | None, address: str) -> "Client":
        """A client that is given a cookie now."""
        return cls._of(key_of(cookie), token, address, has_cookie=False)

    @classmethod
    def _of(cls, key: str, token: str | None, address: str, *, has_cookie: bool) -> "Client":
        return cls(
            address,
            has_cookie,
            cookie_key=_digest(f"cookie {key}"),
            address_key=_digest(f"address {address} {token or ''}"),
            token_key=_digest(f"token {token}") if token else None,
            watch_id=_digest(f"watch {key}"),
            key=key,
        )

    @property
    def keys(self) -> tuple[str, ...]:
        """The names by which its next request may be recognised."""
        return (self.cookie_key,) if self.has_cookie else (self.cookie_key, self.address_key)

    def is_same(self, other: "Client") -> bool:
        """Whether two requests came from one client."""
        return not set(self.keys).isdisjoint(other.keys)

    def may_control(self, owner: "Client") -> bool:
        """Whether this client may control a session that `owner` opened and whose id it knows.

        It has the owner's cookie or token. If the owner has sent no cookie, its address will do, as it may only later
        have kept the cookie that it was given.
        """
        if self.token_key is not None and self.token_key == owner.token_key:
            return True
        if not owner.has_cookie and self.address_key == owner.address_key:
            return True
        return self.cookie_key == owner.cookie_key


def key_of(cookie: str) -> str:
    """A client's key, from which its cookie cannot be found."""
    return _digest(f"key {cookie}")


def new_cookie() -> str:
    """A value for `COOKIE` that cannot be guessed."""
    return secrets.token_urlsafe(24)


def _digest(value: str) -> str:
    return hashlib.sha256(value.encode()).hexdigest()[:32]


@dataclass
class _Kept:
    value: Any
    client: Client
    used: float


class ClientStore:
    """One value for each client; the least recently used give way, those of the same address first."""

    def __init__(
        self,
        capacity: int = MAX_PORTRAITS,
        per_address: int = MAX_PER_ADDRESS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._capacity = capacity
        self._per_address = per_address
        self._clock = clock
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def put(self, client: Client, value: Any) -> None:
        """Keep a value in place of the client's last one."""
        with self._lock:
            self._expire()
            kept = _Kept(value, client, self._clock())
            for key in client.keys:
                self._kept.pop(key, None)
                self._make_room(client.address)
                self._kept[key] = kept

    def get(self, client: Client) -> Any:
        """The client's value, or None."""
        with self._lock:
            self._expire()
            key = next((key for key in client.keys if key in self._kept), None)
            if key is None:
                return None
            kept = self._kept[key]
            kept.used = self._clock()
            self._kept.move_to_end(key)
            if client.has_cookie:
                self._forget_address(kept, key)
            return kept.value

    def watched(self, watch_id: str) -> Any:
        """The value of the client whose watch id this is, or None."""
        wanted = watch_id.encode()
        with self._lock:
            self._expire()
            every = list(self._kept.values())
        found = [kept for kept in every if secrets.compare_digest(kept.client.watch_id.encode(), wanted)]
        return found[-1].value if found else None

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._kept.clear()

    def _forget_address(self, kept: _Kept, cookie_key: str) -> None:
        """A client that sends its cookie back no longer needs its address: another one there must not get its value."""
        for key in kept.client.keys:
            if key != cookie_key and self._kept.get(key) is kept:
                del self._kept[key]

    def _make_room(self, address: str) -> None:
        same = [key for key, kept in self._kept.items() if kept.client.address == address]
        if len(same) >= self._per_address:
            del self._kept[same[0]]
        elif len(self._kept) >= self._capacity:
            self._kept.popitem(last=False)

    def _expire(self) -> None:
        limit = self._clock() - KEEP_SECONDS
        for key in [key for key, kept in self._kept.items() if kept.used < limit]:
            del self._kept[key]
