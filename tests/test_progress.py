"""What people see of a long job without a terminal: lines with frames, rate and time left, and a summary."""

from personalive.animate.job import Progress
from personalive.animate.progress import show_lines


class Clock:
    """A clock that the work itself moves."""

    now = 0.0

    def __call__(self):
        return self.now


def lines(*steps):
    """What is said of progress that comes at certain seconds."""
    clock, said = Clock(), []

    def work():
        for clock.now, progress in steps:
            yield progress

    show_lines(work(), said.append, clock)
    return said


def test_a_job_from_beginning_to_end():
    found = [(0.1 * index, Progress("finding the face", index, 20)) for index in range(1, 21)]
    animated = [(3 + 2 * index, Progress("animating", 4 * index, 20)) for index in range(6)]
    assert lines(
        (0.0, Progress("reading", 0, 0)),
        *found,
        (2.1, Progress("reading", 0, 20, message="20 of 40 frames used")),
        *animated,
        (13.5, Progress("done", 20, 20, 3, "the last motion was held in 3 of 20 driving frames")),
    ) == [
        "reading ...",
        "finding the face: 1 of 20 frames",
        "20 of 40 frames used",
        "reading: 0 of 20 frames",
        "animating: 0 of 20 frames",
        "animating: 12 of 20 frames, 2.0 a second, 4 s left",
        "the last motion was held in 3 of 20 driving frames",
        "done: 20 frames in 14 s, of which finding the face took 2.0",
    ]


def test_a_pass_that_was_remembered_is_not_mentioned():
    assert lines((0.0, Progress("reading", 0, 0)), (1.0, Progress("done", 3, 3)))[-1] == "done: 3 frames in 1 s"
