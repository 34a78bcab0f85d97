"""The result where the driver's face is hidden, and where it crosses the picture, from file to file."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from personalive import PersonaLive
from personalive.animate.job import AnimateOptions, animate
from personalive.assets import DEMO_PORTRAIT
from personalive.media.video_reader import probe, read_frames
from personalive.testing.pictures import save_video
from personalive.training import demo_assets
from personalive.training.avatars import sample_identities, sample_tracks
from personalive.training.evaluate import HELD_OUT
from personalive.training.measure import FaceReader

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

MOST = 1.5
"""How many times the largest step elsewhere a step around hidden frames may be."""
HIDDEN, RETURN = range(8, 14), 9
"""Frames that show no face, and how many frames it takes until the motion is the driver's again."""


@pytest.fixture(scope="module")
def model():
    return PersonaLive.from_pretrained("demo", device="cpu")


@pytest.fixture(scope="module")
def reader():
    return FaceReader()


def driver(seed, frames, size):
    """A drawn person in motion, and the yaw in each frame."""
    generator = torch.Generator().manual_seed(HELD_OUT + seed)
    person, track = sample_identities(1, generator), sample_tracks(1, frames, generator)
    return demo_assets.pictures(person, track, size), track.yaw[0].numpy()


def animated(model, path, tmp_path):
    """The frames of the result, and what was said."""
    work = animate(model, DEMO_PORTRAIT, path, tmp_path / "out.mp4", AnimateOptions(max_frames=0, seed=3))
    said = [step.message for step in work if step.message]
    return list(read_frames(probe(tmp_path / "out.mp4"))), said


@pytest.mark.parametrize(("seed", "kind"), [(41, "black"), (7, "blank"), (23, "no one")])
def test_a_hidden_face_makes_no_larger_steps_than_the_driver(model, reader, tmp_path, seed, kind):
    pictures, _ = driver(seed, 30, 256)
    hidden = {"black": np.zeros_like(pictures[0]), "blank": np.full_like(pictures[0], 250)}.get(kind)
    for index in HIDDEN:
        pictures[index] = np.roll(pictures[0][:1].repeat(256, axis=0), index, 1) if hidden is None else hidden
    result, said = animated(model, save_video(tmp_path / "hidden.mp4", list(pictures)), tmp_path)
    assert any(f"held in {len(HIDDEN)} of 30" in line for line in said), said
    meshes = [reader.read(frame) for frame in result]
    assert all(meshes), "no melted face"
    points = [each.mesh[:468, :2] / each.eye_distance for each in meshes]
    steps = np.array([np.abs(b - a).max() for a, b in pairwise(points)])
    around = range(HIDDEN[0] - 1, HIDDEN[-1] + RETURN)
    elsewhere = [step for index, step in enumerate(steps) if index not in around]
    print(f"{kind}: steps there are up to {steps[around].max() / max(elsewhere):.2f} of the largest elsewhere")
    assert steps[around].max() <= MOST * max(elsewhere), np.round(steps, 3)
    assert steps[HIDDEN[1] : HIDDEN[-1]].max() < 0.05, "it stands still"


@pytest.mark.parametrize(("seed", "side"), [(41, 200), (5, 150)])
def test_a_head_that_crosses_the_picture_is_followed(model, reader, tmp_path, seed, side):
    pictures, yaw = driver(seed, 36, side)
    frames = []
    for index, picture in enumerate(pictures):
        scene = np.full((side + 60, 1000, 3), 90, np.uint8)
        left = round(index * (1000 - side) / 35)
        scene[30 : 30 + side, left : left + side] = picture
        frames.append(np.asarray(Image.fromarray(scene)))
    result, said = animated(model, save_video(tmp_path / "walk.mp4", frames), tmp_path)
    assert not any("held" in line for line in said), said
    seen = [reader.read(frame) for frame in result]
    assert all(seen)
    correlation = np.corrcoef([each.yaw for each in seen], yaw)[0, 1]
    print(f"{len(seen)} of {len(frames)} faces found; correlation of the yaw {correlation:.3f}")
    assert correlation >= 0.9
