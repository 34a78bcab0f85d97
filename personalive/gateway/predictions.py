"""The one prediction that Cog has room for: started, followed by its events, cancelled, and reported."""

import asyncio
import contextlib
import logging
import re
import uuid
from collections import deque
from collections.abc import Mapping
from typing import Any, get_args

from personalive.errors import PersonaLiveError
from personalive.gateway.cog_server import CogServer, NotReadyError
from personalive.gateway.deliveries import Deliveries, UploadError, Webhook
from personalive.gateway.requests import Event, PredictionRequest

logger = logging.getLogger(__name__)

TERMINAL = ("succeeded", "failed", "canceled")
COG_EVENTS = ["start", "logs", "completed"]
"""What Cog is asked to report. Its output events may come before or after the completed one."""
REMEMBERED = 64
"""The most ids of ended predictions that are remembered."""
CANCEL_AGAIN_SECONDS = 3.0
"""A prediction that goes on for so long is cancelled again: Cog raises an exception wherever its worker happens to be,
and where that is in the middle of a library's C code, it may be printed and forgotten."""
REPEATED = re.compile(r"^(Prediction failed: )+")


class BusyError(PersonaLiveError):
    """Another prediction has the slot."""


class Prediction:
    """A prediction as its client knows it."""

    def __init__(self, request: PredictionRequest, webhook: Webhook | None, prefix: str | None) -> None:
        self.cog_id = uuid.uuid4().hex
        """Cog's name for it, which becomes a folder in a place that all users of the machine share."""
        self.id = request.id or f"pred_{self.cog_id[:16]}"
        self.webhook = webhook
        self.prefix = prefix
        self.trusted_prefix = request.output_file_prefix is None
        self.state: dict[str, Any] = {"id": self.id, "status": "starting", "logs": ""}
        """What is known about it."""
        self.done = asyncio.Event()
        self.cancelling: asyncio.Task[None] | None = None

    def tell(self, event: Event) -> None:
        """Tell the webhook."""
        if self.webhook is not None:
            self.webhook.tell(event, self.state)


class Predictions:
    """The holder of Cog's slot.

    Args:
        cog: the server.
        deliveries: sends events and results.
        events_url: where Cog is to report to; its path ends with a prediction's `cog_id`.
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
        if self.current is not None:
            raise BusyError
        webhook = None
        if request.webhook is not None:
            events = set(request.webhook_events_filter or get_args(Event))
            webhook = Webhook(self._deliveries, request.webhook, events, headers)
        prediction = Prediction(request, webhook, request.output_file_prefix or self._upload_url)
        self.current = prediction
        values = {"input": request.input, "webhook": self._events_url + prediction.cog_id}
        if request.context is not None:
            values["context"] = request.context
        try:
            await self._cog.predict(prediction.cog_id, {**values, "webhook_events_filter": COG_EVENTS})
        except BaseException:
            self.current = None
            raise
        if webhook is not None:
            self._deliveries.spawn(webhook.run())
        return prediction

    def on_event(self, cog_id: str, event: dict[str, Any]) -> None:
        """An event that Cog reports of the prediction. Events of others, or late ones, are ignored."""
        prediction = self.current
        if prediction is None or prediction.cog_id != cog_id or self._ending is not None:
            return
        if event.get("status") in TERMINAL:
            self._ending = asyncio.create_task(self._end(prediction, event))
        elif len(event.get("logs", "")) >= len(prediction.state["logs"]):
            first = prediction.state["status"] == "starting"
            prediction.state = {**event, "id": prediction.id}
            prediction.tell("start" if first else "logs")

    async def _end(self, prediction: Prediction, event: dict[str, Any]) -> None:
        await self._cog.settle(prediction.cog_id)
        self.current = self._ending = None
        state = {**event, "id": prediction.id}
        if "error" in event:
            state["error"] = REPEATED.sub("Prediction failed: ", str(event["error"]))
        if prediction.prefix is not None and isinstance(state.get("output"), str):
            upload = self._deliveries.spawn(self._upload(state, prediction))
            self._uploads[upload] = prediction
            await asyncio.wait([upload])
            del self._uploads[upload]
            if upload.cancelled():
                _fail(state, "its upload was dropped")
        self._complete(prediction, state)

    async def _upload(self, state: dict[str, Any], prediction: Prediction) -> None:
        try:
            state["output"] = await self._deliveries.upload(
                state["output"], str(prediction.prefix), trusted=prediction.trusted_prefix
            )
        except UploadError as error:
            _fail(state, str(error))

    def _complete(self, prediction: Prediction, state: dict[str, Any]) -> None:
        self._ended.append(prediction.id)
        prediction.state = state
        if state["status"] == "succeeded":
            prediction.state = {**state, "status": "processing"}
            prediction.tell("output")
            prediction.state = state
        prediction.tell("completed")
        prediction.done.set()

    async def cancel(self, identifier: str) -> bool:
        """Stop a prediction at its next chunk.

        Returns:
            Whether there is one with this id. It may just have ended, which its client could not know.
        """
        if self.current is not None and self.current.id == identifier:
            await self._cancel(self.current)
            return True
        return identifier in self._ended

    async def _cancel(self, prediction: Prediction) -> None:
        await self._cog.cancel(prediction.cog_id)
        if prediction.cancelling is None:
            prediction.cancelling = asyncio.create_task(self._cancel_again(prediction))

    async def _cancel_again(self, prediction: Prediction) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CANCEL_AGAIN_SECONDS):
                    await prediction.done.wait()
            if self.current is not prediction or self._ending is not None:
                return
            await self._cog.cancel(prediction.cog_id)

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


def _fail(state: dict[str, Any], reason: str) -> None:
    """Replace the output by the reason why it could not be sent."""
    del state["output"]
    state.update(status="failed", error=f"Prediction failed: {reason}")
