"""The one prediction that Cog has room for: started, followed by its events, cancelled, and reported."""

import asyncio
import contextlib
import re
from collections import deque
from collections.abc import Mapping
from typing import Any

from personalive.gateway.cog_server import CogServer
from personalive.gateway.deliveries import Deliveries
from personalive.gateway.prediction import TERMINAL, BusyError, NotReadyError, Prediction
from personalive.gateway.requests import PredictionRequest

COG_EVENTS = ["start", "logs", "completed"]
"""What Cog is asked to report. Its output events may come before or after the completed one."""
REMEMBERED = 64
"""The most ids of ended predictions that are remembered."""
CANCEL_AGAIN_SECONDS = 3.0
"""A prediction that goes on for so long is cancelled again: Cog raises an exception wherever its worker happens to be,
and where that is in the middle of a library's C code, it may be printed and forgotten."""
REPEATED = re.compile(r"^(Prediction failed: )+")


class Predictions:
    """The holder of Cog's slot; a `Backend` of the interface.

    Args:
        cog: the server.
        deliveries: sends events and results.
        events_url: where Cog is to report to; its path ends with a prediction's `key`, Cog's name for it, which
            becomes a folder in a place that all users of the machine share.
        upload_url: where results go if their request does not say; None leaves them in the answer.
    """

    def __init__(self, cog: CogServer, deliveries: Deliveries, events_url: str, upload_url: str | None) -> None:
        self._cog = cog
        self._deliveries = deliveries
        self._events_url = events_url
        self._upload_url = upload_url
        self._closing = False
        self._ending: asyncio.Task[None] | None = None
        self._uploads: dict[asyncio.Task[None], Prediction] = {}
        """Results under way, whose predictions no longer hold the slot."""
        self._ended: deque[str] = deque(maxlen=REMEMBERED)
        self.current: Prediction | None = None

    @property
    def health(self) -> dict[str, Any]:
        """What Cog's server says of itself, with our word on whether it is busy."""
        health = self._cog.health
        if health["status"] in ("READY", "BUSY"):
            health = {**health, "status": "READY" if self.current is None else "BUSY"}
        return health

    def find(self, identifier: str) -> Prediction | None:
        """The prediction that has the slot, if it has this id."""
        return self.current if self.current is not None and self.current.id == identifier else None

    def check_room(self) -> None:
        """Look whether the slot is free.

        Raises:
            BusyError
        """
        if self.current is not None:
            raise BusyError

    async def start(self, request: PredictionRequest, headers: Mapping[str, str]) -> Prediction:
        """Start a prediction.

        Args:
            headers: to be sent with its webhooks.

        Raises:
            BusyError: there is another.
            NotReadyError: Cog cannot take one.
            InvalidError: Cog does not accept the values.
        """
        if self._closing:
            raise NotReadyError("the server is being stopped")
        self.check_room()
        prediction = Prediction(request, headers, self._deliveries, self._upload_url)
        self.current = prediction
        values = {"input": request.input, "webhook": self._events_url + prediction.key}
        if request.context is not None:
            values["context"] = request.context
        try:
            await self._cog.predict(prediction.key, {**values, "webhook_events_filter": COG_EVENTS})
        except BaseException:
            self.current = None
            raise
        prediction.begin()
        return prediction

    def on_event(self, key: str, event: dict[str, Any]) -> None:
        """An event that Cog reports of the prediction. Events of others, or late ones, are ignored."""
        prediction = self.current
        if prediction is None or prediction.key != key or self._ending is not None:
            return
        if event.get("status") in TERMINAL:
            self._ending = asyncio.create_task(self._end(prediction, event))
        elif len(event.get("logs", "")) >= len(prediction.state["logs"]):
            first = prediction.state["status"] == "starting"
            prediction.state = {**event, "id": prediction.id}
            prediction.tell("start" if first else "logs")

    async def _end(self, prediction: Prediction, event: dict[str, Any]) -> None:
        await self._cog.settle(prediction.key)
        self.current = self._ending = None
        state = {**event, "id": prediction.id}
        if "error" in event:
            state["error"] = REPEATED.sub("Prediction failed: ", str(event["error"]))
        upload = prediction.upload(state)
        if upload is not None:
            self._uploads[upload] = prediction
            await asyncio.wait([upload])
            del self._uploads[upload]
        self._complete(prediction, state)

    def _complete(self, prediction: Prediction, state: dict[str, Any]) -> None:
        self._ended.append(prediction.id)
        prediction.complete(state)

    async def cancel(self, identifier: str) -> bool:
        """Stop a prediction at its next chunk.

        Returns:
            Whether there is one with this id. It may just have ended, which its client could not know.
        """
        prediction = self.find(identifier)
        if prediction is not None:
            await self._cancel(prediction)
            return True
        return identifier in self._ended

    async def _cancel(self, prediction: Prediction) -> None:
        await self._cog.cancel(prediction.key)
        if prediction.cancelling is None:
            prediction.cancelling = asyncio.create_task(self._cancel_again(prediction))

    async def _cancel_again(self, prediction: Prediction) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CANCEL_AGAIN_SECONDS):
                    await prediction.done.wait()
            if self.current is not prediction or self._ending is not None:
                return
            await self._cog.cancel(prediction.key)

    async def close(self, seconds: float) -> None:
        """Accept no more, stop the current one, and wait for uploads.

        Whatever takes longer counts as cancelled, an upload as failed, and its webhook is told so.
        """
        self._closing = True
        unfinished = list(self._uploads.values())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                if self.current is not None:
                    unfinished.append(self.current)
                    await self._cancel(self.current)
                for each in unfinished:
                    await each.done.wait()
        if self.current is not None:
            self.abandon("canceled", "the server was stopped")
        for upload in self._uploads:
            upload.cancel()
        for each in unfinished:
            await each.done.wait()

    def abandon(self, status: str, error: str) -> None:
        """End the current prediction without Cog."""
        prediction, self.current = self.current, None
        if self._ending is not None:
            self._ending.cancel()
        if prediction is not None:
            self._complete(prediction, {**prediction.state, "status": status, "error": error})
