"""The description of the interface: Cog's, with this service's additional answers."""

import copy
from typing import Any, get_args

from personalive.gateway.requests import ID_PATTERN, Event

SLOT_TAKEN = {"error": "At capacity - all prediction slots busy", "status": "failed"}


def describe(cog_schema: dict[str, Any]) -> dict[str, Any]:
    """OpenAPI 3.0 of the service.

    Args:
        cog_schema: what Cog generated for predict.py; inputs and outputs are taken from it.
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
    begin |= {"parameters": [PREFER], "responses": _BEGIN_ANSWERS}
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
    return schema


def _identifier() -> dict[str, Any]:
    return {"type": "string", "pattern": ID_PATTERN}


def _request_schema(more: dict[str, Any]) -> dict[str, Any]:
    address = {"type": "string", "format": "uri", "pattern": "^https?://[^/?#@]+"}
    return {
        "type": "object",
        "additionalProperties": False,
        "required": ["input"],
        "properties": {
            **more,
            "input": _reference("Input"),
            "context": {"type": "object", "additionalProperties": {"type": "string"}},
            "webhook": {**address, "description": "Where events are sent by POST; a public address."},
            "webhook_events_filter": {
                "type": "array",
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
