"""Progress for people: a bar on a terminal, a line now and then elsewhere."""

import logging
import sys
import time
from collections.abc import Generator
from contextlib import closing

from tqdm import tqdm

from personalive.animate.job import Progress

logger = logging.getLogger(__name__)

LINE_EVERY = 5.0
"""Seconds between two log lines."""


def show(work: Generator[Progress, None, None]) -> Progress:
    """Run an animation to its end, or close it when something interrupts; returns its last progress."""
    with closing(work):
        return _bar(work) if sys.stderr.isatty() else _lines(work)


def _bar(work: Generator[Progress, None, None]) -> Progress:
    last = next(work)
    with tqdm(unit="frame", desc=last.stage, dynamic_ncols=True) as bar:
        for last in work:
            bar.set_description(last.stage)
            bar.total = last.frames_total
            bar.update(last.frames_done - bar.n)
            if last.message:
                bar.write(last.message, file=sys.stderr)
    return last


def _lines(work: Generator[Progress, None, None]) -> Progress:
    begun = said = time.monotonic()
    last = next(work)
    for last in work:
        now = time.monotonic()
        if last.message:
            logger.info("%s", last.message)
        if last.stage == "done" or now - said >= LINE_EVERY:
            said = now
            logger.info("%s: %d of %d frames, %.0f s", last.stage, last.frames_done, last.frames_total, now - begun)
    return last
