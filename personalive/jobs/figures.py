"""Counts what a queue does, and gives the figures to Prometheus."""

import itertools
import logging
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from personalive.gateway.prediction import TERMINAL

if TYPE_CHECKING:
    from personalive.jobs.queue import JobQueue, Makers

logger = logging.getLogger(__name__)

BOUNDS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 3600)
"""Seconds of a job, for the histogram."""
WEIGHT = 0.1
"""Of the latest job in the mean time of a job."""


class Figures:
    """Of one queue."""

    def __init__(self) -> None:
        self.taken = 0
        self.refused = 0
        self.retried = 0
        self.ended: Counter[str] = Counter(dict.fromkeys(TERMINAL, 0))
        """By the status with which they ended."""
        self.seconds = 0.0
        self.counts = [0] * (len(BOUNDS) + 1)
        self._mean: float | None = None

    def took(self, seconds: float) -> None:
        """Count the time of a job that succeeded."""
        self.seconds += seconds
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self._mean = seconds if self._mean is None else self._mean + WEIGHT * (seconds - self._mean)

    def seconds_until_free(self, processes: int) -> int:
        """In how many seconds one of this many processes is probably free, from 1 to 600."""
        return round(min(600.0, max(1.0, (self._mean or 10.0) / processes)))

    def report(self, error: Exception) -> None:
        """Log a defect."""
        logger.error("a job failed for a reason that nobody expected", exc_info=error)


class QueueCollector(Collector):
    """Turns the state of a queue into metrics; call it in the queue's event loop."""

    def __init__(self, queue: "JobQueue", makers: "Makers") -> None:
        self._queue, self._makers = queue, makers

    def collect(self) -> Iterable[Metric]:
        """The current metrics."""
        queue, figures = self._queue, self._queue.figures
        for name, help_text, value in (
            ("queued", "Jobs that wait for a process", queue.waiting),
            ("queue_limit", "The most jobs that may wait", queue.limit),
            ("running", "Jobs that processes have", queue.making),
            ("replicas", "Processes that can make jobs", self._makers.running),
            ("replicas_max", "The most processes that may run", self._makers.limit),
            ("draining", "1 if no more jobs are taken", queue.is_draining),
        ):
            yield GaugeMetricFamily(f"personalive_jobs_{name}", help_text, value=value)
        for name, help_text, value in (
            ("taken", "Jobs taken", figures.taken),
            ("refused", "Jobs refused, for lack of room or as none were taken", figures.refused),
            ("retried", "Jobs made again, as their process had died", figures.retried),
        ):
            yield CounterMetricFamily(f"personalive_jobs_{name}", help_text, value=value)
        ended = CounterMetricFamily("personalive_jobs_ended", "Jobs that have ended", labels=["status"])
        for status, count in figures.ended.items():
            ended.add_metric([status], count)
        yield ended
        yield HistogramMetricFamily(
            "personalive_job_seconds",
            "Time of a job that succeeded, without its wait",
            buckets=list(zip([*map(str, BOUNDS), "+Inf"], itertools.accumulate(figures.counts), strict=True)),
            sum_value=figures.seconds,
        )
