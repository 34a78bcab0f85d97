"""Copies between the host and a GPU."""

import numpy as np
import pytest
import torch

from personalive.accel.transfer import HostCopy, pin, upload
from personalive.config import DEMO
from personalive.engine.preprocess import Preprocessor

GPU = torch.device("cuda")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def pictures(count):
    return list(np.random.default_rng(0).integers(0, 256, (count, 80, 90, 3), dtype=np.uint8))


def boxes(count):
    return [(10 + index % 5, 5, 60, 70) for index in range(count)]


def test_without_a_gpu_nothing_is_copied():
    tensor = torch.rand(3, 2)
    assert upload([tensor], torch.device("cpu")) is tensor
    assert torch.equal(upload([tensor, tensor], torch.device("cpu")), torch.cat((tensor, tensor)))


@needs_gpu
@pytest.mark.parametrize("by_boxes", [True, False])
def test_frames_for_a_gpu_are_the_same_frames_in_pinned_memory(by_boxes):
    count = 6
    plain, locked = (
        Preprocessor(DEMO, 256, 256, stage).driving(pictures(count), boxes(count) if by_boxes else None)
        for stage in (None, lambda part: pin([part]))
    )
    for name in ("pose_images", "faces", "frames"):
        expected, given = getattr(plain, name), getattr(locked, name)
        assert (expected is None) == (given is None)
        if expected is not None:
            assert given[1:3].is_pinned() and given.is_contiguous() and torch.equal(given, expected)
            assert torch.equal(upload([given[1:3]], GPU).cpu(), expected[1:3])
            mixed = upload([given[:4], expected[4:]], GPU)
            ready = upload([given[:4], given[4:]], GPU)
            assert torch.equal(mixed.cpu(), expected) and torch.equal(ready.cpu(), expected)


@needs_gpu
def test_downloads_are_the_callers_own():
    tensor = torch.arange(12, dtype=torch.uint8, device=GPU)
    first = HostCopy(tensor).result()
    second = HostCopy(tensor + 1).result()
    assert (second == first + 1).all() and (first == np.arange(12)).all()
