"""Widgets of ComfyUI from personalive's declared settings, and settings from what the widgets say."""

from collections.abc import Mapping
from typing import Any, TypeVar

from comfy_api.latest import io

from personalive.settings import Setting, Settings, Surface

S = TypeVar("S", bound=Settings)

DEFAULT = "default"
"""Chosen where a setting is left to the program."""
LEFT_OUT = ("codec", "quality", "output_format", "audio")
"""They are of results that are files. Here they are frames and sound, each an output of its own."""


def declared(settings: type[Settings], surface: Surface | None) -> list[Setting]:
    """The settings that have a widget."""
    return [each for each in settings.declared(surface) if each.name not in LEFT_OUT]


def widget(each: Setting) -> Any:
    """The widget of a setting. All are optional, so that a workflow need not name every one."""
    about = each.about
    default_text = about.default_text and f"Default: {about.default_text}"
    tip = ". ".join(filter(None, (about.description, about.details, default_text)))
    common: dict[str, Any] = {"optional": True, "tooltip": f"{tip}."}
    if each.kind is bool:
        return io.Boolean.Input(each.name, default=bool(each.default), **common)
    if each.choices:
        default = DEFAULT if each.default is None else str(each.default)
        choices = [*([DEFAULT] if each.is_optional else []), *map(str, each.choices)]
        return io.Combo.Input(each.name, options=choices, default=default, **common)
    if each.kind in (int, float) and not each.is_optional and not about.text:
        kind = io.Int if each.kind is int else io.Float
        bounds = {"min": each.kind(about.low), "max": each.kind(about.high)}
        step = {"step": about.step} if about.step else {}
        return kind.Input(each.name, default=each.default, **bounds, **step, **common)
    text = "" if each.default is None or each.kind is tuple else str(each.default)
    return io.String.Input(each.name, default=text, **common)


def chosen(settings: type[S], surface: Surface | None, values: Mapping[str, Any], **more: Any) -> S:
    """The settings that widgets say.

    Raises:
        InputError: a value that is not allowed.
    """
    given: dict[str, Any] = {}
    for each in declared(settings, surface):
        value = values.get(each.name)
        if value is None or value in ("", DEFAULT):
            continue
        given[each.name] = _typed(each, value)
    return settings(**given, **more)


def _typed(each: Setting, value: Any) -> Any:
    if not isinstance(value, str) or each.about.text or each.kind not in (int, float):
        return value
    try:
        return each.kind(value)
    except ValueError:
        return value  # to be refused, in the words of the setting
