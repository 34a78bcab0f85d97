"""One animation of a batch, and what came of it: plain values that travel between processes and machines."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Literal, Self

from personalive.settings import AnimateOptions


@dataclass(frozen=True)
class Job:
    """What is to be made. Files are absolute paths or addresses."""

    row: int
    """Where it is in the list of jobs, as an editor or a spreadsheet counts lines; in folders, its number from 1."""
    reference: str
    driver: str
    output: str
    options: AnimateOptions
    model: str
    """The model and how it computes, as far as pictures depend on that."""

    def ended(self, **values: Any) -> "Result":
        """What came of it."""
        return Result(self.row, self.reference, self.driver, self.output, **values)


@dataclass(frozen=True)
class Result:
    """What came of a job."""

    row: int
    reference: str
    driver: str
    output: str
    status: Literal["done", "failed"]
    frames: int = 0
    seconds: float = 0.0
    attempts: int = 1
    messages: tuple[str, ...] = ()
    """What the user should know, as `Progress.message` has it."""
    error: str = ""
    is_old: bool = False
    """Whether it was there before this batch began."""

    @property
    def new_frames(self) -> int:
        """Frames that were made for it now."""
        return 0 if self.is_old or self.status == "failed" else self.frames

    def to_json(self) -> str:
        """One line of the results, without its end."""
        values = {**dataclasses.asdict(self), "seconds": round(self.seconds, 2)}
        del values["is_old"]
        if not self.error:
            del values["error"]
        return json.dumps(values, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The inverse.

        Raises:
            ValueError, TypeError: it is something else.
        """
        values = json.loads(text)
        return cls(**{**values, "messages": tuple(values.get("messages", ()))})


def failed(job: Job, error: str, **values: Any) -> Result:
    """The result of a job that failed."""
    return job.ended(status="failed", error=error, **values)
