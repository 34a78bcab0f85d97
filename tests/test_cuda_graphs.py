"""What can be said of recorded functions without a GPU, and the rest where there is one."""

import threading

import pytest
import torch

from personalive.accel import cuda_graphs
from personalive.accel.cuda_graphs import GraphFunction, GraphMemory, flatten, places, rebuild
from personalive.engine.keypoints import HeadPose
from personalive.models.motion_extractor import MotionHeads


def nested(shift):
    tensors = [torch.full((n + 1,), float(n + shift)) for n in range(11)]
    return HeadPose(*tensors[:4]), [tensors[4]], (MotionHeads(*tensors[5:]), None, 16)


def test_nested_values_are_taken_apart_and_put_together():
    first, second = nested(0), nested(100)
    leaves, others = [], []
    assert flatten(first, leaves) == flatten(second, others)
    assert len(leaves) == 11
    pose, single, (heads, nothing, number) = rebuild(first, others)
    assert isinstance(pose, HeadPose) and isinstance(heads, MotionHeads) and isinstance(single, list)
    assert pose.angles[0] == 100 and single[0][0] == 104 and heads.keypoints[0] == 110
    assert nothing is None and number == 16


@pytest.mark.parametrize("other", [torch.zeros(3), torch.zeros(2, dtype=torch.float64), (torch.zeros(2),), 2])
def test_other_shapes_and_kinds_are_told_apart(other):
    assert flatten(other, []) != flatten(torch.zeros(2), [])


def test_every_tensor_has_a_place_of_its_own_that_others_do_not_move():
    one = list(places(((torch.zeros(1),), torch.zeros(2))))
    more = list(places(((torch.zeros(1), torch.zeros(1)), torch.zeros(2))))
    assert one == [(0, 0), (1,)] and more == [(0, 0), (0, 1), (1,)]
    assert list(places(nested(0)))[:2] == [(0, "angles"), (0, "translation")]


class StandIn:
    """Records as a GPU does: what runs later reads and writes the same memory as the first run."""

    def __init__(self, keeps=True):
        self.lock, self.recorded, self.keeps = threading.RLock(), 0, keeps

    def record(self, run, within):
        assert within == (self.recorded > 0 or not self.keeps)  # for the one function that a test has
        self.recorded += 1
        outputs = run()

        def replay():
            leaves, again = [], []
            flatten(outputs, leaves)
            flatten(run(), again)
            for old, new in zip(leaves, again, strict=True):
                old.copy_(new)

        return replay, outputs


def total(x, banks):
    return (x + sum(bank.sum() for bank in banks),)


def test_banks_that_come_and_go_record_once_per_number():
    memory = StandIn()
    function = GraphFunction("total", total, memory, constants=(1,))
    banks = [torch.full((3,), float(10**n)) for n in range(4)]
    for count in (1, 2, 3, 4, 1, 3, 2, 4):
        for x in (torch.ones(2), torch.zeros(2)):
            assert torch.equal(function(x, banks[:count])[0], total(x, banks[:count])[0])
    assert memory.recorded == 4


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
    function = GraphFunction("total", total, StandIn(), constants=(1,))
    x, banks, others = torch.ones(2), [torch.ones(3)], [torch.full((3,), 2.0)]
    assert function(x, banks)[0][0] == 4
    copies.clear()
    assert function(x, banks)[0][0] == 4
    assert len(copies) == 1 and copies[0] is x
    assert function(x, others)[0][0] == 7 and function(x, banks)[0][0] == 4


def test_recordings_whose_memory_was_too_small_are_made_again():
    memory = StandIn()
    function = GraphFunction("double", lambda x: x * 2, memory)
    for length in (4, 9, 4, 9, 4):
        x = torch.rand(length)
        torch.testing.assert_close(function(x), x * 2)
    assert memory.recorded == 3  # 4, then 9 takes its memory, then 4 in the larger one


def test_results_belong_to_the_caller():
    function = GraphFunction("double", lambda x: x * 2, StandIn())
    first = function(torch.ones(2))
    function(torch.zeros(2))
    assert torch.equal(first, torch.full((2,), 2.0))


@pytest.mark.parametrize("keeps", [True, False])
def test_only_a_first_run_that_may_keep_something_has_memory_of_its_own(keeps):
    memory = StandIn(keeps)
    function = GraphFunction("double", lambda x: x * 2, memory, keeps=keeps)
    for length in (4, 3, 9):
        function(torch.ones(length))
    assert memory.recorded == 3


def test_what_is_prepared_is_not_recorded_again():
    memory = StandIn()
    function = GraphFunction("double", lambda x: x * 2, memory)
    function.prepare(torch.ones(3))
    function.prepare(torch.zeros(3))
    assert memory.recorded == 1
    assert torch.equal(function(torch.full((3,), 2.0)), torch.full((3,), 4.0)) and memory.recorded == 1


def test_the_oldest_recording_goes(monkeypatch):
    monkeypatch.setattr(cuda_graphs, "MAX_GRAPHS", 2)
    memory = StandIn()
    function = GraphFunction("sum", lambda x, n: x + n, memory)
    for n in (1, 2, 1, 3, 1, 2):
        assert function(torch.zeros(1), n) == n
    assert memory.recorded == 4  # 2 went when 3 came


def test_what_can_not_be_recorded_runs_as_it_is(caplog):
    memory = StandIn()

    def refuse(run, within):
        raise RuntimeError("not while capturing\nand a long story")

    memory.record = refuse
    function = GraphFunction("sum", lambda x: x + 1, memory)
    assert [function(torch.zeros(1)), function(torch.ones(1))] == [1, 2]
    assert caplog.messages == ["sum runs without a CUDA graph: not while capturing"]
    function.prepare(torch.ones(2))  # is of no use then, and does no harm


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_recording_follows_its_arguments():
    memory = GraphMemory(torch.device("cuda"))
    function = GraphFunction("sum", lambda x, table: (x + table[0]) * 2, memory, constants=(1,))
    with torch.inference_mode():
        for length in (4, 9, 4):  # it grows, and goes back
            x, table = torch.rand(length, device="cuda"), (torch.rand(length, device="cuda"),)
            first = function(x, table)
            second = function(x + 1, table)
            third = function(x, (table[0] + 1,))
            for result, expected in ((first, x + table[0]), (second, x + table[0] + 1), (third, x + table[0] + 1)):
                torch.testing.assert_close(result, expected * 2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_what_a_function_keeps_is_its_own_whatever_is_recorded_before_and_after():
    memory, kept = GraphMemory(torch.device("cuda")), {}

    def keeping(x):
        if "table" not in kept:
            kept["table"] = torch.arange(4.0, device="cuda")
        return x + kept["table"]

    def writing(x):
        return (x.expand(1000, -1) * torch.nan).sum(dim=0) * 0 + 1

    first, second = GraphFunction("writing", writing, memory), GraphFunction("keeping", keeping, memory)
    with torch.inference_mode():
        for rows in (1, 2, 3):
            x = torch.ones(rows, 4, device="cuda")
            first(x[0])
            second(x)
            first(x[0])
            assert torch.equal(second(x), x + torch.arange(4.0, device="cuda"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_what_keeps_nothing_is_tried_in_the_memory_that_recordings_have():
    memory, size = GraphMemory(torch.device("cuda")), 2**26

    def function():
        return GraphFunction("sum", lambda x: (x.expand(size // 4) + 1).sum(), memory, keeps=False)

    with torch.inference_mode():
        x = torch.ones(1, device="cuda")
        assert function()(x) == size // 2
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_reserved()
        assert function()(x) == size // 2
        assert torch.cuda.max_memory_reserved() - before < size // 2
