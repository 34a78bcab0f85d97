"""Which connections feed a session and which watch it, and how their coming and going changes its state.

Everything here happens in the event loop.
"""

import asyncio
import secrets
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Protocol, TypeVar

from personalive.live.core.frames import Message
from personalive.live.hub.clients import Client
from personalive.live.hub.entries import Entry, FullError, SessionState, Transport, UnknownSessionError

MAX_VIEWERS = 4
"""The most viewers of one session."""
STREAM_STOPPED: Message = {"type": "stream_stopped"}


class Watchable(Protocol):
    """What is known of a session: here, or by the front of several servers."""

    client: Client
    state: SessionState
    since: float
    """As in `Entry`."""


W = TypeVar("W", bound=Watchable)


def watched(entries: Iterable[W], watch_id: str) -> W | None:
    """The session that a watch id shows now: the latest of its client's that is connected."""
    wanted = watch_id.encode()
    shown = [
        entry
        for entry in entries
        if entry.state is SessionState.CONNECTED and secrets.compare_digest(entry.client.watch_id.encode(), wanted)
    ]
    return max(shown, key=lambda entry: entry.since, default=None)


def latest(entries: Iterable[W], client: Client) -> W | None:
    """The session that a client, or who may act for it, would mean: the latest of those that are connected."""
    there = list(entries)
    own = [each for each in there if client.is_same(each.client)]
    if not own and not client.has_cookie:  # a program that has only a token
        own = [each for each in there if client.may_control(each.client)]
    return max(own, key=lambda entry: (entry.state is SessionState.CONNECTED, entry.since), default=None)


class Connections:
    """Moves sessions from state to state as their connections come up and go."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._closing: set[asyncio.Task[None]] = set()

    def attach(self, entry: Entry, transport: Transport) -> None:
        """Let a connection feed a session; the one before it is closed.

        Raises:
            UnknownSessionError: the session has ended in the meantime.
        """
        if entry.session.closed:
            raise UnknownSessionError(f"the session {entry.session.identifier} has ended")
        before, entry.transport = entry.transport, transport
        entry.session.on_message = transport.send
        self._move(entry, SessionState.CONNECTED if transport.connected else SessionState.OPENING)
        if before is not None:
            self.spawn(before.close())

    def came_up(self, entry: Entry, transport: Transport) -> None:
        """A connection is up: pictures can flow."""
        if entry.transport is transport:
            self._move(entry, SessionState.CONNECTED)

    def detach(self, entry: Entry, transport: Transport) -> None:
        """A connection is gone: a viewer's, or the session's own, which then waits for another."""
        if transport in entry.viewers:
            entry.viewers.remove(transport)
        if entry.transport is transport:
            entry.transport = None
            entry.session.on_message = lambda message: None
            self._move(entry, SessionState.DETACHED)

    def watch(self, entry: Entry, transport: Transport) -> None:
        """Let a connection watch a session; the oldest of those that never came up gives way.

        Raises:
            FullError: there are enough viewers already.
        """
        if len(entry.viewers) >= MAX_VIEWERS:
            unconnected = next((viewer for viewer in entry.viewers if not viewer.connected), None)
            if unconnected is None:
                raise FullError(f"there are {MAX_VIEWERS} viewers already, which is the limit")
            entry.viewers.remove(unconnected)
            self.spawn(unconnected.close())
        entry.viewers.append(transport)

    def tell_viewers(self, entry: Entry) -> None:
        """Let a session's viewers know whether there is something to see now."""
        for viewer in entry.viewers:
            viewer.send({"type": "stream", "live": entry.is_shown})

    def end(self, entry: Entry) -> None:
        """The session has ended: its viewers hear of it, and all of its connections are closed."""
        entry.move_to(SessionState.CLOSING, self._clock())
        for viewer in entry.viewers:
            viewer.send(STREAM_STOPPED)
        for transport in [*entry.viewers, *([entry.transport] if entry.transport else [])]:
            self.spawn(transport.close())

    def spawn(self, closing: Coroutine[Any, Any, None]) -> None:
        """Close a connection in the background."""
        task = asyncio.ensure_future(closing)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    @property
    def are_closed(self) -> bool:
        """Whether no connection is being closed at the moment."""
        return not self._closing

    async def wait_closed(self) -> None:
        """Wait for those that are being closed."""
        while self._closing:
            await asyncio.gather(*self._closing, return_exceptions=True)

    def _move(self, entry: Entry, state: SessionState) -> None:
        """Change a session's state unless it has ended, and let its viewers know whether pictures flow."""
        if state is entry.state or entry.state is SessionState.CLOSING:
            return
        was_shown = entry.is_shown
        entry.move_to(state, self._clock())
        if was_shown != entry.is_shown:
            self.tell_viewers(entry)
