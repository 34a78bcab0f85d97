"""Delay of sessions that are fed from memory: no network, no browser, only session, scheduler and model."""

import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from personalive.live.engine import Engine
from personalive.live.frames import CameraFrame, RGBArray
from personalive.live.parameters import Parameters
from personalive.live.scheduler import Scheduler
from personalive.live.session import Latency, Session

WARM_SECONDS = 4.0
"""Not counted: the pipe fills, and the play-out learns its delay."""


def driver_pictures(size: int, count: int = 50) -> list[RGBArray]:
    """Coloured blocks that swing from side to side."""
    blocks = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    image = np.kron(blocks, np.ones((size // 8, size // 8, 1), dtype=np.uint8))
    return [np.roll(image, round(size / 8 * np.sin(2 * np.pi * index / count)), axis=1) for index in range(count)]


@dataclass
class Person:
    """One session, its camera and its viewer."""

    session: Session
    fps: float
    pictures: list[RGBArray]
    counting: threading.Event = field(default_factory=threading.Event)
    stop: threading.Event = field(default_factory=threading.Event)
    delays: list[float] = field(default_factory=list)
    shown: int = 0

    def start(self, phase: float) -> list[threading.Thread]:
        """Begin to film and to look; `phase` seconds later than others."""
        threads = [threading.Thread(target=self._film, args=(phase,)), threading.Thread(target=self._look)]
        for thread in threads:
            thread.start()
        return threads

    def _film(self, phase: float) -> None:
        begin, count = time.monotonic() + phase, 0
        while not self.stop.is_set():
            image = self.pictures[count % len(self.pictures)]
            time.sleep(max(0.0, begin + count / self.fps - time.monotonic()))
            self.session.offer(CameraFrame(time.monotonic(), lambda image=image: image))
            count += 1

    def _look(self) -> None:
        ready = threading.Event()
        reader = self.session.subscribe(ready.set)
        while not self.stop.is_set():
            ready.clear()
            now = time.monotonic()
            picture, due = reader.pop(now)
            if picture is not None and self.counting.is_set():
                self.shown += 1
                if picture.driven:
                    self.delays.append(now - picture.captured)
            if picture is None:
                ready.wait(0.5 if due is None else max(0.0, due - now))


def measure(
    engine: Engine, *, people: int, fps: float, seconds: float, latency: Latency, max_batch: int = 1
) -> dict[str, Any]:
    """Run some sessions for a while.

    Returns:
        Median and 95th percentile of the delay from frame in to picture out in ms, frames left out and pictures left
        out, pictures a second per session, and the time of a call in ms.
    """
    scheduler = Scheduler(engine, max_batch=max_batch, preparers=4)
    scheduler.start()
    crowd = [_person(engine, scheduler, str(index), fps, latency) for index in range(people)]
    threads = [thread for index, person in enumerate(crowd) for thread in person.start(index / people / fps * 4)]
    time.sleep(WARM_SECONDS)
    before = [person.session.dropped for person in crowd]
    scheduler.calls.clear()
    for person in crowd:
        person.counting.set()
    time.sleep(seconds)
    dropped = [person.session.dropped for person in crowd]
    for person in crowd:
        person.stop.set()
    for thread in threads:
        thread.join()
    ended = [person.session.closed for person in crowd]
    for person in crowd:
        person.session.close()
    scheduler.stop()
    delays = sorted(delay for person in crowd for delay in person.delays)
    calls = sorted(call.seconds for call in scheduler.calls) or [0.0]
    if any(ended) or not delays:
        return {"people": people, "failed": "a session ended, or no picture came"}
    return {
        "people": people,
        "delay_p50_ms": round(statistics.median(delays) * 1e3),
        "delay_p95_ms": round(delays[int(len(delays) * 0.95)] * 1e3),
        "frames_left_out": sum(after[0] - first[0] for after, first in zip(dropped, before, strict=True)),
        "pictures_left_out": sum(after[1] - first[1] for after, first in zip(dropped, before, strict=True)),
        "pictures_per_second": round(sum(person.shown for person in crowd) / people / seconds, 1),
        "call_p50_ms": round(statistics.median(calls) * 1e3, 1),
        "call_p95_ms": round(calls[int(len(calls) * 0.95)] * 1e3, 1),
        "sessions_per_call": round(statistics.mean(call.sessions for call in scheduler.calls), 2),
    }


def _person(engine: Engine, scheduler: Scheduler, name: str, fps: float, latency: Latency) -> Person:
    session = Session(name, engine, Parameters(keyframe_threshold=engine.keyframe_threshold), latency=latency)
    scheduler.add(session)
    pictures = driver_pictures(engine.width)
    session.set_portrait(engine.reference(pictures[0], None)).result(120)
    return Person(session, fps, pictures)


def capacity(run: Callable[[int], dict[str, Any]], most: int, frames_wanted: float) -> tuple[int, list[dict[str, Any]]]:
    """How many sessions keep up: nothing is left out and each gets its pictures. Gives the runs, too."""
    runs, carried = [], 0
    for people in range(1, most + 1):
        result = run(people)
        runs.append(result)
        print(result, flush=True)
        if result.get("failed") or result["frames_left_out"] or result["pictures_per_second"] < 0.97 * frames_wanted:
            break
        carried = people
    return carried, runs
