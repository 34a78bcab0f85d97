"""What a request for a prediction must be, before Cog sees any of it."""

import math
from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import from_json

from personalive.errors import InputError, PersonaLiveError
from personalive.net.outbound import check

ID_PATTERN = "^[A-Za-z0-9_-]{1,64}$"
"""Cog makes a folder from a prediction's id, wherever that leads, and loses its only slot if it cannot."""
MAX_BODY = 100 * 2**20 - 4096
"""Bytes. Cog accepts 100 MiB, and something is added."""

Identifier = Annotated[str, Field(pattern=ID_PATTERN)]
Event = Literal["start", "output", "logs", "completed"]


class PredictionRequest(BaseModel):
    """The body of POST and PUT, as Cog understands it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    id: Identifier | None = None
    input: dict[str, Any] = {}
    context: dict[str, str] | None = None
    webhook: str | None = None
    webhook_events_filter: list[Event] | None = None
    output_file_prefix: str | None = None


class InvalidError(PersonaLiveError):
    """A request that is refused: the answer's status and message."""

    def __init__(self, status: int, detail: Any) -> None:
        super().__init__(str(detail))
        self.status = status
        self.detail = detail


def complaint(location: tuple[str | int, ...], message: str, kind: str = "value_error") -> dict[str, Any]:
    """One entry of a 422 answer, in Cog's shape."""
    return {"loc": list(location), "msg": message, "type": kind}


def parse(body: bytes, inputs: Mapping[str, Mapping[str, Any]]) -> PredictionRequest:
    """The request in a body.

    Args:
        inputs: the schema of each input.

    Raises:
        InvalidError: it is not JSON (400), or not a valid request (422); every fault is named.
    """
    try:
        values = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidError(400, f"the body is not JSON: {error}") from None
    try:
        request = PredictionRequest.model_validate(values)
    except ValidationError as error:
        raise InvalidError(422, _complaints(error, ("body",))) from None
    wrong = [
        complaint(("body", "input", name), _unknown(name, inputs), "value_error.extra")
        for name in request.input
        if name not in inputs
    ]
    wrong += [
        complaint(("body", "input", name), "is not a finite number")
        for name, value in request.input.items()
        if isinstance(value, float) and not math.isfinite(value)
    ]
    wrong += [
        complaint(("body", "input", name), "is empty: it must be an address or a data URL")
        for name, value in request.input.items()
        if value == "" and inputs.get(name, {}).get("format") == "uri"
    ]
    if wrong:
        raise InvalidError(422, wrong)
    # Cog's check accepts no null, even where its schema allows it.
    request.input = {
        name: value for name, value in request.input.items() if value is not None or not inputs[name].get("nullable")
    }
    return request


def check_id(identifier: str) -> None:
    """Refuse what is not an id.

    Raises:
        InvalidError: with 422.
    """
    try:
        TypeAdapter(Identifier).validate_python(identifier)
    except ValidationError as error:
        raise InvalidError(422, _complaints(error, ("path", "prediction_id"))) from None


def check_addresses(request: PredictionRequest, *, allow_private: bool) -> None:
    """Look up the addresses that a request wants to be called, which may take a moment.

    Raises:
        InvalidError: with 422, if one is not public or not an address.
    """
    named: Mapping[str, str | None] = {
        "webhook": request.webhook,
        "output_file_prefix": request.output_file_prefix,
    }
    for name, url in named.items():
        try:
            if url is not None:
                check(url, allow_private=allow_private)
        except InputError as error:
            raise InvalidError(422, [complaint(("body", name), str(error))]) from None


def _unknown(name: str, known: Collection[str]) -> str:
    return f"there is no input {name[:80]!r}; the inputs are {', '.join(sorted(known))}"


def _complaints(error: ValidationError, location: tuple[str | int, ...]) -> list[dict[str, Any]]:
    return [
        complaint((*location, *each["loc"]), each["msg"], each["type"])
        for each in error.errors(include_url=False, include_context=False, include_input=False)
    ]
