"""Progress for people: a bar on a terminal, a line every few seconds elsewhere."""

import logging
import sys
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import closing

from tqdm import tqdm

from personalive.animate.job import Progress

logger = logging.getLogger(__name__)

LINE_EVERY = 5.0
"""Seconds between two lines."""


def show(work: Generator[Progress, None, None]) -> Progress:
    """Run an animation to its end, or close it when something interrupts; returns its last progress."""
    with closing(work):
        return _bar(work) if sys.stderr.isatty() else show_lines(work, logger.info)


def _bar(work: Generator[Progress, None, None]) -> Progress:
    last = next(work)
    with tqdm(unit="frame", desc=last.stage, dynamic_ncols=True) as bar:
        for last in work:
            if bar.desc.removesuffix(": ") != last.stage:
                bar.reset(last.frames_total)  # each stage counts from 0, at its own speed
                bar.set_description(last.stage)
            bar.total = last.frames_total
            bar.update(last.frames_done - bar.n)
            if last.message:
                bar.write(last.message, file=sys.stderr)
    return last


def show_lines(
    work: Iterable[Progress], say: Callable[[str], None], clock: Callable[[], float] = time.monotonic
) -> Progress:
    """Say how far the work is: at the start of each stage, every few seconds, and at the end."""
    begun = said = stage_begun = clock()
    last = Progress("reading", 0, 0)
    stage = ""
    for last in work:
        now = clock()
        if last.message:
            say(last.message)
        if last.stage != stage:
            stage, stage_begun = last.stage, now
        elif now - said < LINE_EVERY:
            continue
        said = now
        if last.stage == "done":
            say(f"done: {last.frames_done} frames in {now - begun:.0f} s")
        else:
            say(_line(last, now - stage_begun))
    return last


def _line(progress: Progress, seconds: float) -> str:
    """For instance `animating: 40 of 100 frames, 5.2 a second, 12 s left`."""
    if not progress.frames_total:
        return f"{progress.stage} ..."
    line = f"{progress.stage}: {progress.frames_done} of {progress.frames_total} frames"
    if not progress.frames_done or seconds <= 0:
        return line
    rate = progress.frames_done / seconds
    return f"{line}, {rate:.1f} a second, {(progress.frames_total - progress.frames_done) / rate:.0f} s left"
