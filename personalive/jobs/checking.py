"""Checks the values of a request before it is queued, as Cog's server does with the schema, and further."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from personalive.errors import InputError, OutputError
from personalive.gateway.requests import InvalidError, complaint
from personalive.media.encoding import check_choices
from personalive.net.addresses import split_url
from personalive.settings import RequestOptions, Surface

FILES = ("ref_image", "driving_video")


def check_inputs(inputs: Mapping[str, Any], schema: Mapping[str, Any]) -> None:
    """Refuse values with which a job would fail for certain. Files are not looked at: their addresses are public or not
    when they are fetched.

    Args:
        inputs: of a request; their names are known.
        schema: of each input.

    Raises:
        InvalidError: with 422; every fault is named.
    """
    wrong = [complaint(("body", "input", name), "Field required", "missing") for name in FILES if name not in inputs]
    for name, value in inputs.items():
        try:
            _check(name, value, schema[name])
        except InputError as error:
            wrong.append(complaint(("body", "input", name), str(error)))
    if not wrong:
        try:
            options = RequestOptions.from_inputs(inputs, Surface.HTTP)
            check_choices(Path(f"output.{options.output_format}"), options.codec, options.quality)
        except (InputError, OutputError) as error:  # values that do not go together
            wrong.append(complaint(("body", "input"), str(error)))
    if wrong:
        raise InvalidError(422, wrong)


def _check(name: str, value: Any, schema: Mapping[str, Any]) -> None:
    if schema.get("type") == "string" and not isinstance(value, str):
        raise InputError(f"{name} must be text")
    if name not in FILES:
        RequestOptions.from_inputs({name: value}, Surface.HTTP)
    elif not value.lower().startswith("data:"):
        split_url(value)
