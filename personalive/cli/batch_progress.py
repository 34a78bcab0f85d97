"""The progress of a batch, for people: a bar on a terminal, a line every few seconds elsewhere."""

import logging
import sys
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from pathlib import Path

from tqdm import tqdm

from personalive.animate.progress import LINE_EVERY
from personalive.batch.run import Tally
from personalive.terminal import visible

logger = logging.getLogger(__name__)


def show(work: Generator[Tally, None, None], results: Path) -> Tally:
    """Run a batch to its end, or close it when something interrupts; returns how it ended."""
    begun = time.monotonic()
    with closing(work):
        last = _bar(work) if sys.stderr.isatty() else show_lines(work, logger.info)
    logger.info("%s", summary(last, time.monotonic() - begun, results))
    return last


def show_lines(work: Iterable[Tally], say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> Tally:
    """Say what there is to say at once, and how far the batch is every few seconds."""
    last, begun, said = Tally(0), clock(), float("-inf")
    for last in work:
        while last.news:
            say(last.news.pop(0))
        if clock() - said >= LINE_EVERY:
            said = clock()
            say(line(last, said - begun))
    return last


def _bar(work: Iterable[Tally]) -> Tally:
    last = Tally(0)
    with tqdm(unit="job", dynamic_ncols=True) as bar:
        for last in work:
            bar.total = last.total
            bar.set_postfix({"failed": last.failed, "frames": last.frames}, refresh=False)
            bar.update(last.ended - bar.n)
            bar.refresh()
            while last.news:
                bar.write(visible(last.news.pop(0)), file=sys.stderr)
    return last


def line(tally: Tally, seconds: float) -> str:
    """For instance `12 of 40 jobs, 3 of them there before, 1 failed; 57 frames a second, 80 s left`."""
    text = f"{tally.ended} of {tally.total} jobs"
    if tally.old:
        text += f", {tally.old} of them there before"
    if tally.failed:
        text += f", {tally.failed} failed"
    if not tally.frames or not seconds:
        return text
    text += f"; {tally.frames / seconds:.1f} frames a second"
    worked = tally.made + tally.failed
    return f"{text}, {(tally.total - tally.ended) * seconds / worked:.0f} s left" if tally.made else text


def summary(tally: Tally, seconds: float, results: Path) -> str:
    """For instance `done: 38 made, 2 there before, in 64 s (3800 frames, 59.4 a second)`."""
    counts = ((tally.made, "made"), (tally.old, "there before"), (tally.failed, "failed"))
    text = ", ".join(f"{count} {what}" for count, what in counts if count) or "no jobs"
    frames = f" ({tally.frames} frames, {tally.frames / seconds:.1f} a second)" if tally.frames and seconds else ""
    see = f"; {results} says why" if tally.failed else ""
    return f"done: {text}, in {seconds:.0f} s{frames}{see}"
