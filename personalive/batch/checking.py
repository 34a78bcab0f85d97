"""Checks all rows of a batch before any work is done, and says what is wrong with each."""

import dataclasses
import difflib
import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from personalive.animate.places import check_paths, folder_of, preview_path
from personalive.batch.job import Job, Result, failed
from personalive.batch.places import absolute, is_address, open_place
from personalive.batch.records import Record, Standing, refuse_taken, standing
from personalive.batch.rows import ALIASES, FILES, NEGATED, SETTINGS, Row
from personalive.errors import InputError, PersonaLiveError
from personalive.media.encoding import FRAMES_NAME
from personalive.media.video_writer import check_folder
from personalive.settings import AnimateOptions
from personalive.settings.declare import shown

LISTED = 20
"""Refused rows that a message lists."""


@dataclass
class Checked:
    """What became of the rows."""

    jobs: list[Job] = field(default_factory=list)
    """To be made."""
    done: list[Result] = field(default_factory=list)
    """There already."""
    refused: list[Result] = field(default_factory=list)

    def refuse(self, source: Path) -> None:
        """Say what is wrong with the rows, if anything is.

        Raises:
            InputError
        """
        if self.refused:
            lines = [f"{source}, row {each.row}: {each.error}" for each in self.refused[:LISTED]]
            if len(self.refused) > LISTED:
                lines.append(f"and {len(self.refused) - LISTED} more")
            jobs = "1 job cannot" if len(self.refused) == 1 else f"{len(self.refused)} jobs cannot"
            more = "; --continue makes the others" if self.jobs or self.done else ""
            raise InputError("\n".join([f"{jobs} be made, so nothing was begun{more}:", *lines]))


def check_rows(rows: Iterable[Row], base: Path, options: AnimateOptions, model: str) -> Checked:
    """Jobs for all rows that can be used.

    Args:
        rows: of a list.
        base: the folder from which relative paths in it start.
        options: of jobs that do not say otherwise.
        model: see `Job.model`.
    """
    checked, read = Checked(), list[Job]()
    for row in rows:
        try:
            read.append(_read(row, base, options, model))
        except PersonaLiveError as error:
            reference, driver, output = (str(row.values.get(name, "")) for name in FILES)
            refused = Result(row.number, reference, driver, output, "failed", attempts=0, error=str(error))
            checked.refused.append(refused)
    collisions = _collisions(read)
    for job in read:
        try:
            if job.row in collisions:
                raise InputError(collisions[job.row])
            kept = _check(job)
        except PersonaLiveError as error:
            checked.refused.append(failed(job, str(error), attempts=0))
        else:
            if kept is None:
                checked.jobs.append(job)
            else:
                checked.done.append(dataclasses.replace(kept.result_of(job), is_old=True))
    checked.refused.sort(key=lambda result: result.row)
    return checked


def _read(row: Row, base: Path, options: AnimateOptions, model: str) -> Job:
    if row.problem:
        raise InputError(row.problem)
    given: dict[str, Any] = {}
    for column, value in row.values.items():
        name = ALIASES.get(column, column)
        if name not in (*FILES, *SETTINGS, *NEGATED):
            raise InputError(_unknown(column))
        if column in NEGATED:
            name, value = NEGATED[column].name, not value if isinstance(value, bool) else value
        if name in given:
            raise InputError(f"{name} is there twice, once as {column}")
        given[name] = value
    files = {}
    for name in FILES:
        text = given.pop(name, "")
        if not isinstance(text, str) or not text or "\0" in text:
            raise InputError(
                f"{name} is {shown(text)}: it must be a path or an address" if text else f"{name} is missing"
            )
        files[name] = absolute(text, base, f"the {name}")
    for name, value in given.items():
        if SETTINGS[name].kind is Path and isinstance(value, str) and value:
            given[name] = absolute(value, base, name)
    chosen = options.replace(**given)
    paths = ((name, value) for name, value in chosen.given().items() if isinstance(value, Path))
    chosen = chosen.replace(**{name: value.absolute() for name, value in paths})
    return Job(row.number, files["reference"], files["driver"], files["output"], chosen, model)


def _unknown(column: str) -> str:
    known = [*FILES, *ALIASES, *SETTINGS, *NEGATED]
    close = difflib.get_close_matches(column, known, 1)
    return f"there is no column {shown(column)}" + (f": did you mean {close[0]}?" if close else "")


def _check(job: Job) -> Record | None:
    """Refuse a job that cannot be made; what is kept about it if it is made already."""
    reference, driver = (None if is_address(text) else Path(text) for text in (job.reference, job.driver))
    if is_address(job.output):
        for name in ("resume", "preview"):
            if getattr(job.options, name):
                raise InputError(f"{name} is {getattr(job.options, name)}: it needs an output in a folder")
        if job.output.endswith(f"/{FRAMES_NAME}"):
            raise InputError(f"the output {job.output} cannot be in a store: numbered pictures need a folder")
        # What is there is looked at by the worker, as a store may be slow. Here, nothing can be there.
        check_paths(reference, driver, Path(os.devnull, job.output.rpartition("/")[2]), job.options)
        open_place(job.output)
        return None
    place, output = open_place(job.output), Path(job.output)
    record = Record.read(place)
    for path, what in ((reference, "the reference"), (driver, "the driving video")):
        if path is not None and not path.exists():
            raise InputError(f"{what} {path} does not exist")
    found = standing(job, place, record)
    refuse_taken(job, found)
    ours = job.options.overwrite or found is not Standing.FREE
    check_paths(reference, driver, output, job.options.replace(overwrite=ours))
    check_folder(output, Path(os.path.realpath(output)))
    return record if found is Standing.DONE else None


def _collisions(jobs: list[Job]) -> dict[int, str]:
    """By row: why it cannot be made beside the others, as they would write to each other's files."""
    inputs: dict[str, int] = {}
    writers: dict[str, list[Job]] = defaultdict(list)
    for job in jobs:
        for text in (job.reference, job.driver):
            inputs.setdefault(_same(text), job.row)
        for text in _written(job):
            writers[_same(text)].append(job)
    problems: dict[int, str] = {}
    for written, several in writers.items():
        for job in several[1:]:
            problems[job.row] = f"{written} is written by row {several[0].row} as well; choose another output"
        if written in inputs:
            problems[several[0].row] = f"the output {written} is an input of row {inputs[written]}; choose another name"
    return problems


def _written(job: Job) -> list[str]:
    """What a job writes."""
    if is_address(job.output):
        return [job.output]
    output = Path(job.output)
    numbered = output.name == FRAMES_NAME
    also = [
        preview_path(output) if job.options.preview is not None else None,
        folder_of(output) if job.options.resume else None,
        job.options.save_motion,
    ]
    return [str(output.parent if numbered else output), *map(str, filter(None, also))]


def _same(text: str) -> str:
    return text if is_address(text) else os.path.realpath(text)
