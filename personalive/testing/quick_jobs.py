"""Jobs that take no time: what processes of a batch do in tests, where they import this by its name."""

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from personalive.batch.job import Job, Result, failed
from personalive.batch.worker import MakeJob
from personalive.errors import InputError
from personalive.processes import Seat


@dataclass(frozen=True)
class QuickPreparation:
    """A preparation whose jobs do what their references say, and leave a mark for each attempt."""

    marks: Path
    """Folder for those marks. A file `refuse` or `dead` in it stops processes before their first job."""

    def __call__(self, seat: Seat) -> MakeJob:
        """The function that makes jobs.

        Raises:
            InputError: if that is wanted.
        """
        if (self.marks / "refuse").exists():
            raise InputError("there are no weights here")
        if (self.marks / "dead").exists():
            os._exit(7)

        def make(job: Job, say: Callable[[int, int], None]) -> Result:
            (self.marks / f"{job.row}.{os.getpid()}.{os.urandom(4).hex()}").touch()
            say(4, 8)
            if job.reference == "dies" or (job.reference == "dies once" and len(attempts(self.marks, job)) == 1):
                os.kill(os.getpid(), signal.SIGKILL)
            if job.reference == "fails":
                return failed(job, "no face was found")
            say(8, 8)
            return job.ended(status="done", frames=8)

        return make


def attempts(marks: Path, job: Job) -> list[Path]:
    """The marks that a job has left."""
    return list(marks.glob(f"{job.row}.*"))
