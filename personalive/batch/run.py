"""A whole batch: its jobs are read, checked, made by this machine or a cluster, and accounted for."""

import logging
import secrets
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from personalive import weights
from personalive.batch.checking import Checked, check_rows
from personalive.batch.job import Result
from personalive.batch.options import BatchOptions
from personalive.batch.pool import Pool, Update
from personalive.batch.preparation import Preparation, model_text
from personalive.batch.results import Results
from personalive.batch.rows import Row, folder_rows, read_rows
from personalive.cluster import Cluster
from personalive.loading import ModelChoice
from personalive.processes import seats
from personalive.settings import AnimateOptions

logger = logging.getLogger(__name__)


@dataclass
class Tally:
    """How far a batch is."""

    total: int
    """Jobs, those included that were there or were refused."""
    old: int = 0
    """Results that were there already."""
    made: int = 0
    failed: int = 0
    frames: int = 0
    """Frames that were made."""
    news: list[str] = field(default_factory=list)
    """What the user should know, since the last time."""

    @property
    def ended(self) -> int:
        """Jobs that need no more work."""
        return self.old + self.made + self.failed

    def count(self, result: Result) -> None:
        """Count a job that has ended."""
        if result.status == "failed":
            self.failed += 1
            self.news.append(f"row {result.row}, {result.output}: {result.error}")
        elif result.is_old:
            self.old += 1
        else:
            self.made += 1


def run_batch(options: BatchOptions, defaults: AnimateOptions, choice: ModelChoice) -> Generator[Tally, None, None]:
    """Make all jobs of a batch that are not made yet, with progress on the way; it is the same object each time.

    Closing the generator stops the work; nothing unfinished is left behind.

    Args:
        options: what to make, and how to go about it.
        defaults: settings of jobs that do not say otherwise.
        choice: of the model.

    Raises:
        PersonaLiveError: nothing can be begun, or the model cannot be loaded. What is wrong with one job is a result.
    """
    rows, base, source = _rows(options)
    cluster = None if options.ray is None else Cluster.join(options.ray, choice, options.workers, from_outside=True)
    places = seats(choice, options.workers) if cluster is None else []
    on_gpus = cluster.on_gpus if cluster is not None else places[0].gpu is not None
    model, remark = choice.source_on("cuda" if on_gpus else "cpu")
    logger.info("checking %d jobs", len(rows))
    with Results(options.results_file) as results:
        checked = check_rows(rows, base, defaults, model_text(model, choice))
        if not options.go_on:
            checked.refuse(source)
        tally = _begin(results, checked)
        tally.news += filter(None, [remark])
        yield tally
        if not checked.jobs:
            return
        prepare = Preparation(choice.elsewhere(model), options.retries, secrets.token_hex(8))
        if cluster is not None:
            from personalive.batch import on_ray

            work = on_ray.run(cluster, checked.jobs, prepare)
        else:
            weights.resolve(model, dtype=choice.resolved_dtype())  # downloaded and checked once, not in each process
            work = Pool(places, prepare, results.workers, options.retries).run(checked.jobs)
        yield from _follow(work, results, tally)


def _rows(options: BatchOptions) -> tuple[list[Row], Path, Path]:
    """The rows, the folder from which their paths start, and what to call the list."""
    if options.folders is not None:
        portraits, drivers, output = options.folders
        return [*folder_rows(portraits, drivers, output, options.output_format)], Path.cwd(), portraits.parent
    assert options.jobs is not None
    return [*read_rows(options.jobs)], options.jobs.absolute().parent, options.jobs


def _begin(results: Results, checked: Checked) -> Tally:
    ended = [*checked.done, *checked.refused]
    tally = Tally(len(checked.jobs) + len(ended))
    outputs = {job.output for job in checked.jobs} | {result.output for result in ended}
    results.begin(ended, outputs)
    for result in ended:
        tally.count(result)
    return tally


def _follow(work: Generator[Update, None, None], results: Results, tally: Tally) -> Generator[Tally, None, None]:
    with closing(work):
        for update in work:
            tally.frames += update.frames
            tally.news += filter(None, [update.message])
            if update.result is not None:
                results.add(update.result)
                tally.count(update.result)
            yield tally
