"""The description of the interface: Cog's, with this service's additional answers."""

import copy
import json
from pathlib import Path
from typing import Any, get_args

from personalive.gateway.requests import ID_PATTERN, Event

SLOT_TAKEN = {"error": "At capacity - all prediction slots busy", "status": "failed"}


def own_schema() -> dict[str, Any]:
    """What Cog generated for predict.py, for a service that runs without Cog and the repository."""
    return dict(json.loads((Path(__file__).parent / "cog_schema.json").read_text()))


def inputs_of(cog_schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of each input."""
    return dict(cog_schema["components"]["schemas"]["Input"]["properties"])


def describe(cog_schema: dict[str, Any], *, queue: bool = False) -> dict[str, Any]:
    """OpenAPI 3.0 of the service.

    Args:
        cog_schema: what Cog generated for predict.py; inputs and outputs are taken from it.
        queue: whether predictions wait for each other, and can be asked for, instead of one at a time.
    """
    schema = copy.deepcopy(cog_schema)
    schemas = schema["components"]["schemas"]
    schemas["Input"]["additionalProperties"] = False
    schemas["PredictionRequest"] = _request_schema({"id": _identifier()})
    schemas["NamedPredictionRequest"] = _request_schema({})
    schemas["Refusal"] = {
        "type": "object",
        "required": ["detail"],
        "properties": {"detail": {"type": "string", "description": "What was wrong."}},
    }
    schemas["Failure"] = {
        "type": "object",
        "required": ["error", "status"],
        "properties": {"error": {"type": "string"}, "status": {"type": "string", "enum": ["failed"]}},
    }
    identifier = {"name": "prediction_id", "in": "path", "required": True, "schema": _identifier()}
    paths = schema["paths"]
    begin = paths["/predictions"]["post"]
    begin |= {"parameters": [PREFER], "responses": _QUEUE_ANSWERS if queue else _BEGIN_ANSWERS}
    begin["requestBody"]["required"] = True
    schema["paths"] = {
        "/": {"get": paths["/"]["get"]},
        "/health-check": {"get": paths["/health-check"]["get"]},
        "/predictions": {"post": begin},
        "/predictions/{prediction_id}": {
            "put": {
                **begin,
                "summary": "Predict, once",
                "description": "Run a prediction with this id; while it runs, the same request returns its state.",
                "operationId": "predict_idempotent_predictions_put",
                "parameters": [identifier, PREFER],
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"schema": _reference("NamedPredictionRequest")}},
                },
            }
        },
        "/predictions/{prediction_id}/cancel": {
            "post": {
                **paths["/predictions/{prediction_id}/cancel"]["post"],
                "parameters": [identifier],
                "responses": {
                    "200": _answer("It is being cancelled, or has just ended", {"type": "object"}),
                    "404": _answer("No prediction with this id is running or has just ended", _reference("Refusal")),
                    "422": _answer("It is not an id", _reference("HTTPValidationError")),
                },
            }
        },
    }
    if queue:
        schemas["PredictionResponse"]["properties"]["queue_position"] = POSITION
        schema["paths"]["/predictions/{prediction_id}"]["get"] = {
            "summary": "State",
            "description": "The state of a prediction that waits, runs, or has ended lately.",
            "operationId": "state_predictions_get",
            "parameters": [identifier],
            "responses": {
                "200": _answer("Its state", _reference("PredictionResponse")),
                "404": _answer("No such prediction is known, or not any more", _reference("Refusal")),
                "422": _answer("It is not an id", _reference("HTTPValidationError")),
            },
        }
    return schema


def _identifier() -> dict[str, Any]:
    return {"type": "string", "pattern": ID_PATTERN}


def _request_schema(more: dict[str, Any]) -> dict[str, Any]:
    address = {"type": "string", "nullable": True, "format": "uri", "pattern": "^https?://[^/?#@]+"}
    return {
        "type": "object",
        "additionalProperties": False,
        "required": ["input"],
        "properties": {
            **{name: {**each, "nullable": True} for name, each in more.items()},
            "input": _reference("Input"),
            "context": {"type": "object", "nullable": True, "additionalProperties": {"type": "string"}},
            "webhook": {**address, "description": "Where events are sent by POST; a public address."},
            "webhook_events_filter": {
                "type": "array",
                "nullable": True,
                "items": {"type": "string", "enum": list(get_args(Event))},
                "description": "Which events; all if it is left out.",
            },
            "output_file_prefix": {
                **address,
                "description": "Public address below which the result is sent by PUT, as output.mp4 or of its format.",
            },
        },
    }


def _reference(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _answer(description: str, schema: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}, **more}


PREFER = {
    "name": "Prefer",
    "in": "header",
    "schema": {"type": "string"},
    "description": "respond-async: answer at once; the webhook reports the outcome.",
}
POSITION = {
    "type": "integer",
    "minimum": 1,
    "description": "Which of those it is that wait for their turn; absent once it has begun.",
}
RETRY_AFTER = {"Retry-After": {"description": "Seconds.", "required": True, "schema": {"type": "integer"}}}
_BEGIN_ANSWERS = {
    "200": _answer("It has ended; see `status`", _reference("PredictionResponse")),
    "202": _answer("It has begun", _reference("PredictionResponse")),
    "400": _answer("The body is not JSON", _reference("Refusal")),
    "408": _answer("The body is sent too slowly", _reference("Refusal")),
    "409": _answer("Another prediction is running", _reference("Failure")),
    "413": _answer("The body is too long", _reference("Refusal")),
    "415": _answer("The body is not declared as application/json", _reference("Refusal")),
    "422": _answer("Something in the request is invalid", _reference("HTTPValidationError")),
    "503": _answer("The model is not loaded, or too much is being sent", _reference("Failure"), headers=RETRY_AFTER),
}
_QUEUE_ANSWERS = {
    **{status: answer for status, answer in _BEGIN_ANSWERS.items() if status != "409"},
    "202": _answer("It waits for its turn, or has begun", _reference("PredictionResponse")),
    "503": _answer(
        "The model is not loaded, too many are waiting, or the service is about to end",
        _reference("Failure"),
        headers=RETRY_AFTER,
    ),
}
