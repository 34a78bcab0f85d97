"""Settings in requests: read, checked and described as they were declared."""

import contextlib
from collections.abc import Callable, Collection, Iterator
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from personalive.errors import InputError
from personalive.live.core.parameters import Changes, LoadParameters
from personalive.settings import AnimateOptions, Settings


@contextlib.contextmanager
def _refusing() -> Iterator[None]:
    """Our own sentence for the answer 422."""
    try:
        yield
    except InputError as error:
        raise PydanticCustomError("setting", "{reason}", {"reason": str(error)}) from None


def _reader(settings: type[Settings]) -> Callable[[Any], Any]:
    def read(values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        with _refusing():
            return settings(**values)

    return read


def _checked(values: dict[str, Any]) -> dict[str, Any]:
    known = Changes.model_fields.keys()
    given = {name: value for name, value in values.items() if value is not None or name not in known}
    with _refusing():
        Changes(**given)
    return given


def _checked_face(face: str) -> str:
    with _refusing():
        return AnimateOptions(face=face).face


def _with_null(schema: dict[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Null is taken too, and is as good as nothing."""
    properties = {
        name: {"anyOf": [each, {"type": "null"}]} if name in names else each
        for name, each in schema["properties"].items()
    }
    return schema | {"properties": properties}


FACE_SCHEMA = AnimateOptions.model_json_schema()["properties"]["face"]
LOAD_SCHEMA = LoadParameters.model_json_schema()
PARAMETERS_SCHEMA = Changes.model_json_schema() | {"examples": [{"mirror": True, "motion_strength": 0.8}]}

LoadParams = Annotated[
    LoadParameters,
    BeforeValidator(_reader(LoadParameters)),
    WithJsonSchema(_with_null(LOAD_SCHEMA, {each.name for each in LoadParameters.declared() if each.is_optional})),
]
ParameterChanges = Annotated[
    dict[str, Any],
    AfterValidator(_checked),
    WithJsonSchema(_with_null(PARAMETERS_SCHEMA, Changes.model_fields.keys())),
]
"""Only what the client wants to change."""

WhichFace = Annotated[str, AfterValidator(_checked_face), WithJsonSchema(FACE_SCHEMA)]
"""Which of several faces in a portrait; the same setting as for files."""
