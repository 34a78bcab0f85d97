"""Drawn people: labels that agree with the specification, and faces that an independent instrument can read."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from personalive.engine import motion as kp
from personalive.training.avatars import (
    canonical_keypoints,
    face_landmarks,
    neutral,
    project,
    render,
    sample_identities,
    sample_motions,
    sample_tracks,
)
from personalive.training.sources import head_poses

ANGLE = st.floats(-30, 30)


def people(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return sample_identities(count, generator), sample_motions(count, generator)


def pixels(images):
    return ((images + 1) * 127.5).round().byte().permute(0, 2, 3, 1).contiguous().numpy()


def test_a_seed_gives_the_same_picture_again():
    first, second = (render(*people(2, seed=3), 64) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, render(*people(2, seed=4), 64))
    assert first.shape == (2, 3, 64, 64)
    assert first.min() >= -1 and first.max() <= 1


def test_identity_and_motion_are_independent():
    identity, motion = people(3)
    alone = torch.cat([render(identity[i : i + 1], motion[i : i + 1], 64) for i in range(3)])
    assert torch.allclose(alone, render(identity, motion, 64), atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(ANGLE, ANGLE, ANGLE, st.floats(-0.2, 0.2), st.floats(0.8, 1.2))
def test_labels_follow_the_specified_rotation(yaw, pitch, roll, shift, scale):
    identity, _ = people(1)
    motion = neutral(1).replace(
        yaw=torch.tensor([yaw]),
        pitch=torch.tensor([pitch]),
        roll=torch.tensor([roll]),
        translate_x=torch.tensor([shift]),
        scale=torch.tensor([scale]),
    )
    own = project(canonical_keypoints(identity), motion)
    specified = kp.project(head_poses(identity, motion))
    assert torch.allclose(own, specified, atol=1e-5)


def test_signs_of_the_angles_are_what_the_docs_say():
    identity, _ = people(1)
    nose = 4

    def place(**angles):
        motion = neutral(1).replace(**{name: torch.tensor([value]) for name, value in angles.items()})
        return face_landmarks(identity, motion)[0]

    rest = place()
    assert place(yaw=20.0)[nose, 0] > rest[nose, 0] + 0.1
    assert place(pitch=15.0)[nose, 1] < rest[nose, 1] - 0.05
    left_eye, right_eye = place(roll=15.0)[0], place(roll=15.0)[3]
    assert right_eye[1] > left_eye[1] + 0.05


@pytest.mark.parametrize("name", ["yaw", "blink", "mouth_open", "gaze_x", "brow", "smile", "mouth_wide"])
def test_every_motion_changes_the_picture(name):
    identity, _ = people(1)
    moved = neutral(1).replace(**{name: torch.tensor([20.0 if name == "yaw" else 1.0])})
    difference = (render(identity, neutral(1), 128) - render(identity, moved, 128)).abs().amax(dim=1)[0]
    assert (difference > 0.15).sum() >= 8


def test_the_outline_turns_with_the_head():
    """From the side a head is deeper than it is wide: the hair reaches further to the back than to the front."""
    identity, _ = people(6, seed=5)
    plain = dataclasses.replace(
        identity,
        background=torch.zeros(6, 3),
        background_end=torch.zeros(6, 3),
        hair=torch.ones(6, 3),
        skin=torch.ones(6, 3),
    )

    def outline(yaw):
        rows = render(plain, neutral(6).replace(yaw=torch.full((6,), yaw)), 128)[:, :, 40:60].amax(dim=(1, 2)) > -0.5
        return rows.float().argmax(dim=1), 127 - rows.flip(1).float().argmax(dim=1)

    (left, right), (left_turned, right_turned) = outline(0.0), outline(30.0)
    assert ((left + right - 127).abs() <= 3).all()
    mirrored_left, mirrored_right = outline(-30.0)
    assert ((left_turned - (127 - mirrored_right)).abs() <= 3).all()
    assert ((right_turned - (127 - mirrored_left)).abs() <= 3).all()
    assert ((left_turned - left).abs() + (right_turned - right).abs() >= 2).all()


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**31))
def test_tracks_are_smooth_and_blink(seed):
    track = sample_tracks(4, 128, torch.Generator().manual_seed(seed))
    for start in (0, 31, 64):
        closed = track.blink[:, start : start + 64] > 0.9
        begins = (closed[:, 1:] & ~closed[:, :-1]).sum(dim=1) + closed[:, 0]
        assert begins.min() >= 2
    assert track.yaw.abs().max() <= 30 and track.pitch.abs().max() <= 17 and track.roll.abs().max() <= 17
    assert (track.yaw[:, 1:] - track.yaw[:, :-1]).abs().max() < 6
    assert track.yaw.std(dim=1).min() > 2


@pytest.mark.slow
def test_mediapipe_finds_the_faces_and_reads_their_motion():
    from personalive.training.measure import FaceReader

    reader = FaceReader()
    identity, motion = people(24, seed=11)
    readings = [reader.read(picture) for picture in pixels(render(identity, motion, 256))]
    assert sum(reading is not None for reading in readings) >= 23
    seen = [index for index, reading in enumerate(readings) if reading is not None]
    for name, label, least in (
        ("yaw", "yaw", 0.95),
        ("pitch", "pitch", 0.8),  # different people: their faces differ, too
        ("roll", "roll", 0.95),
        ("mouth", "mouth_open", 0.85),
    ):
        values = [getattr(readings[index], name) for index in seen]
        assert np.corrcoef(values, getattr(motion, label)[seen])[0, 1] >= least, name
    truth = face_landmarks(identity, motion)[seen] * 128 + 128
    found = np.stack([readings[index].mesh[[33, 263, 1, 61, 291, 13, 14], :2] for index in seen])
    error = np.linalg.norm(found - truth[:, [0, 3, 4, 5, 6, 7, 8]].numpy(), axis=-1)
    assert np.median(error) < 4  # pixels of 256
