"""Head pose, retargeting, rasters and boxes as anyone would expect them in a picture."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as np_st

from personalive.engine import motion as kp
from personalive.engine import raster
from personalive.models.motion_extractor import MotionHeads

ANGLES = st.floats(-60, 60, width=32)


def pose(angles=(0.0, 0.0, 0.0), translation=(0.0, 0.0, 0.0), scale=1.0, canonical=None):
    points = torch.randn(21, 3, generator=torch.Generator().manual_seed(1)) * 0.3 if canonical is None else canonical
    return kp.HeadPose(
        torch.tensor([angles]), torch.tensor([translation]), torch.tensor([[scale]]), points.float()[None]
    )


@given(ANGLES, ANGLES, ANGLES)
def test_rotations_keep_lengths_and_handedness(pitch, yaw, roll):
    matrix = kp.rotation(torch.tensor([[pitch, yaw, roll]]))[0]
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(3), atol=1e-5, rtol=0)
    assert torch.linalg.det(matrix) == pytest.approx(1, abs=1e-5)


def test_roll_turns_points_in_the_picture():
    right = torch.zeros(21, 3)
    right[:, 0] = 0.5
    turned = kp.project(pose((0.0, 0.0, 90.0), canonical=right))[0, 0]
    torch.testing.assert_close(turned, torch.tensor([0.0, 0.5, 0.0]), atol=1e-6, rtol=0)


def test_bins_are_three_degrees_and_zero_is_in_the_middle():
    scores = torch.full((3, 66), -100.0)
    scores[0, 0] = scores[1, 65] = 100
    scores[2, 32] = scores[2, 33] = 100
    torch.testing.assert_close(kp.degrees(scores), torch.tensor([-97.5, 97.5, 0.0]), atol=1e-4, rtol=0)


def test_half_precision_scores_are_read_in_full_precision():
    scores = torch.randn(5, 66).half()
    assert kp.degrees(scores).dtype == torch.float32
    heads = MotionHeads(scores, scores, scores, torch.zeros(5, 3), torch.ones(5, 1), torch.zeros(5, 63))
    assert kp.head_pose(heads).angles.shape == (5, 3)


def test_the_driver_gives_rotation_and_half_its_movement_and_the_reference_the_rest():
    reference = pose((1.0, 2.0, 3.0), (0.1, 0.2, 0.0), 1.5)
    first, later = pose((4.0, 5.0, 6.0), (0.3, 0.0, 0.0), 0.7), pose((9.0, 8.0, 7.0), (0.5, -0.2, 0.0), 2.0)
    target = kp.retarget(reference, later, first)
    assert torch.equal(target.angles, later.angles)
    torch.testing.assert_close(target.translation, torch.tensor([[0.2, 0.1, 0.0]]))
    assert torch.equal(target.scale, reference.scale) and torch.equal(target.canonical, reference.canonical)
    still = kp.retarget(reference, later, first, strength=0.0)
    assert torch.equal(kp.project(still), kp.project(reference))


def test_the_ramp_begins_at_the_reference_and_stops_before_the_first_frame():
    reference, target = pose((0.0, 0.0, 0.0)), pose((12.0, -12.0, 24.0))
    angles = kp.lead_in(reference, target).angles
    torch.testing.assert_close(angles[:, 0], torch.arange(12.0), atol=1e-5, rtol=0)
    assert len(angles) == 12 and torch.equal(angles[0], reference.angles[0])


def keypoints_at(x, y):
    points = torch.zeros(1, 21, 3)
    points[..., 0], points[..., 1] = x, y
    return points


def test_a_disc_covers_49_pixels_and_colours_add_up_to_one_at_most():
    points = keypoints_at(9.0, 9.0)
    points[0, 1, :2] = 0  # one red disc in the middle, the others off the canvas
    drawn = raster.draw(points, 64, 96)[0]
    assert drawn.shape == (3, 96, 64) and drawn[0].sum() == 49 and drawn[1:].sum() == 0
    assert drawn[0, 48, 32] == 1
    assert raster.draw(keypoints_at(0.0, 0.0), 64, 64).amax(dim=(2, 3)).tolist() == [[1.0, 1.0, 1.0]]


@given(np_st.arrays("float32", (3, 21, 3), elements=st.floats(-4, 4, width=32)), st.sampled_from([(64, 64), (128, 72)]))
def test_boxes_stay_in_the_picture_and_rasters_in_range(points, size):
    width, height = size
    points = torch.from_numpy(points)
    for left, top, right, bottom in raster.face_boxes(points, width, height):
        assert 0 <= left <= right <= width - 1 and 0 <= top <= bottom <= height - 1
    drawn = raster.draw(points, width, height)
    assert drawn.min() >= 0 and drawn.max() <= 1


def test_a_box_without_height_is_no_use():
    assert not raster.usable(raster.face_boxes(keypoints_at(0.2, 0.2), 128, 128)[0])
    assert raster.usable((10, 10, 40, 40))
