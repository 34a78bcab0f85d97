"""Progress for people: a bar on a terminal, a line every few seconds elsewhere."""

import logging
import sys
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import closing

from tqdm import tqdm

from personalive.animate.job import Progress
from personalive.animate.progress import Stages, show_lines
from personalive.terminal import visible

logger = logging.getLogger(__name__)


def show(work: Generator[Progress, None, None]) -> Progress:
    """Run an animation to its end, or close it when something interrupts; returns its last progress."""
    with closing(work):
        return _bar(work, logger.info) if sys.stderr.isatty() else show_lines(work, logger.info)


def _bar(work: Iterable[Progress], say: Callable[[str], None]) -> Progress:
    stages, last = Stages(time.monotonic), Progress("reading", 0, 0)
    with tqdm(unit="frame", desc=last.stage, dynamic_ncols=True) as bar:
        for last in work:
            stages.enter(last.stage)
            if bar.desc.removesuffix(": ") != last.stage:
                bar.reset(last.frames_total)  # each stage counts from 0, at its own speed
                bar.set_description(last.stage)
            bar.total = last.frames_total
            bar.update(last.frames_done - bar.n)
            if last.message:
                bar.write(visible(last.message), file=sys.stderr)
    say(stages.summary(last))
    return last
