"""What can be said of captured functions without a GPU, and the rest where there is one."""

import threading

import pytest
import torch

from personalive.accel import cuda_graphs
from personalive.accel.cuda_graphs import CapturedFunction, GraphMemory

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


class StandIn:
    """Captures as a GPU does: what runs later reads and writes the same memory as the first run."""

    def __init__(self, allocates_persistent=True):
        self.lock, self.captured, self.renewed = threading.RLock(), 0, 0
        self.allocates_persistent, self.errors = allocates_persistent, []

    def capture(self, run, shared):
        if self.errors:
            raise self.errors.pop(0)
        assert shared == (self.captured > 0 or not self.allocates_persistent)  # for the one function that a test has
        self.captured += 1
        outputs = run()

        def replay():
            for old, new in zip(outputs, run(), strict=True):
                old.copy_(new)

        return replay, outputs

    def renew(self):
        self.renewed += 1


def total(x, *banks):
    return (x + sum(bank.sum() for bank in banks),)


def double(x):
    return (x * 2,)


def test_banks_that_come_and_go_are_captured_once_per_number():
    memory = StandIn()
    function = CapturedFunction("total", total, memory)
    banks = [torch.full((3,), float(10**n)) for n in range(4)]
    for count in (1, 2, 3, 4, 1, 3, 2, 4):
        for x in (torch.ones(2), torch.zeros(2)):
            assert torch.equal(function(x, constants=banks[:count])[0], total(x, *banks[:count])[0])
    assert memory.captured == 4


def test_a_constant_is_copied_when_it_is_another(monkeypatch):
    copies = []
    write = cuda_graphs._Input.write
    monkeypatch.setattr(
        cuda_graphs._Input,
        "write",
        lambda self, target, given, constant: (
            copies.append(given) if not (constant and self.source is given) else None,
            write(self, target, given, constant),
        )[0],
    )
    function = CapturedFunction("total", total, StandIn())
    x, banks, others = torch.ones(2), [torch.ones(3)], [torch.full((3,), 2.0)]
    assert function(x, constants=banks)[0][0] == 4
    copies.clear()
    assert function(x, constants=banks)[0][0] == 4
    assert len(copies) == 1 and copies[0] is x
    assert function(x, constants=others)[0][0] == 7 and function(x, constants=banks)[0][0] == 4


def test_captures_whose_memory_was_too_small_are_made_again():
    memory = StandIn()
    function = CapturedFunction("double", double, memory)
    for length in (4, 9, 4, 9, 4):
        x = torch.rand(length)
        torch.testing.assert_close(function(x)[0], x * 2)
    assert memory.captured == 3  # 4, then 9 takes its memory, then 4 in the larger one


def test_results_belong_to_the_caller():
    function = CapturedFunction("double", double, StandIn())
    first = function(torch.ones(2))[0]
    function(torch.zeros(2))
    assert torch.equal(first, torch.full((2,), 2.0))


@pytest.mark.parametrize("persistent", [True, False])
def test_only_a_first_run_that_may_allocate_for_good_has_memory_of_its_own(persistent):
    memory = StandIn(persistent)
    function = CapturedFunction("double", double, memory, allocates_persistent=persistent)
    for length in (4, 3, 9):
        function(torch.ones(length))
    assert memory.captured == 3


def test_what_is_prepared_is_not_captured_again():
    memory = StandIn()
    function = CapturedFunction("double", double, memory)
    function.prepare(torch.ones(3))
    function.prepare(torch.zeros(3))
    assert memory.captured == 1
    assert torch.equal(function(torch.full((3,), 2.0))[0], torch.full((3,), 4.0)) and memory.captured == 1


def test_the_oldest_capture_goes(monkeypatch):
    monkeypatch.setattr(cuda_graphs, "MAX_GRAPHS", 2)
    memory = StandIn()
    function = CapturedFunction("sum", lambda x, n: (x + n,), memory)
    for n in (1, 2, 1, 3, 1, 2):
        assert function(torch.zeros(1), n=n)[0] == n
    assert memory.captured == 4  # 2 went when 3 came


def test_what_cannot_be_captured_runs_as_it_is(caplog):
    memory = StandIn()
    memory.errors = [RuntimeError("not while capturing\nand a long story")]
    function = CapturedFunction("sum", lambda x: (x + 1,), memory)
    assert [function(torch.zeros(1))[0], function(torch.ones(1))[0]] == [1, 2]
    assert caplog.messages == ["sum runs without a CUDA graph: not while capturing"]
    function.prepare(torch.ones(2))  # is of no use then, and does no harm
    assert memory.captured == 0


def out_of_memory(hidden):
    """The error; or the one that the capture's end gives after it."""
    error = torch.OutOfMemoryError("no memory")
    if hidden:
        later = RuntimeError("operation failed due to a previous error during capture")
        later.__context__ = error
        return later
    return error


@pytest.mark.parametrize("hidden", [False, True])
def test_too_little_memory_for_a_capture_is_not_for_good(hidden, caplog):
    memory = StandIn()
    function = CapturedFunction("double", double, memory)
    assert function(torch.ones(9))[0][0] == 2 and memory.captured == 1
    memory.errors = [out_of_memory(hidden), out_of_memory(hidden)]
    for _ in range(1 + cuda_graphs.FIRST_PAUSE):  # the attempt, and calls without one
        assert function(torch.ones(3))[0][0] == 2
    assert memory.captured == 1 and len(memory.errors) == 1 and memory.renewed == 1
    assert function(torch.ones(9))[0][0] == 2  # what was captured before still is
    for _ in range(1 + 2 * cuda_graphs.FIRST_PAUSE):  # it waits longer the second time
        assert function(torch.ones(3))[0][0] == 2
    assert memory.captured == 1 and not memory.errors
    assert function(torch.ones(3))[0][0] == 2
    assert memory.captured == 2
    assert len(caplog.messages) == 2 and "for a while" in caplog.messages[0]


@needs_gpu
def test_a_capture_follows_its_arguments():
    memory = GraphMemory(torch.device("cuda"))
    function = CapturedFunction("sum", lambda x, table: ((x + table) * 2,), memory)
    with torch.inference_mode():
        for length in (4, 9, 4):  # it grows, and goes back
            x, table = torch.rand(length, device="cuda"), torch.rand(length, device="cuda")
            first = function(x, constants=[table])[0]
            second = function(x + 1, constants=[table])[0]
            third = function(x, constants=[table + 1])[0]
            for result, expected in ((first, x + table), (second, x + table + 1), (third, x + table + 1)):
                torch.testing.assert_close(result, expected * 2)


@needs_gpu
def test_what_a_function_allocates_for_good_is_its_own_whatever_is_captured_before_and_after():
    memory, kept = GraphMemory(torch.device("cuda")), {}

    def keeping(x):
        if "table" not in kept:
            kept["table"] = torch.arange(4.0, device="cuda")
        return (x + kept["table"],)

    def writing(x):
        return ((x.expand(1000, -1) * torch.nan).sum(dim=0) * 0 + 1,)

    first, second = CapturedFunction("writing", writing, memory), CapturedFunction("keeping", keeping, memory)
    with torch.inference_mode():
        for rows in (1, 2, 3):
            x = torch.ones(rows, 4, device="cuda")
            first(x[0])
            second(x)
            first(x[0])
            assert torch.equal(second(x)[0], x + torch.arange(4.0, device="cuda"))


@needs_gpu
def test_what_allocates_nothing_for_good_is_tried_in_the_memory_that_captures_have():
    memory, size = GraphMemory(torch.device("cuda")), 2**26

    def function():
        run = lambda x: ((x.expand(size // 4) + 1).sum(),)  # noqa: E731
        return CapturedFunction("sum", run, memory, allocates_persistent=False)

    with torch.inference_mode():
        x = torch.ones(1, device="cuda")
        assert function()(x)[0] == size // 2
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_reserved()
        assert function()(x)[0] == size // 2
        assert torch.cuda.max_memory_reserved() - before < size // 2


@needs_gpu
def test_after_a_capture_without_enough_memory_graphs_work_again(monkeypatch):
    """The memory is short in the capture alone, which is the worst place: the capture itself is then broken."""
    monkeypatch.setattr(cuda_graphs, "FIRST_PAUSE", 1)
    memory, hoard = GraphMemory(torch.device("cuda")), []

    def hungry(x):
        if torch.cuda.is_current_stream_capturing() and hoard:
            torch.empty(2**50, dtype=torch.uint8, device="cuda")
        return (x + 1,)

    small = CapturedFunction("small", lambda x: (x * 3,), memory)
    function = CapturedFunction("hungry", hungry, memory, allocates_persistent=False)
    with torch.inference_mode():
        x = torch.ones(4, device="cuda")
        assert torch.equal(small(x)[0], x * 3)
        hoard.append(True)
        for _ in range(2):
            assert torch.equal(function(x)[0], x + 1)
        assert not function._captures
        assert torch.cuda.current_stream() == torch.cuda.default_stream()
        hoard.clear()
        for _ in range(3):
            assert torch.equal(function(x)[0], x + 1)
        assert function._captures and torch.equal(small(x)[0], x * 3)
        assert torch.equal(CapturedFunction("other", lambda x: (x - 1,), memory)(x)[0], x - 1)
