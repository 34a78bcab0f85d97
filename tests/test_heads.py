"""Heads in space: exact labels, closed lids, open mouths, the rasteriser, and what their pictures may be made of."""

import numpy as np
import pytest
import torch
from PIL import Image

from personalive.engine import motion as kp
from personalive.errors import InputError
from personalive.training.avatars.motion import neutral, sample_motions
from personalive.training.evaluate_photos import PHOTOGRAPHS
from personalive.training.heads import textures
from personalive.training.heads.identity import sample_heads
from personalive.training.heads.model import load_heads
from personalive.training.heads.pose import LANDMARKS, camera, landmarks, pose_heads
from personalive.training.heads.raster import rasterise
from personalive.training.heads.source import Heads
from personalive.training.mixture import Mixture
from personalive.training.sources import SIGNALS, Avatars
from personalive.training.stages import Batch, VAEStage
from tests.baked_heads import bake_balls
from tests.training_worker import SMALL, small_trainee

CPU = torch.device("cpu")
SIZE = SMALL.size


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A file as `bake` writes it, of heads that are balls: MakeHuman's are not in this repository."""
    path = tmp_path_factory.mktemp("heads") / "heads.npz"
    bake_balls(path)
    return load_heads(path, CPU)


@pytest.fixture(scope="module")
def heads(model):
    return Heads(model, SIZE)


def people(model, count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    identity = sample_heads(count, generator, len(model.shapes), len(model.unit_names), len(model.textures))
    return identity, sample_motions(count, generator)


def test_the_nearest_triangle_wins_and_weights_name_the_place():
    # Two squares: a small one before a large one, listed last and first.
    points = torch.tensor(
        [[[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0], [-0.5, -0.5, 1], [0.5, -0.5, 1], [0.5, 0.5, 1]]]
    )
    faces = torch.tensor([[0, 1, 2], [0, 2, 3], [4, 5, 6]])
    two_sided = torch.ones(3, dtype=torch.bool)
    hits = rasterise(points.float(), faces, 16, 3, two_sided, None)
    assert set(hits.triangle.unique().tolist()) == {0, 1, 2}, "the whole picture is covered"
    assert hits.triangle[0, 5, 10] == 2
    place = hits.interpolate(points.float(), faces)
    line = (torch.arange(16) + 0.5) / 8 - 1
    torch.testing.assert_close(place[0, :, :, 0], line.expand(16, 16), atol=1e-4, rtol=0)
    torch.testing.assert_close(place[0, :, :, 1], line[:, None].expand(16, 16), atol=1e-4, rtol=0)
    holes = rasterise(points.float(), faces, 16, 2, two_sided, lambda picture, triangle, weights: weights[:, 0] > 2)
    assert holes.triangle.max() == 1, "what is transparent hides nothing"


def test_triangles_that_face_away_are_seen_only_if_they_have_two_sides():
    points = torch.tensor([[[-1.0, -1, 0], [1, -1, 0], [0, 1, 0]]])
    for faces in ([[0, 1, 2]], [[0, 2, 1]]):
        seen = [
            int((rasterise(points, torch.tensor(faces), 8, 1, torch.tensor([both]), None).triangle >= 0).sum())
            for both in (False, True)
        ]
        assert seen[1] > 20
        assert seen[0] == (seen[1] if faces == [[0, 2, 1]] else 0)


def test_labels_say_where_the_points_of_the_head_are(model, heads):
    identity, motion = people(model, 4)
    identity = identity.replace(perspective=torch.zeros(4), gains=torch.ones_like(identity.gains))
    still = motion.replace(**{name: torch.zeros(4) for name in SIGNALS})
    points = kp.project(heads.poses(identity, still))
    # The tip of the nose is a canonical point and a landmark.
    nose = LANDMARKS.index("nose")
    torch.testing.assert_close(
        points[:, 12, :2], landmarks(model, pose_heads(model, identity, still), identity, still)[:, nose]
    )


def test_what_is_nearer_is_larger(model):
    identity, _ = people(model, 1)
    near, far = torch.tensor([[[0.4, 0.0, 0.6]]]), torch.tensor([[[0.4, 0.0, -0.6]]])
    wide = identity.replace(perspective=torch.tensor([0.1]))
    assert camera(near, wide, neutral(1))[0, 0, 0] > 0.4 > camera(far, wide, neutral(1))[0, 0, 0]


@pytest.mark.parametrize("name", ["yaw", "blink", "mouth_open", "gaze_x"])
def test_every_motion_changes_the_picture(model, heads, name):
    identity, _ = people(model, 1, seed=3)
    identity = identity.replace(glasses=torch.zeros(1), perspective=torch.zeros(1))
    moved = neutral(1).replace(**{name: torch.tensor([20.0 if name == "yaw" else 1.0])})
    difference = (heads.draw(identity, neutral(1)) - heads.draw(identity, moved)).abs().amax(dim=1)[0]
    assert (difference > 0.1).sum() >= 4


def test_pictures_depend_on_the_seed_alone(heads):
    one, again, other = (heads.portraits(2, seed) for seed in (5, 5, 6))
    assert torch.equal(one.images, again.images) and not torch.equal(one.images, other.images)
    assert one.images.abs().max() <= 1


@pytest.mark.slow
def test_pairs_share_their_motion_and_a_batch_keeps_its_shape(heads):
    mixture = Mixture(heads, Avatars(SIZE, CPU), share=0.5)
    for seed in range(3):
        reference, driving, target = mixture.stills(4, 2, seed)
        assert reference.images.shape == (4, 1, 3, SIZE, SIZE) and target.images.shape == (4, 2, 3, SIZE, SIZE)
        torch.testing.assert_close(driving.expression, target.expression)
        assert not torch.equal(driving.images, target.images)
        assert len(target.pose.angles) == 8
    clips = mixture.clips(4, 4, seed=1)
    driving, target = clips.frames(0, 2)
    assert clips.ramp().shape[:2] == (4, 12) and driving.images.shape == target.images.shape == (4, 2, 3, SIZE, SIZE)


def test_the_autoencoder_sees_pictures_without_people(heads):
    mixture = Mixture(heads, Avatars(SMALL.size, CPU), share=0.0)
    seen = mixture.pictures(5, seed=2)
    assert len(seen.images) == 5 and len(mixture.heads.scenery(1, torch.Generator()).images) == 1
    stage = VAEStage(small_trainee(seed=0), mixture, Batch(pictures=5))
    stage.begin()
    assert torch.isfinite(stage.compute(stage.prepare(0, 1))["loss"])


def test_the_pictures_that_judge_are_never_read(monkeypatch):
    """The list is closed: no photograph of a person is in it, and nothing outside it is opened."""
    opened = []
    real = Image.open
    monkeypatch.setattr(Image, "open", lambda path, *rest: opened.append(path) or real(path, *rest))
    squares, names = textures.read_textures(2 * len(textures.PICTURES), seed=1)
    judges = {"astronaut", "lfw_subset", "grace_hopper", "camera", *PHOTOGRAPHS}
    assert {path.name for path in opened} == set(names) <= set(textures.PICTURES)
    assert not [name for name in textures.PICTURES for judge in judges if judge in name]
    assert squares.shape[1:] == (textures.SIDE, textures.SIDE, 3)


def test_mediapipe_finds_nobody_in_the_textures():
    from personalive.training.measure import FaceReader

    squares, names = textures.read_textures(len(textures.PICTURES), seed=0)
    reader = FaceReader()
    assert [name for square, name in zip(squares, names, strict=True) if reader.mesh(square) is not None] == []


def test_a_file_that_holds_no_heads_is_refused(tmp_path):
    path = tmp_path / "other.npz"
    np.savez(path, shapes=np.zeros(3))
    with pytest.raises(InputError, match="holds no baked heads"):
        load_heads(path, CPU)
    with pytest.raises(InputError, match="holds no baked heads"):
        load_heads(tmp_path / "missing.npz", CPU)
