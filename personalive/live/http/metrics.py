"""Figures of the server for Prometheus, read from the hub when they are asked for."""

import asyncio
import itertools
import threading
from collections.abc import Iterable

import torch
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from personalive.live.core.statistics import DELAY_BOUNDS
from personalive.live.hub.entries import Totals
from personalive.live.hub.hub import Hub
from personalive.live.transport.messages import session_figures
from personalive.net.waiting import WaitingRoom


class HubCollector(Collector):
    """Turns the state of a hub into metrics."""

    def __init__(self, hub: Hub, waiting_room: WaitingRoom) -> None:
        self._hub = hub
        self._waiting_room = waiting_room

    def collect(self) -> Iterable[Metric]:
        """The current metrics; call it in the hub's event loop."""
        yield from self._sessions()
        yield from self._calls()
        yield from self._memory()
        yield _gauge("waiting_connections", "Connections that are waiting for their clients", len(self._waiting_room))
        yield CounterMetricFamily(
            "personalive_displaced_connections",
            "Connections that were ended because too many were waiting",
            value=self._waiting_room.given_way,
        )
        yield _gauge("tasks", "Tasks of the event loop, including the one that answers this", len(asyncio.all_tasks()))
        yield _gauge("threads", "Python threads, including those of pools", threading.active_count())

    def _sessions(self) -> Iterable[Metric]:
        hub = self._hub
        figures = [session_figures(entry.session) for entry in hub.entries.values()]
        yield _gauge("sessions", "Sessions that are open", len(figures))
        yield _gauge("sessions_max", "The most sessions that may be open", hub.options.max_sessions)
        yield CounterMetricFamily("personalive_sessions_opened", "Sessions opened", value=hub.sessions_opened)
        yield CounterMetricFamily("personalive_sessions_refused", "Sessions refused", value=hub.refused)
        yield _gauge("loaded", "1 if the model is loaded", hub.loader.state.status == "loaded")
        for name, help_text in (
            ("fps_in", "Camera frames a second, all sessions"),
            ("fps_out", "Pictures a second, all sessions"),
            ("waiting_in", "Camera frames that are waiting to be chosen"),
            ("waiting_out", "Pictures that are waiting to be sent"),
        ):
            yield _gauge(name, help_text, sum(each[name] for each in figures))
        totals = hub.totals()
        yield CounterMetricFamily("personalive_frames", "Camera frames received", value=totals.frames_in)
        yield CounterMetricFamily("personalive_pictures", "Pictures sent", value=totals.pictures_shown)
        yield CounterMetricFamily("personalive_dropped_frames", "Camera frames not used", value=totals.dropped_in)
        yield CounterMetricFamily("personalive_dropped_pictures", "Pictures not sent", value=totals.dropped_out)
        yield _delays(totals)

    def _calls(self) -> Iterable[Metric]:
        scheduler = self._hub.scheduler
        count, seconds, failures = (
            (scheduler.call_count, scheduler.call_seconds, scheduler.failures) if scheduler else (0, 0.0, 0)
        )
        yield SummaryMetricFamily(
            "personalive_chunk_seconds", "Time of one call of the model", count_value=count, sum_value=seconds
        )
        yield CounterMetricFamily("personalive_failures", "Sessions that ended with an error", value=failures)

    def _memory(self) -> Iterable[Metric]:
        if torch.cuda.is_available():
            yield _gauge("device_memory_bytes", "Device memory reserved by PyTorch", torch.cuda.memory_reserved())


def _delays(totals: Totals) -> HistogramMetricFamily:
    bounds = [*map(str, DELAY_BOUNDS), "+Inf"]
    return HistogramMetricFamily(
        "personalive_delay_seconds",
        "From the arrival of a camera frame to the picture that it drove",
        buckets=list(zip(bounds, itertools.accumulate(totals.delay_counts), strict=True)),
        sum_value=totals.delay_seconds,
    )


def _gauge(name: str, help_text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"personalive_{name}", help_text, value=value)


def registry(hub: Hub, waiting_room: WaitingRoom) -> CollectorRegistry:
    """The metrics of one server, with its process's memory and CPU time."""
    result = CollectorRegistry()
    result.register(HubCollector(hub, waiting_room))
    ProcessCollector(registry=result)
    return result


def render(metrics: CollectorRegistry) -> bytes:
    """Metrics in Prometheus' text format."""
    return generate_latest(metrics)
