"""Requests that take no model: what processes of `serve-jobs` do in tests and measurements.

    python -m personalive.testing.quick_requests --marks FOLDER --port 0 --replicas 2

runs the service with them. A request's `ref_image` is a data: URL whose text says what becomes of it.
"""

import argparse
import logging
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from personalive.cli.arguments import add_settings, read_settings
from personalive.errors import InputError
from personalive.jobs.options import JobsOptions
from personalive.jobs.serve import serve
from personalive.jobs.work import Made, Make, Reporter
from personalive.loading import ModelChoice

STEP = 0.05
"""Seconds between two looks at whether a job is still wanted, as between two chunks."""


@dataclass(frozen=True)
class QuickRequests:
    """A preparation. Each attempt leaves a mark, a file with the seed's and the process's number in its name."""

    marks: Path
    """Folder for them. A file `refuse` in it stops processes before their first job."""

    def __call__(self) -> Make:
        """The function that makes jobs.

        Raises:
            InputError: if that is wanted.
        """
        if (self.marks / "refuse").exists():
            raise InputError("there are no weights here")

        def make(inputs: Mapping[str, Any], reporter: Reporter) -> Made:
            seed = inputs.get("seed", 42)
            (self.marks / f"{seed}.{os.getpid()}.{os.urandom(4).hex()}").touch()
            wish, _, seconds = inputs["ref_image"].partition(",")[2].partition(":")
            reporter.say(f"animating for {seconds or 0} s")
            deadline = time.monotonic() + float(seconds or 0)
            while time.monotonic() < deadline:
                time.sleep(min(STEP, max(0.0, deadline - time.monotonic())))
                reporter.check()
            if wish == "dies" or (wish == "dies once" and len(list(self.marks.glob(f"{seed}.*"))) == 1):
                os.kill(os.getpid(), signal.SIGKILL)
            if wish == "fails":
                raise InputError("no face was found")
            if wish == "breaks":
                raise RuntimeError(f"/opt/secret {seed}")
            return Made("text/plain", f"result {seed}".encode())

        return make


def main() -> None:
    """Run the service."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--marks", type=Path, required=True)
    add_settings(parser, JobsOptions)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    serve(read_settings(options, JobsOptions), ModelChoice(device="cpu"), QuickRequests(options.marks.absolute()))


if __name__ == "__main__":
    from personalive.testing import quick_requests

    quick_requests.main()  # so that its classes have the name by which other processes import them
