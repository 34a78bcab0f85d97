"""A result that is written by a thread of its own: in order, complete, and gone after a failure."""

import threading
from fractions import Fraction

import numpy as np
import pytest

from personalive.errors import OutputError
from personalive.media.encoding import VideoFormat
from personalive.media.write_ahead import QUEUED, WriteAhead, write_ahead

FORMAT = VideoFormat(64, 64, Fraction(25), "x")


class Slow:
    """A writer that waits to be released, and may fail."""

    def __init__(self, failure=None):
        self.go, self.written, self.failure, self.left = threading.Event(), [], failure, False

    def write(self, frames):
        self.go.wait()
        if self.failure is not None:
            raise self.failure
        self.written.append(int(frames[0, 0, 0, 0]))

    def finish(self):
        assert not self.left

    def __exit__(self, *_):
        self.left = True


def frame(number):
    return np.full((1, 4, 4, 3), number, np.uint8)


def test_frames_wait_for_the_encoder_and_keep_their_order():
    writer = Slow()
    with WriteAhead(writer) as ahead:
        for number in range(QUEUED):
            ahead.write(frame(number))
        assert writer.written == [] and ahead.frames == QUEUED
        writer.go.set()
        ahead.write(frame(QUEUED))
        ahead.finish()
    assert writer.written == list(range(QUEUED + 1)) and writer.left


def test_a_failure_comes_out_where_frames_are_handed_over_and_nobody_waits_for_ever():
    writer = Slow(OutputError("the disk is full"))
    writer.go.set()
    with pytest.raises(OutputError, match="disk is full"), WriteAhead(writer) as ahead:
        for number in range(10 * QUEUED):
            ahead.write(frame(number))
        ahead.finish()
    assert writer.left and writer.written == []


def test_cancelling_drops_what_waits(tmp_path):
    writer = Slow()
    with pytest.raises(KeyboardInterrupt), WriteAhead(writer) as ahead:
        for number in range(QUEUED):
            ahead.write(frame(number))
        threading.Timer(0.05, writer.go.set).start()
        raise KeyboardInterrupt
    assert len(writer.written) <= 1 and writer.left
    with pytest.raises(KeyboardInterrupt), write_ahead(tmp_path / "out.mp4", FORMAT) as ahead:
        ahead.write(np.zeros((4, 64, 64, 3), np.uint8))
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
