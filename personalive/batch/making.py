"""Makes the jobs of a batch, one after the other, with one model: the same on this machine and on a cluster."""

import logging
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace

from personalive.animate.job import animate
from personalive.animate.track_cache import default_folder
from personalive.batch.job import Job, Result, failed
from personalive.batch.places import Place, get_input, is_address, open_place
from personalive.batch.records import Record, Standing, key_of, refuse_taken, standing
from personalive.errors import InputError, MissingExtraError, PersonaLiveError, first_line
from personalive.media.fetched import fetched_inputs
from personalive.pipeline import PersonaLive
from personalive.processes import computes

logger = logging.getLogger(__name__)

Say = Callable[[int, int], None]
"""Is told how many frames of a job's result are made, and of how many."""


class DeviceLostError(Exception):
    """The device does not compute any more: only another process can go on."""


@dataclass(frozen=True)
class Maker:
    """Makes jobs."""

    model: PersonaLive
    retries: int
    """How often a job is tried again."""
    run: str
    """Which run of the batch this is: attempts of others do not count."""

    def __call__(self, job: Job, say: Say) -> Result:
        """Make a job's result, unless it is there. Errors are results too.

        Raises:
            DeviceLostError
        """
        try:
            place = open_place(job.output)
            before = Record.read(place)
            found = standing(job, place, before)
            if before is not None and found is Standing.DONE:
                return replace(before.result_of(job), is_old=before.run != self.run)
            refuse_taken(job, found)
            record = Record("begun", key_of(job), self.run, 0)
            if before is not None and found is Standing.BEGUN and before.run == self.run:
                record = before
            ours = found is not Standing.FREE  # or may be replaced
            return self._try(replace(job, options=job.options.replace(overwrite=ours)), place, before, record, say)
        except PersonaLiveError as error:
            return failed(job, str(error))

    def _try(self, job: Job, place: Place, before: Record | None, record: Record, say: Say) -> Result:
        """Make it, again and again if that may help.

        Args:
            job: what to make.
            place: where.
            before: what was kept there.
            record: the state from which attempts are counted.
            say: see `Say`.
        """
        if record.attempts > self.retries:  # each of them ended with its process
            return failed(job, f"its process died {record.attempts} times", attempts=record.attempts)
        while True:
            record = replace(record, state="begun", attempts=record.attempts + 1)
            record.write(place)
            try:
                result = replace(_make(self.model, job, place, say), attempts=record.attempts)
                break
            except Exception as error:
                if not computes(self.model.device):
                    raise DeviceLostError(first_line(error)) from error
                if not isinstance(error, PersonaLiveError):
                    logger.exception("row %d: %s", job.row, first_line(error))
                if record.attempts > self.retries or _is_final(job, error):
                    _restore(place, before)
                    said = str(error) if isinstance(error, PersonaLiveError) else f"{type(error).__name__}: {error}"
                    return failed(job, said, attempts=record.attempts)
            except BaseException:  # it is stopped
                _restore(place, before)
                raise
        replace(record, state="done", size=place.size(), result=result.to_json()).write(place)
        return result


def _make(model: PersonaLive, job: Job, place: Place, say: Say) -> Result:
    begun, messages, frames = time.monotonic(), list[str](), 0
    with fetched_inputs() as inputs, place.making() as target:
        reference = get_input(job.reference, "the reference", inputs)
        driver = get_input(job.driver, "the driving video", inputs)
        with closing(animate(model, reference, driver, target, job.options, cache=default_folder())) as work:
            for progress in work:
                if progress.message:
                    messages.append(inputs.named(progress.message))
                if progress.stage == "animating":
                    say(progress.frames_done, progress.frames_total)
                frames = progress.frames_done
    return job.ended(status="done", frames=frames, seconds=time.monotonic() - begun, messages=tuple(messages))


def _restore(place: Place, before: Record | None) -> None:
    if before is None:
        place.write_note(None)
    else:
        before.write(place)


def _is_final(job: Job, error: Exception) -> bool:
    """Whether the same would happen again: what is wrong is in the files or in the options."""
    fetched = is_address(job.reference) or is_address(job.driver)
    return isinstance(error, MissingExtraError) or (isinstance(error, InputError) and not fetched)
