"""Figures of all workers together, for Prometheus."""

from collections.abc import Iterable, Mapping, Set

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from personalive.live.front.pool import Pool
from personalive.net.waiting import WaitingRoom

GROWING = ("counter", "histogram", "summary")
"""Kinds of figures that only grow: those of a worker that has died stay in the sum."""
SINCE = "process_start_time_seconds"
"""Of this the oldest counts."""

Sample = tuple[str, tuple[tuple[str, str], ...]]
"""Name and labels."""


class FrontCollector(Collector):
    """Figures of the front itself, under the names that the workers use too where they mean the same."""

    def __init__(self, pool: Pool, waiting_room: WaitingRoom) -> None:
        self._pool, self._waiting_room = pool, waiting_room

    def collect(self) -> Iterable[Metric]:
        """The current metrics."""
        yield GaugeMetricFamily("personalive_workers", "Workers that answer requests", value=len(self._pool.up))
        yield CounterMetricFamily(
            "personalive_worker_deaths", "Workers that have died and were replaced", value=self._pool.deaths
        )
        yield GaugeMetricFamily(
            "personalive_waiting_connections",
            "Connections that are waiting for their clients",
            value=len(self._waiting_room),
        )
        yield CounterMetricFamily(
            "personalive_displaced_connections",
            "Connections that were ended because too many were waiting",
            value=self._waiting_room.given_way,
        )


def front_registry(pool: Pool, waiting_room: WaitingRoom) -> CollectorRegistry:
    """The metrics of the front's own process."""
    result = CollectorRegistry()
    result.register(FrontCollector(pool, waiting_room))
    ProcessCollector(registry=result)
    return result


class Sums(Collector):
    """Adds figures up, and remembers those of workers that have died."""

    def __init__(self, own: CollectorRegistry) -> None:
        """`own`: metrics of this process."""
        self._own = own
        self._last: dict[str, list[Metric]] = {}
        self._ended: list[Metric] = []
        self.registry = CollectorRegistry()
        """Has the sums of the last `update`."""
        self.registry.register(self)

    def update(self, texts: Mapping[str, str], living: Set[str]) -> None:
        """Take what workers have said.

        Args:
            texts: in Prometheus' text format, by worker. Of a living worker that is not here, the last one counts.
            living: names of the workers that live now. What another one has said is not looked at: it may be in the
                sum of the dead already.
        """
        gone = [self._last.pop(name) for name in self._last.keys() - living]
        growing = [each for metrics in gone for each in metrics if each.type in GROWING]
        self._ended = added([*self._ended, *growing])
        for name in texts.keys() & living:
            self._last[name] = list(text_string_to_metric_families(texts[name]))

    def collect(self) -> Iterable[Metric]:
        """The sums."""
        workers = (each for metrics in self._last.values() for each in metrics)
        return added([*self._own.collect(), *workers, *self._ended])


def added(metrics: Iterable[Metric]) -> list[Metric]:
    """Metrics with the same name as one, in which samples with the same labels are added up."""
    found: dict[str, tuple[Metric, dict[Sample, float]]] = {}
    for metric in metrics:
        _, values = found.setdefault(metric.name, (Metric(metric.name, metric.documentation, metric.type), {}))
        for sample in metric.samples:
            key = sample.name, tuple(sorted(sample.labels.items()))
            if sample.name == SINCE and key in values:
                values[key] = min(values[key], sample.value)
            else:
                values[key] = values.get(key, 0.0) + sample.value
    for metric, values in found.values():
        for (name, labels), value in values.items():
            metric.add_sample(name, dict(labels), value)
    return [metric for metric, _ in found.values()]
