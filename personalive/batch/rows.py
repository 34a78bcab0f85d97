"""Reads lists of jobs: lines of JSON, tables of CSV, and folders of portraits and drivers."""

import csv
import json
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from personalive.errors import InputError
from personalive.media.images import media_types
from personalive.settings import AnimateOptions, Setting, Surface

logger = logging.getLogger(__name__)

MAX_ROWS = 1_000_000
MAX_LINE = 1 << 20
"""Characters."""
DELIMITERS = ",;\t"
"""Spreadsheets of some languages write semicolons."""
FILES = ("reference", "driver", "output")
ALIASES = {"ref_image": "reference", "driving_video": "driver"}
"""The command's names for them."""
SWITCHES = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
SETTINGS: dict[str, Setting] = {each.name: each for each in AnimateOptions.declared(Surface.CLI)}
NEGATED = {f"no_{each.name}": each for each in SETTINGS.values() if each.about.off}
"""Switches that are on by default, by the names that turn them off."""
VIDEOS = frozenset(
    (
        *(".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts"),
        *(".flv", ".ogv", ".ogg", ".wmv", ".asf", ".3gp", ".motion"),
    )
)
PICTURES = frozenset(media_types()) | {".heic", ".heif"}


@dataclass(frozen=True)
class Row:
    """What a list says about one job, not yet checked; files are as they are written there."""

    number: int
    values: dict[str, Any]
    problem: str = ""
    """Why it cannot be read."""


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a file.

    Raises:
        InputError: it is of another kind, or cannot be read at all.
    """
    kinds = {".jsonl": _json_rows, ".ndjson": _json_rows, ".csv": _csv_rows, ".tsv": _csv_rows}
    read = kinds.get(path.suffix.lower())
    if not path.exists():
        raise InputError(f"the jobs {path} do not exist")
    if read is None:
        raise InputError(f"the jobs {path} must be a .jsonl or .csv file, or a folder with portraits and drivers")
    if not path.is_file():
        raise InputError(f"the jobs {path} are not in a file: give one of the kind that its name says")
    count = 0
    try:
        for count, row in enumerate(read(path), 1):
            if count > MAX_ROWS:
                raise InputError(f"{path} has more than {MAX_ROWS} jobs; split it")
            yield row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"the jobs {path} cannot be read: {error}") from error
    if count == 0:  # a list that is not written yet, or the wrong file, would otherwise be a batch that succeeded
        raise InputError(f"there are no jobs in {path}: give reference, driver and output in each row")


def _json_rows(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE), ""), 1):
            if not line.strip():
                continue
            try:
                values = json.loads(line, object_pairs_hook=_once)
            except (ValueError, RecursionError) as error:
                yield Row(number, {}, f"cannot be read as JSON: {error}")
                continue
            if isinstance(values, dict):
                yield Row(number, {name: value for name, value in values.items() if value is not None})
            else:
                yield Row(number, {}, 'must be an object, such as {"reference": "me.png", ...}')


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    twice = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
    if twice:
        raise ValueError(f"{twice[0]!r} is there more than once")
    return dict(pairs)


def _csv_rows(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        first = file.readline(MAX_LINE)
        file.seek(0)
        delimiter = max(DELIMITERS, key=first.count)
        lines = csv.reader(file, delimiter=delimiter, strict=True)
        header = [name.strip() for name in next(lines, [])]
        twice = [name for name, count in Counter(header).items() if count > 1]
        if twice:
            raise InputError(f"{path}, row 1: there are two columns {twice[0]!r}")
        for number, cells in enumerate(lines, 2):
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) > len(header):
                yield Row(number, {}, f"has {len(cells)} cells, but there are {len(header)} columns")
                continue
            given = ((name, cell.strip()) for name, cell in zip(header, cells, strict=False))
            yield Row(number, {name: _value(name, cell) for name, cell in given if cell})


def _value(name: str, cell: str) -> Any:
    """A cell as a value of its setting; a text that is none stays as it is, to be refused with its name."""
    each = SETTINGS.get(name) or NEGATED.get(name)
    if each is None or each.about.text:
        return cell
    if each.kind is bool:
        return SWITCHES.get(cell.lower(), cell)
    try:
        return float(cell) if each.kind in (int, float) else cell
    except ValueError:
        return cell


def folder_rows(portraits: Path, drivers: Path, output: Path, suffix: str) -> Iterator[Row]:
    """Every portrait with every driver. The result is `OUTPUT/PORTRAIT/DRIVER.suffix`.

    Raises:
        InputError: a folder is missing, or has nothing that can be used.
    """
    faces, motions = _members(portraits, PICTURES | VIDEOS - {".motion"}), _members(drivers, PICTURES | VIDEOS)
    pairs = ((face, motion) for face in faces.items() for motion in motions.items())
    for number, ((face, face_name), (motion, motion_name)) in enumerate(pairs, 1):
        target = output / face_name / f"{motion_name}.{suffix}"
        yield Row(number, {"reference": str(face), "driver": str(motion), "output": str(target)})


def _members(folder: Path, suffixes: frozenset[str]) -> dict[Path, str]:
    """Files of a folder and what to call their results: without their endings, unless two would be called the same."""
    try:
        files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    except OSError as error:
        raise InputError(f"there is no folder {folder} that can be read: {error.strerror}") from error
    found = [path for path in files if path.suffix.lower() in suffixes]
    for path in files:
        if path not in found:
            logger.warning("%s is left out, as its name does not end like a picture or a video", path)
    if not found:
        raise InputError(f"there is nothing in {folder} that can be used")
    count = Counter(path.stem.lower() for path in found)
    return {path: path.stem if count[path.stem.lower()] == 1 else path.name for path in found}
