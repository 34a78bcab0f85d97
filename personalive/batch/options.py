"""What may be chosen for a batch, beside the settings of its animations and of the model."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator

from personalive.errors import InputError
from personalive.settings import Settings, Surface, setting
from personalive.settings.animation import path
from personalive.types import OutputFormat

MAX_WORKERS = 1024
MAX_RETRIES = 100
RESULTS = "results.jsonl"
PORTRAITS, DRIVERS, MADE = "portraits", "drivers", "results"
"""Folders that are looked for in a folder given as jobs, and the one that is made there."""

_batch = partial(setting, group="batch", on=Surface.CLI)
_Path = Annotated[Path | None, BeforeValidator(path)]


class BatchOptions(Settings):
    """Where a batch's jobs come from, and how they are worked on.

    Raises:
        InputError: a value that is not allowed, or options that contradict each other.
    """

    jobs: _Path = None
    """A .jsonl or .csv file, or a folder with `portraits` and `drivers`."""
    portraits: _Path = _batch(None, "Folder whose portraits are animated by every one of the drivers")
    drivers: _Path = _batch(None, "Folder with the drivers for them")
    output: _Path = _batch(
        None,
        "Folder for the results of portraits and drivers, OUTPUT/PORTRAIT/DRIVER.mp4",
        flags=("-o",),
        default_text=f"{MADE} in the given folder",
    )
    output_format: OutputFormat = _batch("mp4", "Kind of the results of portraits and drivers")
    results: _Path = _batch(
        None,
        "File with a line for each job that has ended, with what came of it",
        default_text=f"{RESULTS} beside the jobs, or in the folder",
    )
    workers: int | None = _batch(
        None, "Processes that work side by side", low=1, high=MAX_WORKERS, default_text="one for each GPU, or one"
    )
    retries: int = _batch(
        1, "How often a job is tried again that failed or whose process died", low=0, high=MAX_RETRIES
    )
    go_on: bool = _batch(
        False, "Make the other jobs if some are refused; otherwise nothing is begun", flags=("--continue",)
    )
    ray: str | None = _batch(
        None,
        "Work on a Ray cluster: the one that this machine belongs to (auto), or that at an address",
        metavar="auto|ADDRESS",
        default_text="on this machine alone",
    )

    def model_post_init(self, context: Any) -> None:
        """Refuse options without jobs, and those that would do nothing."""
        if (self.portraits is None) != (self.drivers is None):
            there, missing = ("portraits", "drivers") if self.drivers is None else ("drivers", "portraits")
            raise InputError(f"{there} is {getattr(self, there)}: it needs {missing} as well")
        if (self.jobs is None) == (self.portraits is None):
            raise InputError(
                "give the jobs: a .jsonl or .csv file, or a folder that holds portraits and drivers; or name two "
                "folders with --portraits and --drivers" + (", and not both" if self.jobs else "")
            )
        if self.portraits is not None and self.output is None:
            raise InputError("output is missing: it must be a folder for the results of portraits and drivers")
        if self.jobs is not None and not self.jobs.is_dir():
            for name in ("output", "output_format"):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise InputError(
                        f"{name} is {getattr(self, name)}: it must be left out, as each row of {self.jobs} names its "
                        "output"
                    )

    @property
    def folders(self) -> tuple[Path, Path, Path] | None:
        """Folders of portraits, drivers and results; None if the jobs are in a file."""
        if self.portraits is not None and self.drivers is not None and self.output is not None:
            return self.portraits, self.drivers, self.output
        if self.jobs is not None and self.jobs.is_dir():
            return self.jobs / PORTRAITS, self.jobs / DRIVERS, self.output or self.jobs / MADE
        return None

    @property
    def results_file(self) -> Path:
        """Where the line for each job goes."""
        if self.results is not None:
            return self.results
        if self.jobs is not None:
            return (self.jobs if self.jobs.is_dir() else self.jobs.parent) / RESULTS
        assert self.output is not None
        return self.output / RESULTS
