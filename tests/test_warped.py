"""Photographs that are moved by a warp, and how much somebody still looks like the reference."""

from dataclasses import replace

import numpy as np
import pytest

from personalive.training.evaluate_photos import read_photographs
from personalive.training.likeness import likeness
from personalive.training.measure import FaceReader
from personalive.training.scores import psnr
from personalive.training.warped import FRAMES_PER_TURN, Track, make_track


@pytest.fixture(scope="module")
def reader():
    return FaceReader()


@pytest.fixture(scope="module")
def photographs(reader):
    """Both, unmoved and moved once."""
    zero = np.zeros(1, np.float32)
    return read_photographs(reader, 256, Track(zero, zero, zero, zero))


def test_without_motion_the_photograph_stays(photographs):
    for person in photographs:
        assert psnr(person.frames, person.moved.photo[None]) > 30


def test_mediapipe_reads_the_motion_that_was_asked_for(reader, photographs):
    astronaut = photographs[0].moved
    still, right, left, spoken, asleep = (
        reader.read(astronaut.frame(*values))
        for values in ((0, 0, 0, 0), (15, 0, 0, 0), (-15, 0, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1))
    )
    assert left.yaw < still.yaw - 7 and right.yaw > still.yaw + 7
    assert spoken.mouth > still.mouth + 0.005
    assert asleep.blink > still.blink


def test_a_track_starts_as_the_photograph_is_and_moves_everything():
    track = make_track(2 * FRAMES_PER_TURN)
    assert all(values[0] == 0 for values in vars(track).values())
    assert track.yaw.min() < -14 < 14 < track.yaw.max() and track.mouth.max() == 1 and track.blink.max() == 1


def test_people_are_like_themselves_and_unlike_others(reader, photographs):
    one, other = (person.moved.photo for person in photographs)
    readings = [reader.read(picture) for picture in (one, other)]
    own = likeness(one, readings[0], one[None], [readings[0]])
    foreign = likeness(one, readings[0], other[None], [readings[1]])
    assert all(value == pytest.approx(0, abs=1e-6) for value in own.values())
    assert foreign["colour"] > 10 and foreign["shape"] > 0.02
    shifted = replace(readings[0], mesh=readings[0].mesh + np.array([3.0, 2.0, 0]))
    assert likeness(one, readings[0], np.roll(one, (2, 3), (0, 1))[None], [shifted])["shape"] < 1e-6
