"""All sessions of a server: who may open one, what belongs to whom, and when one ends.

The hub belongs to the event loop: every method is called there unless it says otherwise.
"""

import asyncio
import itertools
import logging
import secrets
import threading
import time
from collections.abc import Callable
from typing import Any

from personalive.errors import DeviceMemoryError, InputError
from personalive.live.core import garbage
from personalive.live.core.commands import SessionEndedError
from personalive.live.core.engine import Engine
from personalive.live.core.faces import FaceFinder, Faces, Wanted
from personalive.live.core.parameters import LoadParameters, Parameters
from personalive.live.core.scheduler import Scheduler
from personalive.live.core.session import Session
from personalive.live.hub.clients import Client, ClientStore
from personalive.live.hub.connections import Connections, latest
from personalive.live.hub.entries import (
    Entry,
    FullError,
    NotLoadedError,
    NotYoursError,
    SessionState,
    Totals,
    UnknownSessionError,
)
from personalive.live.hub.eviction import reason_to_end, sessions_to_evict
from personalive.live.hub.loader import EngineFactory, Loader
from personalive.live.hub.portrait import Portraits, show
from personalive.live.hub.rates import RequestRate
from personalive.live.hub.speed import Speed, speed_of
from personalive.live.options import ServeOptions
from personalive.types import FractionBox, RGBArray

logger = logging.getLogger(__name__)

SWEEP_SECONDS = 0.25
"""Between two looks for what ended connections leave behind. Looking takes 10 ms, for hundreds of connections; freeing
what a flood of offers leaves behind in a second takes a tenth of a second, in which no picture moves."""
SWEEPS_PER_LOOK = 2
"""As many of them to each look for unused sessions."""

LOOKS_PER_SECOND = 10.0
"""Looking for a face takes 10 ms of a thread."""
MAX_SNAPSHOTS = 8
"""Snapshots are large: tens to hundreds of megabytes each."""


class Hub:
    """The sessions of one server over one model."""

    def __init__(
        self,
        options: ServeOptions,
        factory: EngineFactory,
        faces: Faces | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.options = options
        self.loader = Loader(factory, self._take_engine)
        self.scheduler: Scheduler | None = None
        self.entries: dict[str, Entry] = {}
        self.connections = Connections(clock)
        self.sessions_opened = 0
        self.refused = 0
        self._ended_totals = Totals()
        self._engine: Engine | None = None
        self._faces = faces
        self._clock = clock
        self._portraits = Portraits(faces)
        self.offers = RequestRate(options.offer_rate, clock)
        """How often one address may offer a connection."""
        self.looks = RequestRate(LOOKS_PER_SECOND, clock)
        """How often one address may ask whether a face is seen."""
        self._stills = ClientStore()
        self._snapshots = ClientStore(capacity=MAX_SNAPSHOTS, per_address=MAX_SNAPSHOTS // 2)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: int | None = None
        """Where the loop runs."""
        self._sweeper: asyncio.Task[None] | None = None
        self._left_behind = False

    async def start(self) -> None:
        """Start serving, and start loading the model if that is wanted."""
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        self._sweeper = asyncio.create_task(self._sweep_for_ever())
        if self.options.load_at_start:
            self.loader.load(LoadParameters(), 0)

    async def stop(self) -> None:
        """End every session and the model's threads."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        for entry in list(self.entries.values()):
            entry.session.close("the server is shutting down")
            self._forget(entry.session)
        await self.connections.wait_closed()
        await asyncio.to_thread(self.loader.stop)
        if self.scheduler is not None:
            await asyncio.to_thread(self.scheduler.stop)
        self._portraits.stop()

    def load(self, parameters: LoadParameters) -> str:
        """Load the pipeline in the background.

        Raises:
            BusyError: sessions use it with other parameters.
        """
        return self.loader.load(parameters, len(self.entries))

    @property
    def engine(self) -> Engine:
        """The loaded model.

        Raises:
            NotLoadedError: there is none yet.
        """
        if self._engine is None or self.loader.state.status != "loaded":
            raise NotLoadedError(self.loader.state.sentence)
        return self._engine

    def totals(self) -> Totals:
        """Counters over all sessions, including those that have ended."""
        totals = self._ended_totals
        for entry in self.entries.values():
            totals = totals.plus(entry.session)
        return totals

    # ---- portraits ----

    async def set_portrait(
        self, client: Client, data: bytes, wanted: Wanted, *, show_now: bool = True
    ) -> tuple[int, tuple[str, ...]]:
        """Keep a client's portrait for its next session and show it in its running ones.

        Args:
            client: its sender.
            data: the picture's file.
            wanted: which part of it.
            show_now: False leaves the running ones as they are.

        Returns:
            How many these are, and what the portrait's owner should know about it.

        Raises:
            NotLoadedError, InputError, NoFaceError: nothing was changed.
            DeviceMemoryError: the portrait could not be prepared, or is kept but not shown in every session; the
                message says which.
        """
        prepared = await self._portraits.read(data, wanted, self.engine)
        self._portraits.keep(client, prepared.chosen)
        running = [entry.session for entry in self.entries.values() if show_now and entry.client.is_same(client)]
        if running:
            self._stills.put(client, prepared.still)
        return await show(prepared, running), prepared.remarks

    async def replace_portrait(self, entry: Entry, data: bytes, wanted: Wanted) -> tuple[str, ...]:
        """Show another portrait in one session, like `set_portrait`; returns what its owner should know about it.

        Raises:
            SessionEndedError, NotLoadedError, InputError, NoFaceError, DeviceMemoryError
        """
        prepared = await self._portraits.read(data, wanted, self.engine)
        await asyncio.wrap_future(entry.session.set_portrait(prepared.reference, prepared.still))
        self._stills.put(entry.client, prepared.still)
        return prepared.remarks

    async def set_backdrop(self, entry: Entry, data: bytes) -> None:
        """Put a picture behind a session's portrait.

        Raises:
            InputError: not a picture.
        """
        await self._portraits.put_behind(entry.session, data)

    def still(self, watch_id: str) -> RGBArray | None:
        """The portrait of the last session of the client with this watch id, as it is: uint8 [h,w,3]."""
        image: RGBArray | None = self._stills.watched(watch_id)
        return image

    async def look(self, data: bytes) -> tuple[bool | None, FractionBox | None]:
        """Whether a picture shows a face that can drive, and where; None: this server leaves finding it to the model.

        Raises:
            InputError: not a picture.
        """
        return await self._portraits.look(data)

    def speed(self) -> Speed:
        """How fast one more session would be."""
        if self._engine is None or self.scheduler is None:
            return Speed(0.0, "")
        others = sum(entry.state is SessionState.CONNECTED for entry in self.entries.values())
        return speed_of(self._engine, self.scheduler.expected(), others)

    # ---- sessions ----

    def find(self, identifier: str, client: Client) -> Entry:
        """A client's session by its id.

        Raises:
            UnknownSessionError: there is none, or it has ended.
            NotYoursError: another client opened it.
        """
        entry = self.entries.get(identifier)
        if entry is None or entry.session.closed:
            raise UnknownSessionError(f"there is no session {identifier[:64]!r}: it has ended or never existed")
        if not client.may_control(entry.client):
            raise NotYoursError(
                "this session belongs to another client: send the cookie that you were given, or the token, "
                "with which it was opened"
            )
        return entry

    def current(self, client: Client) -> Entry:
        """See `connections.latest`.

        Raises:
            UnknownSessionError: there is none.
        """
        found = latest((each for each in self.entries.values() if not each.session.closed), client)
        if found is None:
            raise UnknownSessionError("you have no session now: start one first")
        return found

    async def open(self, client: Client, values: dict[str, Any]) -> Entry:
        """Open a session for a client, with its portrait if it has sent one.

        Raises:
            NotLoadedError: no model.
            FullError: no room, or no memory on the device.
            InputError: parameters that cannot be used.
        """
        engine = self.engine
        parameters = self._default_parameters(engine).updated(values)
        self._make_room(client)
        session = Session(
            secrets.token_urlsafe(18),
            engine,
            parameters,
            faces=FaceFinder(self._faces.tracker()) if self._faces else None,
            clock=self._clock,
        )
        entry = Entry(session, client, self._clock())
        self.entries[session.identifier] = entry
        self.sessions_opened += 1
        session.on_hidden = lambda: self.connections.tell_viewers(entry)
        session.on_closed = lambda reason: self._forget_on_loop(session)
        assert self.scheduler is not None
        self.scheduler.add(session)
        try:
            await self._begin(session, client, engine)
        except SessionEndedError as error:
            self.refused += 1
            raise FullError("another session took this one's place before it could start; try again later") from error
        except DeviceMemoryError as error:
            session.close(str(error))
            self.refused += 1
            raise FullError(f"the device has no memory for another session: {error}") from error
        except BaseException:
            session.close("the session could not start")
            raise
        return entry

    async def _begin(self, session: Session, client: Client, engine: Engine) -> None:
        """Create a new session's state on the device now, so that a lack of memory shows before anyone waits."""
        await asyncio.wrap_future(session.open_stream())
        prepared = await self._portraits.of(client, engine)
        if prepared is not None:
            await asyncio.wrap_future(session.set_first_portrait(prepared.reference, prepared.still))
            self._stills.put(client, prepared.still)
        if session.closed:
            raise SessionEndedError(f"the session {session.identifier} has ended")

    # ---- snapshots ----

    async def snapshot(self, entry: Entry) -> None:
        """Remember a session's temporal state for its client.

        Raises:
            SessionEndedError, InputError
        """
        self._snapshots.put(entry.client, await asyncio.wrap_future(entry.session.snapshot()))

    async def resume(self, entry: Entry) -> None:
        """Continue from the client's last snapshot.

        Raises:
            SessionEndedError, InputError: the session has ended; no snapshot, or one of another size.
        """
        state = self._snapshots.get(entry.client)
        if state is None:
            raise InputError("you have no snapshot: take one first")
        await asyncio.wrap_future(entry.session.resume(state))

    # ---- inside ----

    def _default_parameters(self, engine: Engine) -> Parameters:
        loaded = self.loader.state.parameters
        seed = loaded.seed if loaded else 42
        return Parameters(seed=seed, keyframe_threshold=engine.keyframe_threshold, latency=self.options.latency)

    def _make_room(self, client: Client) -> None:
        """Check the bounds; sessions without a connection give way."""
        limit = self.options.max_sessions
        for entry in sessions_to_evict(self.entries.values(), client, limit, self._clock()):
            entry.session.close("another session took its place while it was not connected")
            self._forget(entry.session)
        if len(self.entries) >= limit:
            self.refused += 1
            raise FullError(f"the server is full: {limit} of {limit} sessions are in use; try again later")

    def _take_engine(self, engine: Engine) -> None:
        """A model is loaded (the loading thread)."""
        if self.scheduler is not None:
            self.scheduler.stop()
        self._engine = engine
        self._snapshots.clear()
        scheduler = Scheduler(engine, max_batch=self.options.max_batch)
        garbage.freeze_after_load()
        scheduler.start()
        self.scheduler = scheduler  # now others may stop it

    def _forget(self, session: Session) -> None:
        if self.scheduler is not None:
            self.scheduler.remove(session)
        entry = self.entries.pop(session.identifier, None)
        if entry is None:
            return
        self.connections.end(entry)
        self._ended_totals = self._ended_totals.plus(session)
        self._left_behind = True

    def _forget_on_loop(self, session: Session) -> None:
        """At once if the loop runs in this thread, so that no answer goes out first."""
        if self._loop is None or self._loop.is_closed():
            return
        if threading.get_ident() == self._thread:
            self._forget(session)
        else:
            self._loop.call_soon_threadsafe(self._forget, session)

    async def _sweep_for_ever(self) -> None:
        for turn in itertools.count():
            await asyncio.sleep(SWEEP_SECONDS)
            if turn % SWEEPS_PER_LOOK == 0:
                self.sweep()
            if self._left_behind:
                self._left_behind = not self.connections.are_closed
                garbage.collect()

    def sweep(self) -> None:
        """End unused sessions."""
        now = self._clock()
        for entry in list(self.entries.values()):
            reason = reason_to_end(entry, self.options, now)
            if reason is not None:
                logger.info("session %s ends: %s", entry.session.identifier, reason)
                entry.session.close(reason)
