"""What is kept beside a result: how it was made, so that the same is not made twice, and nothing else is replaced.

A job writes `begun` before its result can appear and `done` after it has. So whatever is killed, and when: what is in
the place of a result without either is not ours.
"""

import enum
import hashlib
import json
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Literal, Self

from personalive.batch.job import Job, Result
from personalive.batch.places import Place, digest
from personalive.errors import OutputError

VERSION = 1
NO_DIFFERENCE = ("overwrite", "resume")
"""Settings with which the result is the same."""


class Standing(enum.Enum):
    """What is in the place of a result."""

    FREE = enum.auto()
    """Nothing."""
    BEGUN = enum.auto()
    """Perhaps its result: the job was stopped at some moment."""
    DONE = enum.auto()
    """Its result."""
    OTHER = enum.auto()
    """The result of a job with other options, inputs or model."""
    FOREIGN = enum.auto()
    """Something else."""


@dataclass(frozen=True)
class Record:
    """What is kept about a result."""

    state: Literal["begun", "done"]
    key: str
    """`key_of` the job."""
    run: str
    """Which run of a batch wrote it."""
    attempts: int
    """How often that run has begun it."""
    size: int | None = None
    """`Place.size` of the result."""
    result: str = ""
    """`Result.to_json` of it."""
    version: int = VERSION

    @classmethod
    def read(cls, place: Place) -> Self | None:
        """What is kept there, if it can be read."""
        try:
            found = cls(**json.loads(place.read_note() or ""))
            if found.state == "done":
                Result.from_json(found.result)
        except (ValueError, TypeError):
            return None
        return found if found.version == VERSION else None

    def result_of(self, job: Job) -> Result:
        """The result that is kept, as that of a job for which it would be the same."""
        kept = Result.from_json(self.result)
        return replace(kept, row=job.row, reference=job.reference, driver=job.driver, output=job.output)

    def write(self, place: Place) -> None:
        """Keep it there."""
        place.write_note(json.dumps(asdict(self), ensure_ascii=False))


def key_of(job: Job) -> str:
    """Stands for everything that the result depends on: inputs, options, model.

    Raises:
        InputError: an input cannot be read.
    """
    options = {name: value for name, value in job.options.given().items() if name not in NO_DIFFERENCE}
    values = {"options": options, "reference": digest(job.reference), "driver": digest(job.driver), "model": job.model}
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=_plain).encode()).hexdigest()


def _plain(value: object) -> str:
    if isinstance(value, Path | Fraction):
        return str(value)
    raise TypeError(f"{type(value)} has no plain form")


def standing(job: Job, place: Place, record: Record | None) -> Standing:
    """What is in the place of a job's result, as far as can be known.

    Raises:
        InputError: an input cannot be read.
        OutputError: the place cannot be read.
    """
    size = place.size()
    if record is None:
        return Standing.FREE if size is None else Standing.FOREIGN
    same = record.key == key_of(job)
    if record.state == "begun":
        return Standing.BEGUN if same else Standing.FREE if size is None else Standing.OTHER
    if size is None:
        return Standing.FREE
    if size != record.size:
        return Standing.FOREIGN
    if not same:
        return Standing.OTHER
    motion = job.options.save_motion
    return Standing.DONE if motion is None or motion.exists() else Standing.BEGUN


def refuse_taken(job: Job, found: Standing) -> None:
    """Refuse to replace what is not this job's, unless that is allowed.

    Raises:
        OutputError
    """
    if job.options.overwrite or found not in (Standing.OTHER, Standing.FOREIGN):
        return
    what = "was made with other options, inputs or another model" if found is Standing.OTHER else "already exists"
    raise OutputError(f"the output {job.output} {what}; choose another name or allow it with overwrite")
