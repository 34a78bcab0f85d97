"""A prediction as its client knows it, whichever server makes it."""

import asyncio
import uuid
from collections.abc import Mapping
from typing import Any, get_args

from personalive.errors import PersonaLiveError
from personalive.gateway.deliveries import Deliveries, UploadError, Webhook
from personalive.gateway.requests import Event, PredictionRequest

TERMINAL = ("succeeded", "failed", "canceled")


class BusyError(PersonaLiveError):
    """Another prediction has the only slot."""


class NotReadyError(PersonaLiveError):
    """No prediction can be taken now: not yet, not again, or not before others have ended."""

    def __init__(self, message: str, retry_after: int = 5) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds after which it makes sense to ask again."""


class Prediction:
    """A prediction: its state, and who is told of it.

    Args:
        request: what was asked for.
        headers: to be sent with its webhooks.
        deliveries: sends events and its result.
        upload_url: where its result goes if the request does not say; None leaves it in the answer.
    """

    def __init__(
        self, request: PredictionRequest, headers: Mapping[str, str], deliveries: Deliveries, upload_url: str | None
    ) -> None:
        self.key = uuid.uuid4().hex
        """A name for it that its client did not choose."""
        self.id = request.id or f"pred_{self.key[:16]}"
        self.prefix = request.output_file_prefix or upload_url
        self.state: dict[str, Any] = {"id": self.id, "status": "starting", "logs": ""}
        """What is known about it."""
        self.done = asyncio.Event()
        self.cancelling: asyncio.Task[None] | None = None
        """Sees to it that it stops, since that was asked for."""
        self._trusts_prefix = request.output_file_prefix is None
        self._deliveries = deliveries
        self._webhook = None
        if request.webhook is not None:
            events = set(request.webhook_events_filter or get_args(Event))
            self._webhook = Webhook(deliveries, request.webhook, events, headers)

    def begin(self) -> None:
        """It was accepted: from now on its webhook is told."""
        if self._webhook is not None:
            self._deliveries.spawn(self._webhook.run())

    def tell(self, event: Event) -> None:
        """Tell the webhook."""
        if self._webhook is not None:
            self._webhook.tell(event, self.state)

    def upload(self, state: dict[str, Any]) -> "asyncio.Task[None] | None":
        """Begin to send the result in a last state, if it is to be sent; the state then says where it is, or fails."""
        if self.prefix is None or not isinstance(state.get("output"), str):
            return None
        return self._deliveries.spawn(self._upload(state, self.prefix))

    async def _upload(self, state: dict[str, Any], prefix: str) -> None:
        try:
            state["output"] = await self._deliveries.upload(state["output"], prefix, trusted=self._trusts_prefix)
        except UploadError as error:
            fail(state, str(error))
        except asyncio.CancelledError:
            fail(state, "its upload was dropped")
            raise

    def complete(self, state: dict[str, Any]) -> None:
        """Take its last state."""
        self.state = state
        if state["status"] == "succeeded":
            self.state = {**state, "status": "processing"}
            self.tell("output")
            self.state = state
        self.tell("completed")
        self.done.set()


def fail(state: dict[str, Any], reason: str) -> None:
    """Make it the state of a prediction that failed, without a result."""
    state.pop("output", None)
    state.update(status="failed", error=f"Prediction failed: {reason}")
