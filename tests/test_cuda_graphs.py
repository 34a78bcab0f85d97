"""What can be said of recorded functions without a GPU, and the rest where there is one."""

import pytest
import torch

from personalive.cuda_graphs import GraphFunction, GraphMemory, flatten, rebuild
from personalive.keypoints import HeadPose
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
