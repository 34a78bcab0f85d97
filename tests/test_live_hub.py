"""Who has a session, and for how long: the hub over an echoing model, with connections that do as they are told."""

import asyncio
import contextlib
import threading
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from personalive.errors import DeviceMemoryError, InputError
from personalive.live.core.faces import Wanted
from personalive.live.core.parameters import LoadParameters
from personalive.live.hub.clients import Client, ClientStore
from personalive.live.hub.connections import MAX_VIEWERS, watched
from personalive.live.hub.entries import TRANSITIONS, FullError, NotYoursError, SessionState, UnknownSessionError
from personalive.live.hub.eviction import CONNECT_SECONDS, GRACE_SECONDS
from personalive.live.hub.hub import Hub
from personalive.live.hub.loader import BusyError
from personalive.live.options import ServeOptions
from personalive.testing.echo import EchoEngine
from tests.live_support import BLUE, GREEN, RED, picture

OPENING, CONNECTED, DETACHED, CLOSING = SessionState
LIMIT, LINGER, IDLE = 3, 15.0, 60.0


class Connection:
    """A transport that is up when a test says so."""

    def __init__(self, bench, entry, connected=True):
        self.bench, self.entry, self.connected = bench, entry, connected
        self.messages, self.closed = [], False

    def send(self, message):
        self.messages.append(message)

    async def close(self):
        self.closed, self.connected = True, False
        self.bench.hub.connections.detach(self.entry, self)


class Bench:
    """A hub on a clock that is moved by hand."""

    def __init__(self, engine=None, **options):
        self.now = 1000.0
        self.engine = engine or EchoEngine(64, 64, chunk_frames=4)
        settings = {"max_sessions": LIMIT, "linger_seconds": LINGER, "idle_seconds": IDLE, **options}
        self.hub = Hub(ServeOptions(**settings), lambda parameters, stage: self.engine, None, clock=lambda: self.now)

    async def __aenter__(self):
        await self.hub.start()
        await asyncio.to_thread(self.hub.loader.wait)
        return self

    async def __aexit__(self, *problem):
        await self.hub.stop()

    async def opened(self, name, address="10.0.0.1"):
        return await self.hub.open(Client.known(name, address), {})

    async def connected(self, name, address="10.0.0.1"):
        entry = await self.opened(name, address)
        self.attach(entry)
        return entry

    def attach(self, entry, connected=True):
        connection = Connection(self, entry, connected)
        self.hub.connections.attach(entry, connection)
        return connection

    def come_up(self, connection):
        connection.connected = True
        self.hub.connections.came_up(connection.entry, connection)

    def lose(self, entry):
        entry.transport.connected = False
        self.hub.connections.detach(entry, entry.transport)

    def after(self, seconds):
        self.now += seconds
        self.hub.sweep()

    def alive(self, entry):
        return entry.session.identifier in self.hub.entries


# ---- loading ----


async def test_a_server_that_ends_while_it_loads_waits_for_the_stage_and_starts_no_other():
    """A process that ended meanwhile aborted, as one of its threads was inside a network."""
    begun, going_on, stages = threading.Event(), threading.Event(), []

    def factory(parameters, at_stage):
        for stage in ("reading the weights", "warming up", "warming up"):
            at_stage(stage)
            stages.append(stage)
            begun.set()
            assert going_on.wait(60)
        return EchoEngine(64, 64, chunk_frames=4)

    hub = Hub(ServeOptions(), factory, None)
    await hub.start()
    assert await asyncio.to_thread(begun.wait, 60)
    stop = asyncio.create_task(hub.stop())
    while not hub.loader._stopping:
        await asyncio.sleep(0.001)
    assert not stop.done(), "a stage is under way"
    going_on.set()
    await stop
    assert stages == ["reading the weights"] and hub.scheduler is None
    assert not any(thread.name == "live-load" for thread in threading.enumerate())
    with pytest.raises(BusyError, match="shutting down"):
        hub.load(LoadParameters())


# ---- states ----


def test_a_session_that_has_ended_comes_into_no_other_state_and_all_others_can_end():
    assert not TRANSITIONS[CLOSING]
    assert all(CLOSING in TRANSITIONS[state] for state in (OPENING, CONNECTED, DETACHED))


async def test_a_session_goes_through_its_states():
    async with Bench() as bench:
        entry = await bench.opened("a")
        assert entry.state is OPENING
        connection = bench.attach(entry, connected=False)
        assert entry.state is OPENING
        bench.come_up(connection)
        assert entry.state is CONNECTED
        bench.lose(entry)
        assert entry.state is DETACHED
        again = bench.attach(entry, connected=False)
        assert entry.state is OPENING
        bench.come_up(connection)  # the one before, which counts no longer
        assert entry.state is OPENING
        bench.come_up(again)
        assert entry.state is CONNECTED
        third = bench.attach(entry)
        await bench.hub.connections.wait_closed()
        assert again.closed and entry.transport is third and entry.state is CONNECTED
        entry.session.close("the end")
        assert entry.state is CLOSING and not bench.alive(entry)
        assert third.messages[-1] == {"type": "stream_stopped", "error_message": "the end"}
        with pytest.raises(UnknownSessionError):
            bench.attach(entry)
        with pytest.raises(ValueError, match="closing cannot become detached"):
            entry.move_to(DETACHED, bench.now)


async def test_a_connection_that_never_comes_up_is_not_waited_for_long():
    async with Bench() as bench:
        entry = await bench.opened("a")
        bench.after(CONNECT_SECONDS - 1)
        bench.attach(entry, connected=False)
        assert bench.alive(entry)
        bench.after(2)
        assert not bench.alive(entry)


async def test_a_client_that_comes_back_has_its_time_to_connect_however_old_the_session_is():
    async with Bench() as bench:
        entry = await bench.connected("a")
        bench.after(50)
        bench.lose(entry)
        bench.after(LINGER - 1)
        connection = bench.attach(entry, connected=False)
        bench.after(CONNECT_SECONDS - 1)
        assert bench.alive(entry)
        bench.come_up(connection)
        bench.after(IDLE - 1)
        assert bench.alive(entry), "no frame could come before it was connected"
        bench.after(2)
        assert not bench.alive(entry)


async def test_a_lost_connection_is_waited_for_and_then_the_session_ends():
    async with Bench() as bench:
        entry = await bench.connected("a")
        bench.lose(entry)
        bench.after(LINGER - 1)
        assert bench.alive(entry)
        bench.after(2)
        assert not bench.alive(entry)


# ---- who gives way ----


async def test_a_client_s_own_detached_session_gives_way_at_once_even_if_there_is_room():
    async with Bench() as bench:
        old = await bench.connected("a")
        bench.lose(old)
        new = await bench.opened("a")
        assert not bench.alive(old) and bench.alive(new)


async def test_a_client_s_connected_session_stays_when_it_opens_another():
    async with Bench() as bench:
        old, new = await bench.connected("a"), await bench.opened("a")
        assert bench.alive(old) and bench.alive(new)


async def test_a_newcomer_takes_the_place_of_the_session_that_has_been_detached_for_longest():
    async with Bench() as bench:
        first, second, third = [await bench.connected(name) for name in "abc"]
        bench.lose(second)
        bench.after(1)
        bench.lose(third)
        await bench.connected("d")
        assert [bench.alive(each) for each in (first, second, third)] == [True, False, True]
        await bench.connected("e")
        assert not bench.alive(third)
        with pytest.raises(FullError, match="3 of 3"):
            await bench.opened("f")
        assert bench.alive(first)


async def test_a_session_that_nobody_connects_to_gives_way_before_a_detached_one_but_not_in_its_first_seconds():
    async with Bench() as bench:
        opening, detached, third = await bench.opened("a"), await bench.connected("b"), await bench.connected("c")
        bench.lose(detached)
        await bench.connected("d")
        assert bench.alive(opening) and not bench.alive(detached)
        with pytest.raises(FullError):
            await bench.opened("e")
        bench.after(GRACE_SECONDS + 1)
        await bench.opened("e")
        assert not bench.alive(opening) and bench.alive(third)


async def test_an_address_that_holds_most_of_the_room_with_offers_gives_way_to_others_at_once():
    async with Bench() as bench:
        greedy = [await bench.opened(name, "10.0.0.6") for name in "abc"]
        await bench.opened("d", "10.0.0.7")
        assert [bench.alive(each) for each in greedy] == [False, True, True]


async def test_a_session_that_gives_way_while_it_is_being_made_is_refused_and_not_half_opened():
    async with Bench() as bench:
        entered, release = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()

        def wait(streams):
            loop.call_soon_threadsafe(entered.set)
            asyncio.run_coroutine_threadsafe(release.wait(), loop).result(30)

        bench.engine.before_call = wait
        first = asyncio.ensure_future(bench.opened("a"))
        await entered.wait()
        bench.engine.before_call = lambda streams: None
        second = asyncio.ensure_future(bench.opened("a"))
        await asyncio.sleep(0)
        release.set()
        with pytest.raises(FullError, match="took this one's place"):
            await first
        entry = await second
        assert list(bench.hub.entries.values()) == [entry] and entry.state is OPENING


KINDS = ("open", "attach", "up", "lose", "close", "pass")
EVENTS = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 5)), max_size=60)


@settings(max_examples=5)
@given(EVENTS)
def test_whatever_comes_no_session_is_lost_or_kept_too_long(events):
    async def play():
        async with Bench() as bench:
            entries: list[Any] = []
            for event, number in events:
                entry = entries[number % len(entries)] if entries else None
                if event == "open":
                    with contextlib.suppress(FullError):
                        entries.append(await bench.opened(f"client {number}", f"10.0.0.{number % 2}"))
                elif event == "pass":
                    bench.after(7 * number)
                elif entry is not None and bench.alive(entry):
                    if event == "attach":
                        bench.attach(entry, connected=number % 2 == 0)
                    elif event == "up" and entry.transport is not None:
                        bench.come_up(entry.transport)
                    elif event == "lose" and entry.transport is not None:
                        bench.lose(entry)
                    elif event == "close":
                        entry.session.close()
                bench.hub.sweep()
                check(bench, entries)
            bench.after(10_000)
            await bench.hub.connections.wait_closed()
            assert not bench.hub.entries and all(entry.state is CLOSING for entry in entries)

    def check(bench, entries):
        assert len(bench.hub.entries) <= LIMIT
        for entry in entries:
            assert bench.alive(entry) == (entry.state is not CLOSING) == (not entry.session.closed)
            if entry.state is CONNECTED:
                assert entry.transport.connected
            if entry.state is DETACHED:
                assert entry.transport is None and bench.now - entry.since <= LINGER

    asyncio.run(play())


# ---- who may control and who may watch ----


def test_who_may_control_a_session():
    owner = Client.known("cookie", "10.0.0.1", "token")
    assert Client.known("cookie", "10.9.9.9").may_control(owner)
    assert Client.known("other", "10.9.9.9", "token").may_control(owner)
    assert not Client.known("other", "10.0.0.1", "another token").may_control(owner)
    assert not Client.new("new", None, "10.0.0.1").may_control(owner)

    nameless = Client.new("given", None, "10.0.0.1")
    assert Client.new("given again", None, "10.0.0.1").may_control(nameless)
    assert Client.known("kept later", "10.0.0.1").may_control(nameless)
    assert not Client.new("given", "token", "10.0.0.2").may_control(Client.known("x", "10.0.0.2"))
    assert not Client.known("stranger", "10.0.0.2").may_control(nameless)


def test_a_watch_id_is_the_same_for_one_cookie_and_tells_nothing_of_it():
    first, second = Client.new("c", None, "10.0.0.1"), Client.known("c", "10.0.0.2", "token")
    assert first.watch_id == second.watch_id != Client.known("d", "10.0.0.1").watch_id
    assert first.watch_id not in (*first.keys, second.cookie_key)


async def test_a_session_is_found_by_its_client_only():
    async with Bench() as bench:
        entry = await bench.opened("a")
        identifier, watch_id = entry.session.identifier, entry.client.watch_id
        assert bench.hub.find(identifier, Client.known("a", "10.0.0.9")) is entry
        with pytest.raises(NotYoursError, match="cookie"):
            bench.hub.find(identifier, Client.known("b", "10.0.0.1"))
        with pytest.raises(UnknownSessionError):
            bench.hub.find(watch_id, Client.known("a", "10.0.0.1"))


async def test_a_watch_id_shows_the_client_s_sessions_one_after_the_other():
    async with Bench() as bench:
        watch_id = Client.known("a", "10.0.0.1").watch_id

        def shown():
            return watched(bench.hub.entries.values(), watch_id)

        await bench.connected("b")
        assert shown() is None
        first = await bench.opened("a")
        assert shown() is None
        bench.attach(first)
        assert shown() is first
        bench.lose(first)
        assert shown() is None
        second = await bench.connected("a")
        assert shown() is second


async def test_viewers_hear_of_each_change_and_of_the_end():
    async with Bench() as bench:
        entry = await bench.connected("a")
        viewer = Connection(bench, entry)
        bench.hub.connections.watch(entry, viewer)
        bench.lose(entry)
        bench.come_up(bench.attach(entry, connected=False))
        entry.session.close()
        await bench.hub.connections.wait_closed()
        assert viewer.closed
        assert viewer.messages == [
            {"type": "stream", "live": False},
            {"type": "stream", "live": True},
            {"type": "stream_stopped"},
        ]


async def test_the_oldest_viewer_that_never_came_up_gives_way_and_no_other():
    async with Bench() as bench:
        entry = await bench.connected("a")
        viewers = [Connection(bench, entry, connected=index != 1) for index in range(MAX_VIEWERS)]
        for viewer in viewers:
            bench.hub.connections.watch(entry, viewer)
        bench.hub.connections.watch(entry, Connection(bench, entry))
        await bench.hub.connections.wait_closed()
        assert [viewer.closed for viewer in viewers] == [False, True, False, False]
        with pytest.raises(FullError, match="4 viewers"):
            bench.hub.connections.watch(entry, Connection(bench, entry))


# ---- portraits ----


class Reluctant(EchoEngine):
    """Its streams with one colour take no other portrait."""

    def open(self, seed):
        stream = super().open(seed)
        swap = stream.swap_reference

        def swap_unless_green(reference):
            if stream.colour == GREEN:
                raise DeviceMemoryError("the device's memory is used up")
            swap(reference)

        stream.swap_reference = swap_unless_green
        return stream


async def test_a_portrait_that_some_sessions_cannot_show_is_answered_with_the_truth():
    async with Bench(Reluctant(64, 64)) as bench:
        client = Client.known("a", "10.0.0.1")
        await bench.hub.set_portrait(client, picture(RED), Wanted())
        red = await bench.connected("a")
        await bench.hub.set_portrait(Client.known("b", "10.0.0.1"), picture(GREEN), Wanted())
        green = await bench.hub.open(Client.known("b", "10.0.0.1"), {})
        green.client = client
        with pytest.raises(DeviceMemoryError, match=r"kept for your next session, but 1 of your 2 .* used up"):
            await bench.hub.set_portrait(client, picture(BLUE), Wanted())
        assert {stream.colour for stream in bench.engine.streams} == {BLUE, GREEN}
        red.session.close()
        green.session.close()
        assert await bench.hub.set_portrait(client, picture(BLUE), Wanted()) == (0, ())
        await bench.opened("a")
        assert BLUE in {stream.colour for stream in bench.engine.streams}


async def test_a_session_that_ends_while_a_portrait_is_set_does_not_count():
    async with Bench() as bench:
        client = Client.known("a", "10.0.0.1")
        first, second = await bench.connected("a"), await bench.connected("a")
        # Its command waits when it ends: the device is not asked before.
        first.session.wake = first.session.close
        assert await bench.hub.set_portrait(client, picture(BLUE), Wanted()) == (1, ())
        assert not bench.alive(first) and second.session.has_portrait


async def test_a_snapshot_belongs_to_its_client():
    async with Bench() as bench:
        await bench.hub.set_portrait(Client.known("a", "10.0.0.1"), picture(RED), Wanted())
        mine, theirs = await bench.connected("a"), await bench.connected("b")
        await bench.hub.snapshot(mine)
        with pytest.raises(InputError, match="you have no snapshot"):
            await bench.hub.resume(theirs)
        await bench.hub.resume(mine)


# ---- what is kept of each client ----


def test_a_portrait_s_address_is_forgotten_once_the_cookie_came_back():
    store = ClientStore()
    store.put(Client.new("c1", None, "10.0.0.1"), "mine")
    assert store.get(Client.new("c2", None, "10.0.0.1")) == "mine"
    assert store.get(Client.known("c1", "10.0.0.1")) == "mine"
    assert store.get(Client.new("c3", None, "10.0.0.1")) is None
    assert store.get(Client.known("c1", "10.0.0.9")) == "mine"


def test_an_address_displaces_only_its_own_portraits():
    store = ClientStore(capacity=8, per_address=3)
    store.put(Client.known("victim", "10.0.0.1"), "kept")
    for index in range(50):
        store.put(Client.known(f"flood{index}", "10.0.0.2"), index)
    assert store.get(Client.known("victim", "10.0.0.1")) == "kept" and len(store) == 4


def test_portraits_are_forgotten_after_an_hour():
    now = [0.0]
    store = ClientStore(clock=lambda: now[0])
    store.put(Client.known("c", "a"), 1)
    now[0] = 3601
    assert store.get(Client.known("c", "a")) is None
