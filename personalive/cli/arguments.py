"""Command-line flags, made from the settings that they choose."""

import argparse
from pathlib import Path
from typing import Any, TypeVar

from personalive.settings import Setting, Settings, Surface

S = TypeVar("S", bound=Settings)

METAVARS = {int: "N", float: "X", str: "TEXT", Path: "PATH"}


def add_settings(parser: argparse.ArgumentParser, settings: type[Settings]) -> None:
    """Add a flag to a parser for each setting that has one, under the heading of its group."""
    for each in settings.declared(Surface.CLI):
        if each.kind is bool:
            name = f"--no_{each.name}" if each.default else f"--{each.name}"
            action = "store_false" if each.default else "store_true"
            options: dict[str, Any] = {"dest": each.name, "action": action}
        else:
            name = f"--{each.name}"
            options = _options_of_a_value(each)
        flags = (
            each.about.flags if any(flag.startswith("--") for flag in each.about.flags) else (name, *each.about.flags)
        )
        group(parser, each.about.group).add_argument(*flags, help=help_of(each).replace("%", "%%"), **options)


def _options_of_a_value(each: Setting) -> dict[str, Any]:
    if each.kind is tuple:  # values are checked when the settings are made
        return {"dest": each.name, "action": "append", "default": [], "metavar": each.about.metavar}
    kind = str if each.about.text else each.kind
    options: dict[str, Any] = {"dest": each.name, "type": kind, "default": each.default}
    if each.kind is str and each.choices:
        return options | {"choices": each.choices}
    return options | {"metavar": each.about.metavar or METAVARS[each.kind]}


def read_settings(options: argparse.Namespace, settings: type[S], /, **more: Any) -> S:
    """The settings that the flags of `add_settings` set; `more` has those without a flag.

    Raises:
        InputError: a value that is not allowed.
    """
    given = {each.name: getattr(options, each.name) for each in settings.declared(Surface.CLI)}
    several = {name: tuple(value) for name, value in given.items() if isinstance(value, list)}
    return settings(**{**given, **several, **more})


def group(parser: argparse.ArgumentParser, title: str) -> "argparse._ArgumentGroup":
    """The group of a parser with this title, created if it is missing."""
    return next((each for each in parser._action_groups if each.title == title), None) or parser.add_argument_group(
        title
    )


def help_of(each: Setting) -> str:
    """What the command's help says about a setting: description, bounds and default."""
    about = each.about
    said = about.off if about.off and each.default else about.description
    allowed = each.bounds if each.kind in (int, float) else ""
    default = "" if each.kind in (bool, tuple) else shown_default(each)
    brackets = "; ".join(filter(None, (allowed, default and f"default: {default}")))
    sentence = f"{said} ({brackets})" if brackets else said
    return f"{sentence}. {about.details}." if about.details else sentence


def shown_default(each: Setting) -> str:
    """The default in words; empty if there is nothing to say."""
    if each.default is None:
        return each.about.default_text
    if each.kind is bool:
        return str(each.default).lower()
    return f"{each.default:g}" if each.kind is float else str(each.default)
