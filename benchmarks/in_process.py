"""Delay of sessions that are fed from memory: no network, no browser, only session, scheduler and model."""

import functools
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from personalive.live.core.engine import Engine
from personalive.live.core.faces import FaceFinder
from personalive.live.core.frames import CameraFrame
from personalive.live.core.parameters import Parameters
from personalive.live.core.scheduler import Scheduler
from personalive.live.core.session import MARGIN, Session
from personalive.types import Box, Latency, RGBArray

WARM_SECONDS = 4.0
"""Seconds that are not counted: the pipe fills, and the play-out learns its delay."""


def driver_pictures(size: int, count: int = 50) -> list[RGBArray]:
    """Coloured blocks that swing from side to side."""
    blocks = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    image = np.kron(blocks, np.ones((size // 8, size // 8, 1), dtype=np.uint8))
    return [np.roll(image, round(size / 8 * np.sin(2 * np.pi * index / count)), axis=1) for index in range(count)]


@dataclass(frozen=True)
class Setting:
    """What is measured."""

    latency: Latency
    people: int = 1
    fps: float = 25.0
    """Of the cameras."""
    seconds: float = 12.0
    keyframe_threshold: float = 17.0
    max_batch: int = 1


class StillFace:
    """A tracker that always finds the face in the middle: the model is given boxes, as from the face mesh."""

    def __init__(self, size: int) -> None:
        edge = size // 8
        self.box: Box = (edge, edge, size - edge, size - edge)

    def follow(self, image: RGBArray) -> Box:
        """Box of the face in an image."""
        return self.box

    def close(self) -> None:
        """There is nothing to free."""


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
        """Start filming and watching, `phase` seconds later than others."""
        threads = [threading.Thread(target=self._film, args=(phase,)), threading.Thread(target=self._look)]
        for thread in threads:
            thread.start()
        return threads

    def _film(self, phase: float) -> None:
        begin, count = time.monotonic() + phase, 0
        while not self.stop.is_set():
            image = self.pictures[count % len(self.pictures)]
            time.sleep(max(0.0, begin + count / self.fps - time.monotonic()))
            self.session.offer(CameraFrame(time.monotonic(), functools.partial(np.asarray, image)))
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


def measure(engine: Engine, setting: Setting) -> dict[str, Any]:
    """Run some sessions for a while.

    Returns:
        Median and 95th percentile of the delay from frame in to picture out in ms, and the delay that `expected_delay`
        returns; camera frames and pictures dropped; pictures a second per session; keyframes of the first session; the
        time of a call in ms.
    """
    scheduler = Scheduler(engine, max_batch=setting.max_batch)
    scheduler.start()
    crowd = [_person(engine, scheduler, str(index), setting) for index in range(setting.people)]
    phases = [index / setting.people / setting.fps * engine.chunk_frames for index in range(setting.people)]
    threads = [thread for person, phase in zip(crowd, phases, strict=True) for thread in person.start(phase)]
    time.sleep(WARM_SECONDS)
    before = [person.session.dropped for person in crowd]
    scheduler.calls.clear()
    for person in crowd:
        person.counting.set()
    time.sleep(setting.seconds)
    dropped = [person.session.dropped for person in crowd]
    keyframes = _keyframes(crowd[0].session)
    for person in crowd:
        person.stop.set()
    for thread in threads:
        thread.join()
    ended = [person.session.closed for person in crowd]
    for person in crowd:
        person.session.close()
    scheduler.stop()
    delays = sorted(delay for person in crowd for delay in person.delays)
    calls = sorted(call.seconds for call in scheduler.calls)
    if any(ended) or not delays or not calls:
        return {"people": setting.people, "failed": "a session ended, or no picture came"}
    call = statistics.median(calls)
    prepare = statistics.mean(person.session.prepare_seconds for person in crowd)
    return {
        "people": setting.people,
        "keyframes": keyframes,
        "delay_p50_ms": round(statistics.median(delays) * 1e3),
        "delay_p95_ms": round(delays[int(len(delays) * 0.95)] * 1e3),
        "delay_expected_ms": round(expected_delay(engine, setting, call, prepare) * 1e3),
        "frames_left_out": sum(after[0] - first[0] for after, first in zip(dropped, before, strict=True)),
        "pictures_left_out": sum(after[1] - first[1] for after, first in zip(dropped, before, strict=True)),
        "pictures_per_second": round(sum(person.shown for person in crowd) / setting.people / setting.seconds, 1),
        "call_p50_ms": round(call * 1e3, 1),
        "call_p95_ms": round(calls[int(len(calls) * 0.95)] * 1e3, 1),
        "prepare_ms": round(prepare * 1e3, 1),
        "sessions_per_call": round(statistics.mean(call.sessions for call in scheduler.calls), 2),
    }


def expected_delay(engine: Engine, setting: Setting, call: float, prepare: float) -> float:
    """Delay in seconds that the time of a call allows, from frame in to picture out.

    A chunk comes every `period`: the time that its camera frames take, or the device, if that takes longer. The chunk's
    first picture waits for its last frame; then the frames are prepared; three further chunks push it out of the
    sampler (`delay_frames`), and the last of these calls has to finish. A device that takes longer than the camera
    does not start when a frame arrives, but up to one camera interval later.
    """
    wanted = engine.chunk_frames // 2 if setting.latency == "low" else engine.chunk_frames
    rounds = -(-setting.people // setting.max_batch)
    filling, busy = wanted / setting.fps, rounds * call
    period = max(filling, busy)
    last_to_come = 1 / setting.fps + MARGIN if busy > filling else 0.0
    first_picture = period * (engine.chunk_frames - 1) / engine.chunk_frames
    return first_picture + last_to_come + prepare + period * engine.delay_frames / engine.chunk_frames + call


def _person(engine: Engine, scheduler: Scheduler, name: str, setting: Setting) -> Person:
    parameters = Parameters(keyframe_threshold=setting.keyframe_threshold, latency=setting.latency)
    face = StillFace(engine.width)
    session = Session(name, engine, parameters, faces=FaceFinder(face))
    scheduler.add(session)
    pictures = driver_pictures(engine.width)
    session.set_portrait(engine.reference(pictures[0], face.box)).result(120)
    return Person(session, setting.fps, pictures)


def _keyframes(session: Session) -> int:
    state = session.snapshot().result(60)["stream"]
    return len(state.get("animation", {}).get("keyframes", ()))


def capacity(run: Callable[[int], dict[str, Any]], most: int, fps: float) -> tuple[int, list[dict[str, Any]]]:
    """How many sessions keep up: no camera frame is dropped, and as many pictures come. Returns the runs as well."""
    runs, carried = [], 0
    for people in range(1, most + 1):
        result = run(people)
        runs.append(result)
        print(result, flush=True)
        if result.get("failed") or result["frames_left_out"] or result["pictures_per_second"] < 0.97 * fps:
            break
        carried = people
    return carried, runs
