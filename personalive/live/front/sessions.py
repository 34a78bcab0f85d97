"""Opens sessions on workers: new ones, and those whose worker has died."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from pydantic_core import from_json
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from personalive.live.core.parameters import Parameters
from personalive.live.front.forward import forward, headers_for, recognised, send
from personalive.live.front.ledger import Known, Placed, Portrait
from personalive.live.front.pool import Pool, Worker
from personalive.live.front.reports import Tell
from personalive.live.http.callers import CURRENT
from personalive.live.hub.clients import Client
from personalive.live.hub.connections import latest
from personalive.live.hub.entries import FullError, NotYoursError, UnknownSessionError

REFERENCE = b"/api/v1/personalive/reference"
MOVED = "the process that made this session has ended: it goes on in another one, with its portrait and settings"
ENDED = "the process that made this session has ended: offer again with this sessionId to go on in another one"


class Sessions:
    """Finds a place for each session."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._ledger = pool.ledger

    # ---- which ----

    def worker_of(self, identifier: str, client: Client) -> Worker:
        """Where a session is, or the one that a client means; for one that nobody knows, any worker, which says so.

        Raises:
            UnknownSessionError: its worker has died.
            FullError: no worker is up.
        """
        sessions = self._ledger.sessions
        placed = latest(sessions.values(), client) if identifier == CURRENT else sessions.get(identifier)
        worker = self._pool.named(placed.worker) if placed else None
        if worker is None and self._ledger.lost(identifier):
            raise UnknownSessionError(ENDED)
        return worker or self._pool.any()

    def lost(self, identifier: str, client: Client) -> Placed | None:
        """A session whose worker has died, if its client asks for it.

        Raises:
            NotYoursError: another client does.
        """
        lost = self._ledger.lost(identifier)
        if lost is not None and not client.may_control(lost.client):
            raise NotYoursError("this session belonged to another client")
        return lost

    def homes(self, client: Client) -> list[Worker]:
        """The workers that have a client's sessions, or else the one where its next session will be.

        Raises:
            FullError: no worker is up.
        """
        names = dict.fromkeys(placed.worker for placed in self._ledger.of(client))
        found = [worker for name in names if (worker := self._pool.named(name))]
        home = self._pool.named(self._ledger.known(client).home)
        if found:
            return found
        if home is not None and self._pool.takes_sessions(home):
            return [home]
        try:
            return self._pool.ordered(client)[:1]
        except FullError:  # its next session may find a place by then
            return [self._pool.any()]

    # ---- opening ----

    async def open(self, request: Request, client: Client, body: bytes, lost: Placed | None) -> Response:
        """Forward a request for a session to the best worker that has room.

        Args:
            request: the client's.
            client: its sender.
            body: of the request.
            lost: the session whose place the new one takes.

        Raises:
            FullError: there is no room.
        """
        refusal: Response | None = None
        for worker in self._pool.ordered(client):
            try:
                async with self.on_its_way(worker):
                    await self.bring_portrait(worker, request, client, lost)
                    response = await forward(worker, request, body)
                    if response.status_code != 503:
                        self._opened(worker, request, client, response, lost)
                        return await self._as_before(worker, request, response, lost)
                refusal = response
            except httpx.TransportError:  # it has just died
                continue
        self._pool.check_room()  # a worker knows only how many it has itself
        if refusal is not None:
            return refusal
        raise FullError("the worker that was asked has ended: try again in a moment")

    @asynccontextmanager
    async def on_its_way(self, worker: Worker) -> AsyncIterator[None]:
        """Count a session that a worker is asked for, until the worker has it."""
        worker.pending += 1
        try:
            yield
        finally:
            worker.pending -= 1

    async def bring_portrait(
        self, worker: Worker, connection: HTTPConnection, client: Client, lost: Placed | None
    ) -> None:
        """Send a worker the client's portrait, unless it has it."""
        known = self._ledger.known(client)
        portrait = known.portrait or (lost.portrait if lost else None)
        if portrait is None or worker.name in known.shown_to:
            return
        if await self._send_portrait(worker, connection, portrait, REFERENCE, "POST"):
            known.shown_to.add(worker.name)

    async def _send_portrait(
        self, worker: Worker, connection: HTTPConnection, portrait: Portrait, path: bytes, method: str
    ) -> bool:
        """Whether the worker has taken it."""
        data = self._ledger.pictures.get(portrait.picture)
        if data is None:  # it gave way to others'
            return False
        kept = [each for each in headers_for(connection) if each[0] != b"content-type"]
        target = path + (b"?" + portrait.query if portrait.query else b"")
        headers = [*kept, (b"content-type", portrait.media_type.encode())]
        return (await send(worker, method, target, headers, data)).status_code == 200

    def _opened(
        self, worker: Worker, request: Request, client: Client, response: Response, lost: Placed | None
    ) -> None:
        identifier = session_id(bytes(response.body)) if response.status_code in (200, 201) else None
        if identifier is not None:
            self.opened(worker, identifier, recognised(client, request, response), lost)

    def opened(self, worker: Worker, identifier: str, client: Client, lost: Placed | None) -> None:
        """A worker has opened a session for a client."""
        known = self._ledger.known(client)
        known.home = worker.name
        self._ledger.remember(client, known)
        portrait = lost.portrait if lost is not None and lost.portrait else known.portrait
        self._ledger.opened(identifier, worker.name, client, portrait)
        if lost is not None:
            self._ledger.found_again(lost.identifier)
            worker.process.send(Tell(identifier, {"type": "message", "code": "moved", "text": MOVED}))

    async def _as_before(self, worker: Worker, request: Request, response: Response, lost: Placed | None) -> Response:
        """Show the portrait that a lost session had, if it was not that of its client's next session."""
        identifier = session_id(bytes(response.body))
        if lost is not None and identifier is not None:
            await self.restore_portrait(worker, request, identifier, lost)
        return response

    async def restore_portrait(self, worker: Worker, connection: HTTPConnection, identifier: str, lost: Placed) -> None:
        """Show the portrait that a lost session had in the one that takes its place."""
        own = self._ledger.known(lost.client).portrait
        if lost.portrait is not None and own is not None and lost.portrait != own:
            path = f"/api/v1/sessions/{identifier}/reference".encode()
            await self._send_portrait(worker, connection, lost.portrait, path, "PUT")

    # ---- portraits ----

    async def set_portrait(self, request: Request, client: Client, body: bytes, show: bool) -> Response:
        """Send a client's portrait to every worker that has sessions of it, and remember it.

        Args:
            request: the client's.
            client: its sender.
            body: of the request.
            show: whether running sessions show it too.
        """
        answers, names = list[Response](), set[str]()
        for worker in self.homes(client):
            answers.append(await forward(worker, request, body))
            if answers[-1].status_code != 200:
                return answers[-1]
            names.add(worker.name)
        client = recognised(client, request, answers[0])
        portrait = self._portrait(request, body)
        self._ledger.remember(client, Known(self._ledger.known(client).home, portrait, names))
        for placed in self._ledger.of(client) if show else ():
            placed.portrait = portrait
        if len(answers) == 1 or not show:
            return answers[0]
        said = from_json(bytes(answers[0].body)) | {"message": "the portrait is shown in all of your running sessions"}
        return Response(json.dumps(said), media_type="application/json")

    def replaced_portrait(self, identifier: str, request: Request, body: bytes) -> None:
        """A worker shows another portrait in one session."""
        placed = self._ledger.sessions.get(identifier)
        if placed is not None:
            placed.portrait = self._portrait(request, body)

    def _portrait(self, request: Request, body: bytes) -> Portrait:
        return Portrait(
            self._ledger.pictures.put(body),
            request.headers.get("content-type", "application/octet-stream"),
            request.scope["query_string"],
        )


def parsed(body: bytes) -> dict[str, Any]:
    """A JSON object; empty for what is none, about which a worker complains."""
    try:
        values = from_json(body)
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}


def session_id(body: bytes) -> str | None:
    """The session that a request or an answer names."""
    found = parsed(body).get("sessionId")
    return found if isinstance(found, str) else None


def instead_of(lost: Placed, values: dict[str, Any]) -> bytes:
    """An offer that continues a lost session, as one that opens a session with the same settings.

    Raises:
        InputError: the offer's own settings cannot be used.
    """
    given = values.get("initialParameters")
    parameters = lost.parameters.updated(given) if isinstance(given, dict) else lost.parameters
    return json.dumps({**values, "sessionId": None, "initialParameters": settings(parameters)}).encode()


def settings(parameters: Parameters) -> dict[str, Any]:
    """A session's settings as a client sends them."""
    return {name: value for name, value in parameters.given().items() if value is not None}
