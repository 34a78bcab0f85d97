"""Two hundred clients of `serve-jobs` at once: is anything lost, and does the process never stand still?

    python -m benchmarks.jobs --minutes 5 --output benchmarks/results/jobs.json

The service runs as users start it, on Ray Serve with one process, but with jobs that only take their time: what is
measured is the queue, not a model. First one client asks for one job after the other; then 200 clients do so at once.
Half of them wait for their answers, the others have a webhook, and a fifth of these cancel what they have asked for,
after a moment. Those that are refused come again when the answer says. At the end, while all are still asking, the
service is told to end (SIGTERM), which must lose nothing either.
"""

import argparse
import asyncio
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from benchmarks.measuring import Results

PAYLOAD = "x" * 200_000
"""Stands for the files of a request."""
ALONE_SECONDS = 60.0
ENDED = ("succeeded", "failed", "canceled")


class Clients:
    """All of them, and what they have been told."""

    def __init__(self, url: str, webhook: str, seconds: float) -> None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        self.http = httpx.AsyncClient(base_url=url, timeout=None, limits=limits, trust_env=False)
        self.statuses: Counter[int] = Counter()
        """Of the answers to requests for jobs."""
        self.taken: dict[str, str] = {}
        """By id of each job that was taken: what became of it, or nothing yet."""
        self.succeeded: list[float] = []
        """When each job was."""
        self.wrong: list[str] = []
        self.stop = asyncio.Event()
        self._webhook, self._seconds = webhook, seconds

    def hear(self, state: dict[str, Any]) -> None:
        """An answer or an event."""
        if state["status"] not in ENDED:
            return
        if self.taken.get(state["id"]):
            self.wrong.append(f"{state['id']} has ended twice")
        self.taken[state["id"]] = state["status"]
        if state["status"] == "succeeded":
            self.succeeded.append(time.monotonic())
        elif state["status"] == "failed":
            self.wrong.append(f"{state['id']}: {state['error']}")

    async def ask(self, name: str, *, webhook: bool = False) -> bool:
        """Ask for a job until it is taken, and, without a webhook, until it has ended; whether it was."""
        body: dict[str, Any] = {
            "id": name,
            "input": {"ref_image": f"data:,ok:{self._seconds}", "driving_video": f"data:,{PAYLOAD}"},
        }
        headers = {}
        if webhook:
            body |= {"webhook": self._webhook, "webhook_events_filter": ["completed"]}
            headers["Prefer"] = "respond-async"
        while True:
            try:
                answer = await self.http.post("/predictions", json=body, headers=headers)
            except httpx.HTTPError as error:
                if not isinstance(error, httpx.ConnectError):  # it was sent, and is lost
                    self.wrong.append(f"{name}: no answer: {error!r}")
                return False
            self.statuses[answer.status_code] += 1
            if answer.status_code in (200, 202):
                self.taken.setdefault(name, "")
                self.hear(answer.json())
                return True
            if answer.status_code != 503:
                return False
            await asyncio.sleep(float(answer.headers["retry-after"]) * random.uniform(0.5, 1.5))
            if self.stop.is_set():
                return False

    async def run(self, number: int) -> None:
        """One client."""
        count = 0
        while not self.stop.is_set():
            name, count = f"client{number}-{count}", count + 1
            taken = await self.ask(name, webhook=number % 2 == 1)
            if number % 10 == 9 and taken:
                await asyncio.sleep(random.uniform(0.0, 4 * self._seconds))
                if not self.taken[name]:
                    await self.http.post(f"/predictions/{name}/cancel")
            while taken and not self.taken[name]:
                await asyncio.sleep(0.1)


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Start the service and its clients; what became of them."""
    port, hook_port = _free_port(), _free_port()
    clients = Clients(f"http://127.0.0.1:{port}", f"http://127.0.0.1:{hook_port}/", options.job_seconds)

    async def take(request: Request) -> Response:
        clients.hear(await request.json())
        return Response()

    hooks = uvicorn.Server(
        uvicorn.Config(Starlette(routes=[Route("/", take, methods=["POST"])]), port=hook_port, log_level="warning")
    )
    listening = asyncio.create_task(hooks.serve())
    with tempfile.TemporaryDirectory() as marks, open(os.devnull if not options.log else options.log, "w") as log:
        command = [sys.executable, "-m", "personalive.testing.quick_requests", "--marks", marks, "--replicas", "1"]
        command += ["--port", str(port), "--queue", str(options.queue)]
        environment = os.environ | {"PERSONALIVE_ALLOW_PRIVATE_URLS": "1"}
        service = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            await _until_ready(clients.http, service)
            alone = await _alone(clients)
            before, begun = len(clients.succeeded), time.monotonic()
            running = [asyncio.create_task(clients.run(number)) for number in range(options.clients)]
            await asyncio.sleep(60 * options.minutes)
            together = (len(clients.succeeded) - before) / (time.monotonic() - begun) * 60
            unfinished = sum(not ended for ended in clients.taken.values())
            clients.stop.set()
            service.send_signal(signal.SIGTERM)
            drained = time.monotonic()
            status = await asyncio.to_thread(service.wait, 600)
            drained = time.monotonic() - drained
            await asyncio.wait(running, timeout=30)
        finally:
            service.kill()
    hooks.should_exit = True
    await listening
    return {
        "load average": os.getloadavg()[0],
        "clients": options.clients,
        "minutes": options.minutes,
        "queue": options.queue,
        "time of a job s": options.job_seconds,
        "jobs taken": len(clients.taken),
        "jobs by their end": dict(Counter(clients.taken.values())),
        "jobs lost": sum(not ended for ended in clients.taken.values()),
        "wrong": clients.wrong[:20],
        "answers by status": {str(code): count for code, count in sorted(clients.statuses.items())},
        "one client: jobs a minute": alone,
        "all clients: jobs a minute": together,
        "all clients / one": together / alone,
        "unfinished when told to end": unfinished,
        "ended after s": drained,
        "exit status": status,
    }


async def _until_ready(http: httpx.AsyncClient, service: "subprocess.Popen[bytes]") -> None:
    while service.poll() is None:
        try:
            if (await http.get("/health-check")).json()["status"] == "READY":
                return
        except httpx.HTTPError:
            pass
        await asyncio.sleep(0.5)
    raise SystemExit("the service has not started")


async def _alone(clients: Clients) -> float:
    """Jobs a minute of one client that asks for one after the other."""
    await clients.ask("first")
    begun, count = time.monotonic(), 0
    while time.monotonic() - begun < ALONE_SECONDS:
        await clients.ask(f"alone-{count}")
        count += 1
    return count / (time.monotonic() - begun) * 60


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--queue", type=int, default=150)
    parser.add_argument("--job_seconds", type=float, default=0.5)
    parser.add_argument("--log", type=Path, help="the service's log")
    options = parser.parse_args()
    results = Results(options.output)
    for name, value in asyncio.run(measure(options)).items():
        results.add(name, value)


if __name__ == "__main__":
    main()
