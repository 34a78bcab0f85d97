"""Cog's own server: a child process that talks only to this one."""

import asyncio
import contextlib
import ctypes
import logging
import os
import random
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx

from personalive.gateway.json_pieces import json_pieces
from personalive.gateway.prediction import NotReadyError
from personalive.gateway.requests import InvalidError, complaint

logger = logging.getLogger(__name__)

PREDICTOR = "predict.py:Predictor"
PREDICTIONS = Path("/tmp/coglet/predictions")
"""Where Cog's server keeps a folder for every prediction. The path is fixed in it, and it removes nothing."""
SCRATCH = "PERSONALIVE_SCRATCH"
"""Tells predict.py where its temporary folders are to be."""
POLL_SECONDS = 0.5
SETTLE_SECONDS = 15.0
"""Time after the end of a prediction by which Cog must have freed its slot."""
SILENT_SECONDS = 60.0
"""Time without an answer after which Cog's server is considered dead."""
STOP_SECONDS = 1.0
PR_SET_PDEATHSIG = 1
_prctl = getattr(ctypes.CDLL(None), "prctl", None)
"""Linux only."""
BROKEN = ("UNHEALTHY", "DEFUNCT")
"""Cog's own words for a worker that has died. It does not start another."""


class CogServer:
    """Starts the server, watches it and stops it.

    Args:
        root: the folder with predict.py and .cog, in which Cog's server runs.
        scratch: a folder of its own for what predictions leave.
    """

    def __init__(self, root: Path, scratch: Path) -> None:
        self._root = root
        self._scratch = scratch
        # Any address in 127.0.0.0/8 is loopback. A client that may name private addresses still does not know this one.
        self._host = ".".join(["127", *(str(random.SystemRandom().randint(1, 254)) for _ in range(3))])
        self._process: asyncio.subprocess.Process | None = None
        self._client = httpx.AsyncClient(trust_env=False, timeout=60.0)
        self.health: dict[str, Any] = {"status": "STARTING"}
        """What its last health check said."""
        self._failure: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def start(self) -> None:
        """Start the process; `watch` follows it.

        Raises:
            NotReadyError: Cog's folder belongs to another user, which would cost its slot with the first prediction.
        """
        with contextlib.suppress(OSError):
            PREDICTIONS.mkdir(parents=True, exist_ok=True)
        if not os.access(PREDICTIONS, os.W_OK | os.X_OK):
            raise NotReadyError(f"Cog's server cannot write to {PREDICTIONS}: another user made it; remove it first")
        port = _free_port(self._host)
        self._client.base_url = httpx.URL(f"http://{self._host}:{port}")
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "cog.server.http", "--host", self._host),
            cwd=self._root,
            env=self._environment(port),
            start_new_session=True,  # Ctrl-C is for this process only, which then ends the other
            preexec_fn=_end_with_parent,
        )

    def _environment(self, port: int) -> dict[str, str]:
        direct = ",".join(filter(None, [os.environ.get("NO_PROXY") or os.environ.get("no_proxy"), "127.0.0.1"]))
        environment = dict(os.environ)
        # Its worker is started as plain `python`.
        environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"
        environment |= {"PORT": str(port), SCRATCH: str(self._scratch), "NO_PROXY": direct, "no_proxy": direct}
        environment.setdefault("COG_PREDICT_TYPE_STUB", PREDICTOR)
        return environment

    async def watch(self) -> str:
        """Follow the server's health until it can no longer work; return the reason."""
        assert self._process is not None
        ended = asyncio.create_task(self._process.wait())
        last_answer = asyncio.get_running_loop().time()
        try:
            while not ended.done() and not self._failure.done():
                health = await self._ask_health()
                if health is not None:
                    last_answer = asyncio.get_running_loop().time()
                    self.health = health
                if self.health["status"] in BROKEN:
                    self.fail("Cog's worker has died")
                elif asyncio.get_running_loop().time() - last_answer > SILENT_SECONDS:
                    self.fail(f"Cog's server has not answered for {SILENT_SECONDS:g} seconds")
                else:
                    events: list[asyncio.Future[Any]] = [ended, self._failure]
                    await asyncio.wait(events, timeout=POLL_SECONDS, return_when="FIRST_COMPLETED")
        finally:
            ended.cancel()
        if not self._failure.done():
            self.fail(f"Cog's server ended with status {self._process.returncode}")
        return self._failure.result()

    async def _ask_health(self) -> dict[str, Any] | None:
        try:
            answer = await self._client.get("/health-check", timeout=5.0)
            return dict(answer.json())
        except (httpx.HTTPError, ValueError):
            return None

    def fail(self, reason: str) -> None:
        """Cog can no longer work."""
        if self.health["status"] not in BROKEN:
            self.health = {**self.health, "status": "DEFUNCT"}
        if not self._failure.done():
            self._failure.set_result(reason)

    async def predict(self, cog_id: str, values: dict[str, Any]) -> None:
        """Start a prediction; its events go to the webhook in the values.

        Raises:
            NotReadyError: Cog accepts none now.
            InvalidError: Cog refuses the values.
        """
        deadline = asyncio.get_running_loop().time() + SETTLE_SECONDS
        while True:
            try:
                answer = await self._client.put(
                    f"/predictions/{cog_id}",
                    content=_yielding(values),
                    headers={"Content-Type": "application/json", "Prefer": "respond-async"},
                )
            except httpx.HTTPError as error:
                raise NotReadyError("the model is not loaded; see GET /health-check") from error
            if answer.status_code != 409:
                break
            # Its slot has been free for us since `settle`, but not for long.
            if asyncio.get_running_loop().time() > deadline:
                self.fail("Cog's server keeps its slot for a prediction that has ended")
                raise NotReadyError("the server has lost its only slot and ends")
            await asyncio.sleep(0.02)
        _raise_for_refusal(answer)

    async def cancel(self, cog_id: str) -> None:
        """Stop a prediction at its next chunk."""
        with contextlib.suppress(httpx.HTTPError):
            await self._client.post(f"/predictions/{cog_id}/cancel")

    async def settle(self, cog_id: str) -> None:
        """Wait until Cog has its slot free again after a prediction, then remove the prediction's files."""
        deadline = asyncio.get_running_loop().time() + SETTLE_SECONDS
        while not self._failure.done():
            health = await self._ask_health()
            if health is not None and health["status"] != "BUSY":
                self.health = health
                break
            if asyncio.get_running_loop().time() > deadline:
                self.fail("Cog's server keeps its slot for a prediction that has ended")
            await asyncio.sleep(0.01)
        for folder in [PREDICTIONS / cog_id, *self._scratch.iterdir()]:
            shutil.rmtree(folder, ignore_errors=True)

    async def stop(self) -> None:
        """End the server and everything that it started."""
        await self._client.aclose()
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()


def _end_with_parent() -> None:
    """In the child: it ends even if this process is killed."""
    if _prctl is not None:
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _raise_for_refusal(answer: httpx.Response) -> None:
    if answer.status_code == 202:
        return
    try:
        values = answer.json()
    except ValueError:
        values = {"detail": answer.text}
    if answer.status_code >= 500:
        raise NotReadyError(str(values.get("error") or "the server cannot take a prediction now"))
    detail = values.get("detail", values)
    if answer.status_code == 422 and not isinstance(detail, list):
        detail = [complaint(("body",), str(detail))]
    raise InvalidError(answer.status_code, detail)


async def _yielding(values: dict[str, Any]) -> AsyncIterator[bytes]:
    for piece in json_pieces(values):
        yield piece
        await asyncio.sleep(0)


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
