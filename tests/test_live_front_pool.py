"""A front over workers that do what a test says: what it does when they do not start, do not answer or end."""

import asyncio
import contextlib
import json
import logging
import queue
import tempfile

import httpx
import pytest
import websockets.asyncio.client
import websockets.asyncio.server
from fastapi import WebSocket

from personalive.live.front import sockets
from personalive.live.front.app import create_front
from personalive.live.front.identity import Identity
from personalive.live.front.metrics import Sums, front_registry
from personalive.live.front.pool import FIRST_WAIT, LONGEST_WAIT, Pool
from personalive.live.front.reports import Report
from personalive.live.front.sessions import Sessions
from personalive.live.hub.clients import Client
from personalive.live.hub.entries import FullError
from personalive.live.hub.loader import LoadState
from personalive.live.options import ServeOptions
from personalive.net.waiting import WaitingRoom
from tests.live_support import WAIT

KILLED = "was killed by SIGKILL"
CLIENT = Client.known("cookie", "127.0.0.1")


def report(status="loaded"):
    return Report(LoadState(status), (), 1, None)


class ToldProcess:
    """A process, of which a test says what it reports and how it ends."""

    url = "http://worker"

    def __init__(self, seat, *says):
        self.seat, self.described = seat, {}
        self.told_to_end = self.killed = False
        self._said = queue.SimpleQueue()
        for each in says:
            self.say(each)

    def say(self, what):
        """Report something, fail with an error, or end in some way."""
        self._said.put(what)

    def follow(self, hear):
        while True:
            said = self._said.get()
            if isinstance(said, Exception):
                raise said
            if isinstance(said, str):
                return said
            hear(said)

    def send(self, order):
        pass

    def terminate(self):
        self.told_to_end = True

    def kill(self, seconds):
        self.killed = True
        self.say(KILLED)

    async def close(self):
        pass


class ToldWorkplace:
    """Starts processes that have loaded the model, unless a test says otherwise."""

    def __init__(self, size=1):
        self.size = size
        self.started = []
        self.says = lambda seat: [report()]

    def start(self, seat, name, call_seconds):
        self.started.append(ToldProcess(seat, *self.says(seat)))
        return self.started[-1]


@contextlib.asynccontextmanager
async def running(workplace, **options):
    """A pool, whose workers are ended after the block."""
    pool = Pool(workplace, load_at_start=False, **options)
    pool.start()
    try:
        yield pool
    finally:
        await pool.stop()


async def until(condition):
    async with asyncio.timeout(WAIT):
        while not condition():
            await asyncio.sleep(0.001)


def loaded(pool):
    return [worker for worker in pool.up if worker.is_loaded]


# ---- starting ----


@pytest.mark.parametrize("how", ["is not started", "does not answer", "dies while it loads"])
async def test_a_worker_that_does_not_load_is_tried_again_ever_more_seldom_while_others_serve(how, caplog):
    workplace, waits, attempts = ToldWorkplace(2), [], 1100  # 2 to the power of 1,024 is more than a float holds

    async def sleep(seconds):
        waits.append(seconds)

    def says(seat):
        if seat == 1 or len(waits) == attempts:
            return [report()]
        if how == "is not started":
            raise BlockingIOError("no more processes\nof this user")
        return [KILLED] if how == "does not answer" else [report("loading"), KILLED]

    workplace.says = says
    async with running(workplace, sleep=sleep) as pool:
        assert workplace.started[-1].seat == 1
        await until(lambda: len(loaded(pool)) == 2)
        assert waits == [FIRST_WAIT * 2**each for each in range(5)] + [LONGEST_WAIT] * (attempts - 5)
        assert len(caplog.messages) == attempts
        if how == "is not started":
            assert caplog.messages[0] == "worker 0 cannot be started, and is tried again: no more processes"
        (loads,) = [each for each in loaded(pool) if each.seat == 0]
        loads.process.say(KILLED)  # which replaces it at once, as it had loaded
        await until(lambda: loads not in pool.up and len(loaded(pool)) == 2)
        assert len(waits) == attempts
        (loads,) = [each for each in loaded(pool) if each.seat == 0]
        attempts += 1
        loads.process.say(KILLED)
        await until(lambda: len(waits) == attempts)
        assert waits[-1] == FIRST_WAIT


@pytest.mark.parametrize("error", [RuntimeError("no thread"), ValueError("no report")])
async def test_a_worker_that_can_no_longer_be_followed_is_replaced(error, caplog):
    workplace = ToldWorkplace()
    async with running(workplace) as pool:
        await until(lambda: loaded(pool))
        workplace.started[0].say(error)
        await until(lambda: len(workplace.started) == 2 and loaded(pool))
        assert workplace.started[0].killed and pool.deaths == 1
        assert str(error) in caplog.text and "worker 0 was lost" in caplog.text


# ---- draining ----


async def test_a_worker_that_was_told_to_end_gets_no_sessions_although_its_seat_is_open_again(caplog):
    workplace = ToldWorkplace()
    async with running(workplace) as pool:
        await until(lambda: loaded(pool))
        pool.drain([0])
        assert workplace.started[0].told_to_end
        pool.reopen([0])
        with pytest.raises(FullError, match="try again in a moment"):
            pool.ordered(CLIENT)
        assert pool.limit == 0 and pool.described()[0]["state"] == "draining"
        workplace.started[0].say("ended with status 0")
        await until(lambda: len(workplace.started) == 2 and loaded(pool))
        assert pool.ordered(CLIENT) == pool.up
        assert pool.deaths == 0 and not [each for each in caplog.records if each.levelno >= logging.WARNING]


# ---- figures ----


def frames(count):
    return f"# TYPE frames_total counter\nframes_total {count}\n"


async def test_figures_of_a_worker_that_does_not_answer_are_neither_missed_nor_added_twice():
    workplace, answers = ToldWorkplace(2), {}
    async with running(workplace) as pool:
        await until(lambda: len(loaded(pool)) == 2)
        transport = httpx.ASGITransport(create_front(ServeOptions(workers=2), pool), client=("127.0.0.1", 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:

            async def total(*counts):
                for process, count in zip(workplace.started, counts, strict=True):
                    answer = httpx.Response(200, text=frames(count)) if count else httpx.Response(503)
                    answers[process] = process.transport = httpx.MockTransport(lambda request, answer=answer: answer)
                (line,) = [each for each in (await client.get("/metrics")).text.splitlines() if each[:7] == "frames_"]
                return float(line.split()[1])

            assert await total(5, 7) == 12
            assert await total(None, 7) == 12
            assert await total(6, 7) == 13
            workplace.started[0].say(KILLED)
            await until(lambda: len(workplace.started) == 3 and len(loaded(pool)) == 2)
            assert await total(None, 7, 1) == 6 + 7 + 1


def test_what_a_worker_said_before_it_died_is_added_once():
    sums = Sums(front_registry(Pool(ToldWorkplace(), load_at_start=False), WaitingRoom()))
    for texts, living in (({"0.0": frames(5)}, {"0.0"}), ({}, set()), ({"0.0": frames(5)}, set())):
        sums.update(texts, living)
        assert sums.registry.get_sample_value("frames_total") == 5


# ---- connections ----


OPENED, REFUSED = {"sessionId": "a"}, {"type": "stream_stopped"}


@pytest.mark.parametrize(
    ("first", "client"),
    [(OPENED, "leaves"), (OPENED, "reads nothing"), (REFUSED, "leaves"), (REFUSED, "reads nothing"), (None, "waits")],
)
async def test_a_connection_to_a_worker_ends_with_its_client_s_however_that_ends(first, client, monkeypatch):
    """`first`: the worker's message; None: it says nothing until the front gives up."""
    monkeypatch.setattr(sockets, "SEND_SECONDS", 0.0)
    taken, ended = asyncio.Event(), asyncio.Event()

    async def serve(connection):
        if first is not None:
            await connection.send(json.dumps(first))
        await connection.wait_closed()
        ended.set()

    async def connect(target, **options):
        connection = await websockets.asyncio.client.connect(f"ws://127.0.0.1:{port}{target}", **options)
        taken.set()
        return connection

    async def receive():
        return {"type": "websocket.connect"}

    async def send(message):
        if message["type"] != "websocket.accept":
            if client == "leaves":
                raise OSError
            await asyncio.Event().wait()

    workplace = ToldWorkplace()
    async with websockets.asyncio.server.serve(serve, "127.0.0.1", 0) as server, running(workplace) as pool:
        await until(lambda: loaded(pool))
        port = server.sockets[0].getsockname()[1]
        workplace.started[0].connect = connect
        scope = {"type": "websocket", "headers": [], "query_string": b"", "path": "/", "client": ("127.0.0.1", 1)}
        socket = WebSocket(scope, receive, send)
        await socket.accept()
        proxy = asyncio.create_task(sockets.SocketProxy(pool, Sessions(pool), socket).run(None, "jpeg"))
        async with asyncio.timeout(WAIT):
            await taken.wait()
            if first is None:
                proxy.cancel()
            await ended.wait()


# ---- certificates ----


async def test_keys_are_written_to_no_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    front, worker = Identity.new(), Identity.new()

    async def answer(reader, writer):
        writer.write(await reader.readline())
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=worker.serving(front.certificate))
    async with server, asyncio.timeout(WAIT):
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=front.calling(worker.certificate))
        writer.write(b"are you there?\n")
        assert await reader.readline() == b"are you there?\n"
        writer.close()
