"""Writes what is generated from the declared settings: tables in README and docs, Cog's inputs and schema.

    python -m scripts.write_settings

Cog's inputs are written out, not computed: `cog build` reads predict.py without running it, and takes nothing but
literals for bounds, choices and descriptions.
"""

import argparse
import re
import subprocess
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

from personalive.cli.arguments import shown_default
from personalive.cli.main import build_parser
from personalive.live.core.parameters import Changes
from personalive.settings import DRIVER, REFERENCE, RequestOptions, Setting, Surface

ROOT = Path(__file__).parents[1]
README, LIVE, PREDICTOR = ROOT / "README.md", ROOT / "docs" / "live.md", ROOT / "predict.py"
SCALE = ROOT / "docs" / "scale.md"
SCHEMA = ROOT / ".cog" / "openapi_schema.json"
PACKAGED_SCHEMA = ROOT / "personalive" / "gateway" / "cog_schema.json"
TABLES = {
    "animate": ("<!-- options -->", "<!-- end of options -->"),
    "serve": ("<!-- serve options -->", "<!-- end of serve options -->"),
}
TASKS = ("<!-- tasks -->", "<!-- end of tasks -->")
JOBS = ("<!-- serve-jobs options -->", "<!-- end of serve-jobs options -->")
BATCH = ("<!-- batch options -->", "<!-- end of batch options -->")
PARAMETERS = ("<!-- parameters -->", "<!-- end of parameters -->")
INPUTS = (
    "        # Written by scripts/write_settings.py from personalive/settings:",
    "        # End of what is written.",
)


def readme(text: str) -> str:
    """README with the tables of options."""
    for verb, (begin, end) in TABLES.items():
        text = _between(text, begin, end, "\n".join(_table(verb)))
    return _between(text, *TASKS, "\n".join(_tasks()))


def scale(text: str) -> str:
    """docs/scale.md with the tables of a batch's own options, and of the service's."""
    text = _between(text, *BATCH, "\n".join(_table("batch", {"batch"})))
    return _between(text, *JOBS, "\n".join(_table("serve-jobs", {"jobs", "server"})))


def live(text: str) -> str:
    """docs/live.md with the table of a session's parameters."""
    rows = [
        f"| `{each.name}` | {each.about.description} | {each.allowed} | {shown_default(each)} |"
        for each in Changes.declared()
    ]
    return _between(
        text, *PARAMETERS, "\n".join(["| parameter | | a value is | default |", "|---|---|---|---|", *rows])
    )


def predictor(text: str) -> str:
    """predict.py with the inputs of `predict`."""
    lines = [
        line
        for name, said in (("ref_image", REFERENCE), ("driving_video", DRIVER))
        for line in _upload(name, f"{said}.")
    ]
    lines += [line for each in RequestOptions.declared(Surface.HTTP) for line in cog_input(each)]
    return _between(text, *INPUTS, "\n".join(lines))


def _upload(name: str, description: str) -> list[str]:
    """A file of `predict`, on one line if it fits, as ruff formats it."""
    line = f"        {name}: Upload = Input(description={_literal(description)}),"
    if len(line) <= 120:
        return [line]
    return [
        f"        {name}: Upload = Input(",
        f"            description={_literal(description)}",
        "        ),",
    ]


def schema() -> str:
    """Cog's schema of predict.py as it stands."""
    command = [sys.executable, "-m", "cog.command.openapi_schema"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def _between(text: str, begin: str, end: str, content: str) -> str:
    before, found, rest = text.partition(f"{begin}\n")
    _, found_too, after = rest.partition(f"{end}\n")
    if not found or not found_too:
        raise SystemExit(f"there is no place for the generated text: it belongs between\n{begin}\n{end}")
    return f"{before}{begin}\n{content}\n{end}\n{after}"


def _table(verb: str, only: Collection[str] = ()) -> Iterator[str]:
    """The options of a verb; of some groups only, if they are named."""
    (verbs,) = (each for each in build_parser()._actions if isinstance(each, argparse._SubParsersAction))
    yield "| option | what it does |"
    yield "|---|---|"
    groups = verbs.choices[verb]._action_groups
    for group in sorted(groups, key=lambda group: group.title == "options"):  # help and --verbose come last
        actions = [each for each in group._group_actions if not isinstance(each, argparse._HelpAction)]
        if only and group.title not in only:
            continue
        if actions and group.title != "options" and not only:
            yield f"| **{group.title}** | |"
        for action in actions:
            yield _row(action)


def _tasks() -> Iterator[str]:
    """An animation's settings by what they are about, and where each can be chosen."""
    yield "| task | for files | for files, and live while it runs |"
    yield "|---|---|---|"
    groups = dict.fromkeys(("motion", "part of the driver", "picture"))
    groups.update(dict.fromkeys(each.about.group for each in RequestOptions.declared()))
    for group in groups:
        members = [each for each in RequestOptions.declared() if each.about.group == group]
        columns = ([each for each in members if (Surface.LIVE in each.about.on) is live] for live in (False, True))
        yield f"| **{group}** | " + " | ".join(", ".join(map(_named, column)) for column in columns) + " |"


def _named(each: Setting) -> str:
    name = f"`no_{each.name}`" if each.about.off else f"`{each.name}`"
    if Surface.HTTP not in each.about.on:
        return f"{name} (not over HTTP)"
    return name if Surface.CLI in each.about.on else f"{name} (over HTTP)"


def _row(action: argparse.Action) -> str:
    if not action.option_strings:
        return f"| `{action.metavar}` | {action.help} |"
    names = ", ".join(f"`{name}`" for name in action.option_strings)
    value = ", ".join(f"`{choice}`" for choice in action.choices or ()) or str(action.metavar or "")
    said = ((action.help or "") % vars(action)).replace("|", "\\|")
    return f"| {names} {value.replace('|', ' or ')}".rstrip() + f" | {said} |"


def cog_input(each: Setting) -> Iterator[str]:
    """A parameter of `predict`, line by line."""
    about = each.about
    name = f"no_{each.name}" if about.off else each.name
    said = ". ".join(filter(None, (about.off or about.description, about.details))) + "."
    if each.default is None and about.default_text:
        said += f" Default: {about.default_text}."
    as_text = each.about.text or each.kind is tuple  # several values are one text, with commas between them
    kind = str if as_text else each.kind
    yield f"        {name}: {kind.__name__}{' | None' * each.is_optional} = Input("
    yield _short_enough(f"            description={_literal(said)},")
    default = ",".join(each.default) if each.kind is tuple else each.default
    if about.text and default is not None:
        default = f"{default:g}"
    yield f"            default={_literal(False if about.off else default)},"
    if each.choices:
        yield _short_enough(f"            choices=[{', '.join(map(_literal, each.choices))}],")
    elif kind in (int, float):
        yield f"            ge={_literal(about.low)},"
        yield f"            le={_literal(about.high)},"
    yield "        ),"


def _literal(value: object) -> str:
    if isinstance(value, str):
        if re.search(r'["\\]', value):
            raise SystemExit(f"cog build cannot read this text, which has quotes or backslashes: {value}")
        return f'"{value}"'
    return repr(int(value) if isinstance(value, float) and value == int(value) else value)


def _short_enough(line: str) -> str:
    return line if len(line) <= 120 else f"{line}  # noqa: E501"


def main() -> None:
    """Write them."""
    for path, written in ((README, readme), (LIVE, live), (SCALE, scale), (PREDICTOR, predictor)):
        path.write_text(written(path.read_text()))
    for path in (SCHEMA, PACKAGED_SCHEMA):
        path.write_text(schema())


if __name__ == "__main__":
    main()
