"""Sessions over an echoing model on a clock that is moved by hand: seconds of live video in milliseconds, and exact.

The scheduler's own threads are not started: what they do is done here, in the order in which it falls due.
"""

from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

import numpy as np

from personalive.live.core.engine import Engine
from personalive.live.core.frames import CameraFrame, Message, Picture
from personalive.live.core.parameters import Parameters
from personalive.live.core.scheduler import Scheduler
from personalive.live.core.session import Session
from personalive.testing.echo import EchoEngine
from personalive.types import Latency, RGBArray

TICK = 0.001
IMAGE = np.full((64, 64, 3), 100, dtype=np.uint8)


class Inline(Executor):
    """Runs what is submitted at once."""

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **options: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        future.set_result(function(*arguments, **options))
        return future


class Person:
    """One session, its camera and its screen."""

    def __init__(self, session: Session, began: float) -> None:
        self.session = session
        self.messages: list[Message] = []
        self.shown: list[tuple[float, Picture]] = []
        """When each picture was shown."""
        self.fps = 0.0
        """Of the camera; 0: it is off."""
        self.draw: Callable[[int], RGBArray] = lambda index: IMAGE
        self.captured: list[float] = []
        self.screen = session.subscribe(lambda: None)
        self._due = began
        session.on_message = self.messages.append

    def film(self, fps: float) -> None:
        """Turn the camera on, or off with 0."""
        self.fps, self._due = fps, 0.0

    def at(self, now: float) -> None:
        """What camera and screen do at this time."""
        if self.fps and now >= self._due:
            self._due = max(self._due, now - 1 / self.fps) + 1 / self.fps
            index = len(self.captured)
            self.captured.append(now)
            self.session.offer(CameraFrame(now, lambda: self.draw(index), float(index)))
        picture, _ = self.screen.pop(now)
        if picture is not None:
            self.shown.append((now, picture))


class Simulation:
    """A device, its scheduler and the people before their cameras."""

    def __init__(self, engine: Engine | None = None, *, call_seconds: float = 0.0, max_batch: int = 1) -> None:
        self.now = 100.0
        self.engine: Any = engine or EchoEngine(64, 64, chunk_frames=4, delay_frames=12)
        self.engine.seconds, self.engine.sleep = call_seconds, self._pass
        self.people: list[Person] = []
        self.scheduler = Scheduler(self.engine, max_batch=max_batch, pool=Inline(), clock=self.clock)

    def clock(self) -> float:
        return self.now

    def person(self, colour: tuple[int, int, int] | None, latency: Latency = "balanced", **options: Any) -> Person:
        """Somebody joins, with a portrait of this colour."""
        identifier = f"person {len(self.people)}"
        session = Session(identifier, self.engine, Parameters(latency=latency), clock=self.clock, **options)
        self.scheduler.add(session)
        self.people.append(Person(session, self.now))
        if colour is not None:
            image = np.full((8, 8, 3), colour, dtype=np.uint8)
            applied = session.set_portrait(self.engine.reference(image, None))
            self.scheduler.work()
            applied.result(0)
        return self.people[-1]

    def run(self, seconds: float) -> None:
        """Let time pass, and the device work whenever it has something to do."""
        end = self.now + seconds
        while self.now < end:
            self._pass(TICK)
            self.scheduler.work()

    def _pass(self, seconds: float) -> None:
        """Let time pass without the device, as while it is busy with a call."""
        for _ in range(max(1, round(seconds / TICK))):
            self.now += TICK
            for each in self.people:
                each.at(self.now)
            self.scheduler.prepare_due()
