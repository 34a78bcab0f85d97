"""Progress in lines, for logs: at the start of each stage, every few seconds, and at the end."""

import time
from collections.abc import Callable, Iterable

from personalive.animate.job import Progress

LINE_EVERY = 5.0
"""Seconds between two lines."""
SHORTEST = 0.5
"""Seconds of a stage from which its speed says something."""
FACE_PASS = "finding the face"
"""The stage that looks through the driver before anything is animated."""


def show_lines(
    work: Iterable[Progress], say: Callable[[str], None], clock: Callable[[], float] = time.monotonic
) -> Progress:
    """Say how far the work is: at the start of each stage, every few seconds, and at the end."""
    stages, last, said = Stages(clock), Progress("reading", 0, 0), clock()
    for last in work:
        if last.message:
            say(last.message)
        is_new = stages.enter(last.stage)
        if last.stage != "done" and (is_new or clock() - said >= LINE_EVERY):
            said = clock()
            say(_line(last, stages.seconds))
    say(stages.summary(last))
    return last


class Stages:
    """How long each stage of an animation takes."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._begun = self._since = clock()
        self._stage = ""
        self._spent: dict[str, float] = {}

    def enter(self, stage: str) -> bool:
        """Whether the stage has changed."""
        if stage == self._stage:
            return False
        self._spent[self._stage] = self._spent.get(self._stage, 0.0) + self.seconds
        self._stage, self._since = stage, self._clock()
        return True

    @property
    def seconds(self) -> float:
        """Since the stage began."""
        return self._clock() - self._since

    def summary(self, last: Progress) -> str:
        """For instance `done: 100 frames in 41 s, of which finding the face took 3.2`."""
        line = f"done: {last.frames_done} frames in {self._clock() - self._begun:.0f} s"
        found = self._spent.get(FACE_PASS)
        return line if found is None else f"{line}, of which {FACE_PASS} took {found:.1f}"


def _line(progress: Progress, seconds: float) -> str:
    """For instance `animating: 40 of 100 frames, 5.2 a second, 12 s left`."""
    if not progress.frames_total:
        return f"{progress.stage} ..."
    line = f"{progress.stage}: {progress.frames_done} of {progress.frames_total} frames"
    if not progress.frames_done or seconds < SHORTEST:
        return line
    rate = progress.frames_done / seconds
    return f"{line}, {rate:.1f} a second, {(progress.frames_total - progress.frames_done) / rate:.0f} s left"
