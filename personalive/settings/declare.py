"""How a setting is declared: once, with its type, bounds, default and words, and with the surfaces on which it appears.

The command line (`cli/arguments.py`), Cog's inputs and the tables in README and docs (`scripts/write_settings.py`) and
the live server's schemas (`live/http/settings.py`), from which the page makes its controls, come from these
declarations. Nothing here needs more than pydantic.
"""

import difflib
import enum
import types
import typing
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from personalive.errors import InputError

FEW = 5
"""The most values that are listed; more are described by their bounds."""


class Surface(enum.Flag):
    """Where a setting can be chosen. Python has all of them, so it needs no name here."""

    CLI = enum.auto()
    HTTP = enum.auto()
    """Cog's inputs, which come from untrusted clients: no server paths, no operator settings."""
    LIVE = enum.auto()
    """A session of the live server, while it runs."""


NOWHERE = Surface(0)
"""Only in Python."""


@dataclass(frozen=True)
class About:
    """What a declaration says beside type and default."""

    description: str
    """One line that starts with a capital and has no full stop."""
    on: Surface = NOWHERE
    group: str = ""
    """Heading under which the command's help has it."""
    low: float | None = None
    high: float | None = None
    multiple_of: int | None = None
    pattern: str = ""
    """Regular expression that a text must match from its first to its last character..."""
    pattern_text: str = ""
    """...and what that means, to be said after "must be"."""
    step: float | None = None
    """Step of the slider on the live page; a number without one has a text field."""
    default_text: str = ""
    """What is used if nothing is chosen, for a default of None."""
    details: str = ""
    """Further sentences for the help."""
    label: str = ""
    """Caption on the live page; default: the name."""
    flags: tuple[str, ...] = ()
    """Further flags on the command line, such as `-W`; one that starts with `--` replaces that of the name."""
    metavar: str = ""
    text: bool = False
    """Whether commands and HTTP take it as text, which its validator reads: a time, for instance."""
    off: str = ""
    """For a switch that is on by default: the description of `no_NAME`, which turns it off."""

    def __call__(self, schema: dict[str, Any]) -> None:
        """Finish pydantic's JSON schema: null, which clients need not send, is removed."""
        if "anyOf" in schema:
            schema.update(next(each for each in schema.pop("anyOf") if each.get("type") != "null"))
        if schema.get("default", ...) is None:
            del schema["default"]
        more = {"step": self.step, "default_text": self.default_text}
        schema.update({name: value for name, value in more.items() if value})


def setting(default: Any, description: str, **about: Any) -> Any:
    """Declare a field of a `Settings`; `about` as in `About`."""
    said = About(description, **about)
    return Field(
        default,
        title=said.label or None,
        description=". ".join(filter(None, (description, said.details.removesuffix(".")))) + ".",
        ge=said.low,
        le=said.high,
        multiple_of=said.multiple_of,
        pattern=f"^(?:{said.pattern})$" if said.pattern else None,
        json_schema_extra=said,
    )


def count_or_auto(value: Any) -> Any:
    """A number as a flag has it, or `auto`, which is None; for a `BeforeValidator`."""
    if value == "auto":
        return None
    return int(value) if isinstance(value, str) and value.isdecimal() else value


def same(model: "type[Settings]", name: str, **about: Any) -> Any:
    """Declare a field as another model does, except for what `about` says."""
    field = copy(model.model_fields[name])
    assert isinstance(field.json_schema_extra, About)
    field.json_schema_extra = replace(field.json_schema_extra, **about)
    return field


@dataclass(frozen=True)
class Setting:
    """A declared setting, as those surfaces read it that are made from declarations."""

    name: str
    annotation: Any
    default: Any
    about: About

    @property
    def kind(self) -> Any:
        """Type of a value: bool, int, float, str or Path; tuple for several."""
        first = self._alternatives[0]
        origin = typing.get_origin(first)
        return type(typing.get_args(first)[0]) if origin is Literal else origin or first

    @property
    def is_optional(self) -> bool:
        """Whether None is allowed, which leaves the choice to the program."""
        return types.NoneType in typing.get_args(self.annotation)

    @property
    def choices(self) -> tuple[Any, ...]:
        """Every allowed value, if they can be listed."""
        first = self._alternatives[0]
        if typing.get_origin(first) is Literal:
            return typing.get_args(first)
        if self.about.multiple_of and self.about.low is not None and self.about.high is not None:
            return tuple(range(int(self.about.low), int(self.about.high) + 1, self.about.multiple_of))
        return ()

    @property
    def allowed(self) -> str:
        """What a value must be, to be said after "must be"."""
        words = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}
        what = words.get(self.kind, "several values")
        if self.about.pattern_text:
            return self.about.pattern_text
        return self.bounds if self.choices else f"{what} {self.bounds}".rstrip()

    @property
    def bounds(self) -> str:
        """The values if they are few, else from where to where; empty without bounds."""
        about = self.about
        if self.choices and len(self.choices) <= FEW:
            *most, last = map(str, self.choices)
            return f"{', '.join(most)} or {last}"
        if about.low is None or about.high is None:
            return ""
        what = f"a multiple of {about.multiple_of} " if about.multiple_of else ""
        return f"{what}from {_plain(about.low)} to {_plain(about.high)}"

    @property
    def _alternatives(self) -> tuple[Any, ...]:
        if typing.get_origin(self.annotation) in (typing.Union, types.UnionType):
            return tuple(each for each in typing.get_args(self.annotation) if each is not types.NoneType)
        return (self.annotation,)


class Settings(BaseModel):
    """Frozen values that are checked when they are made.

    Raises:
        InputError: a name that does not exist or a value that is not allowed; the message says which are.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise InputError(self._refusal(error, values)) from None

    @field_validator("*", mode="before")
    @classmethod
    def _whole(cls, value: Any, field: ValidationInfo) -> Any:
        """JSON has one kind of numbers: 7.0 is a whole one."""
        annotation = cls.model_fields[str(field.field_name)].annotation
        if isinstance(value, float) and value.is_integer() and int in (annotation, *typing.get_args(annotation)):
            return int(value)
        return value

    def replace(self, **values: Any) -> Self:
        """These settings with some changed.

        Raises:
            InputError: as for a new object.
        """
        return type(self)(**{**self.given(), **values})

    def given(self) -> dict[str, Any]:
        """Name and value of every field."""
        return {name: getattr(self, name) for name in type(self).model_fields}

    @classmethod
    def declared(cls, on: Surface | None = None) -> tuple[Setting, ...]:
        """The settings of a surface, or all of them, in the order of their declaration."""
        every = (
            Setting(name, field.annotation, field.default, field.json_schema_extra)
            for name, field in cls.model_fields.items()
            if isinstance(field.json_schema_extra, About)
        )
        return tuple(each for each in every if on is None or on in each.about.on)

    @classmethod
    def from_inputs(cls, inputs: Mapping[str, Any], on: Surface) -> Self:
        """Read a surface's values, in which a switch that is on by default is called `no_NAME`.

        Raises:
            InputError: as for a new object.
        """
        values = {}
        for each in cls.declared(on):
            if each.about.off and f"no_{each.name}" in inputs:
                given = inputs[f"no_{each.name}"]
                values[each.name] = not given if isinstance(given, bool) else given
            elif each.name in inputs:
                values[each.name] = inputs[each.name]
        return cls(**values)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """What variables such as PERSONALIVE_MODEL and PERSONALIVE_LOW_MEMORY say; a switch is 1 or 0.

        Raises:
            InputError: a value that is not allowed.
        """
        given: dict[str, Any] = {}
        for each in cls.declared():
            variable = f"PERSONALIVE_{each.name.upper()}"
            text = environment.get(variable)
            if text and each.kind is bool:
                if text not in ("0", "1"):
                    raise InputError(f"{variable} is {text!r}: it must be 1 or 0")
                given[each.name] = text == "1"
            elif text:
                given[each.name] = each.kind(text)
        return cls(**given)

    @classmethod
    def _refusal(cls, error: ValidationError, values: Mapping[str, Any]) -> str:
        known = {each.name: each for each in cls.declared()}
        sentences: dict[str, str] = {}
        for problem in error.errors(include_url=False, include_context=False, include_input=False):
            name = str(problem["loc"][0])
            if problem["type"] == "extra_forbidden":
                close = difflib.get_close_matches(name, cls.model_fields, 1)
                sentences[name] = f"there is no setting {shown(name)}" + (
                    f": did you mean {close[0]}?" if close else ""
                )
            else:
                allowed = known[name].allowed if name in known else "of another kind"
                sentences[name] = f"{name} is {shown(values.get(name))}: it must be {allowed}"
        return "; ".join(sentences.values())


def shown(value: Any) -> str:
    """A refused value in a message: as Python writes it, at most 60 characters."""
    try:
        text = repr(value) if isinstance(value, str | int | float | Path | None) else _named(value)
    except ValueError:  # Python does not write whole numbers of thousands of digits
        text = "a number of thousands of digits"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _named(value: Any) -> str:
    if isinstance(value, list | tuple) and value and all(isinstance(each, str) for each in value):
        return ", ".join(map(repr, value))
    return str(value) if isinstance(value, Fraction) else f"of type {type(value).__name__}"


def _plain(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:g}"
