"""What of the driver's motion a portrait takes: strengths, parts that are kept, relative motion, smoothing."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from personalive.animate.job import animate
from personalive.cli import main as cli
from personalive.engine.control import MotionControl
from personalive.engine.cues import Cue
from personalive.engine.motion import HeadPose, retarget
from personalive.engine.smoothing import smooth_pose
from personalive.errors import InputError, NoFaceError
from personalive.live.core.parameters import Parameters
from personalive.media.faces import Face
from personalive.media.neutral import most_neutral
from personalive.settings import AnimateOptions, Surface
from personalive.testing.pictures import faceless, moving_face, save_video
from personalive.types import POSE_PARTS
from tests.test_stream import begin, frames, model  # noqa: F401 (a fixture)


def heads(count, seed=0):
    values = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(count, *shape, generator=values)

    return HeadPose(20 * random(3), random(3), 1 + 0.1 * random(1), random(21, 3))


REFERENCE, FIRST, NEUTRAL, DRIVING = heads(1, 1), heads(1, 2), heads(1, 3), heads(5, 4)


def part(pose, name):
    if name in ("translation", "scale"):
        return getattr(pose, name)
    return pose.angles[:, ("pitch", "yaw", "roll").index(name)]


@pytest.mark.parametrize("kept", [*([name] for name in POSE_PARTS), ["roll", "scale"]])
@pytest.mark.parametrize("neutral", [None, NEUTRAL])
def test_kept_parts_are_the_references_and_the_others_are_as_without(kept, neutral):
    without = retarget(REFERENCE, DRIVING, FIRST, neutral=neutral)
    moved = retarget(REFERENCE, DRIVING, FIRST, neutral=neutral, keep=kept)
    for name in POSE_PARTS:
        expected = part(REFERENCE, name).expand_as(part(without, name)) if name in kept else part(without, name)
        assert torch.equal(part(moved, name), expected), name


def test_relative_motion_is_the_drivers_difference_from_the_neutral_head():
    at_rest = retarget(REFERENCE, FIRST, FIRST, neutral=FIRST)
    for name in POSE_PARTS:
        torch.testing.assert_close(part(at_rest, name), part(REFERENCE, name))
    moved = retarget(REFERENCE, DRIVING, NEUTRAL, 0.5, neutral=NEUTRAL)
    torch.testing.assert_close(moved.angles, REFERENCE.angles + 0.5 * (DRIVING.angles - NEUTRAL.angles))
    torch.testing.assert_close(moved.scale, REFERENCE.scale * (DRIVING.scale / NEUTRAL.scale).sqrt())


def motion_of(model, driver="drive", neutral=None, **motion):  # noqa: F811
    """Keypoints and motion tokens of 8 driving frames, as the networks get them."""
    records = []
    stream = begin(model, observer=records.append, **motion)
    if neutral is not None:
        stream.set_neutral(neutral(stream))
    stream.push(frames(stream, 8, driver))
    tokens = torch.cat((records[0].motion, records[1].motion[-4:]))
    return torch.cat([record.keypoints for record in records])[-8:], tokens[-8:]


def spread(values):
    return float(values.std(dim=0).mean())


def test_pose_and_expression_have_their_own_strengths(model):  # noqa: F811
    keypoints, tokens = motion_of(model)
    for name, still, moving in (("pose_strength", 0, 1), ("expression_strength", 1, 0)):
        found = motion_of(model, **{name: 0.0})
        assert spread(found[still]) < 1e-6 < spread(found[moving])
        assert torch.equal(found[moving], (keypoints, tokens)[moving]), "the other part is as at full strength"
    both = motion_of(model, motion_strength=0.3)
    apart = motion_of(model, motion_strength=2.0, pose_strength=0.3, expression_strength=0.3)
    assert all(map(torch.equal, both, apart))


def test_relative_motion_is_the_references_own_at_the_neutral_frame(model):  # noqa: F811
    records = []
    stream = begin(model, motion="relative", observer=records.append)
    driving = frames(stream, 8)
    stream.set_neutral(driving[5:6])
    reference = stream.require_state().reference
    stream.push(driving)
    tokens = records[1].motion[-3]  # of frame 5
    torch.testing.assert_close(tokens[None], reference.motion, rtol=1e-4, atol=1e-4)  # encoded among other frames
    torch.testing.assert_close(records[1].keypoints[1], records[0].keypoints[0])
    assert not torch.allclose(records[1].motion[-4], reference.motion[0])


def test_without_a_choice_the_first_frame_that_shows_a_face_is_neutral(model):  # noqa: F811
    tokens = []
    for first in (0, 2):
        records = []
        stream = begin(model, motion="relative", observer=records.append)
        driving = frames(stream, 8)
        cues = torch.tensor([[float(index >= first), 0.0, float(index == first)] for index in range(8)])
        stream.push(dataclasses.replace(driving, cues=cues))
        tokens.append(records[0].motion[12 + first])
    assert torch.equal(*tokens)
    torch.testing.assert_close(tokens[0][None], stream.require_state().reference.motion)


def test_this_is_neutral_counts_from_the_next_frame_on(model):  # noqa: F811
    records = []
    stream = begin(model, motion="relative", observer=records.append)
    stream.push(frames(stream, 4))
    stream.reanchor()
    stream.push(frames(stream, 4, start=4))
    torch.testing.assert_close(records[1].motion[-4][None], stream.require_state().reference.motion)
    torch.testing.assert_close(records[1].keypoints[0], records[0].keypoints[0])


def test_changes_while_it_runs_and_a_saved_state_keep_the_motion(model):  # noqa: F811
    stream = begin(model, motion="relative", smooth=0.7, keep=("roll",))
    driving = frames(stream, 12)
    stream.push(driving[:6])
    stream.control = dataclasses.replace(stream.control, pose_strength=0.5)
    resumed = model.stream()
    resumed.load_state_dict(stream.state_dict())
    assert resumed.control == stream.control and resumed.control.pose_strength == 0.5
    assert np.array_equal(resumed.push(driving[6:]), stream.push(driving[6:]))
    assert np.array_equal(resumed.flush(), stream.flush())


@given(st.lists(st.integers(1, 7), max_size=3), st.floats(0.01, 1))
def test_smoothing_does_not_depend_on_how_frames_are_grouped(splits, strength):
    poses = heads(8, 6)
    whole, memory = smooth_pose(poses, None, strength, 25.0, [])
    assert torch.equal(whole.angles[0], poses.angles[0]) and torch.equal(whole.canonical, poses.canonical)
    before, parts = None, []
    for start, end in itertools.pairwise(sorted({0, 8, *splits})):
        pose, before = smooth_pose(poses[start:end], before, strength, 25.0, [])
        parts.append(pose.angles)
    assert torch.equal(torch.cat(parts), whole.angles) and torch.equal(before.values, memory.values)


def still_head(angles):
    count = len(angles)
    return HeadPose(angles, torch.zeros(count, 3), torch.ones(count, 1), torch.zeros(count, 21, 3))


def test_smoothing_quiets_trembling_and_lets_turns_pass():
    noise = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    quiet, _ = smooth_pose(still_head(0.3 * noise), None, 0.7, 25.0, [])
    assert quiet.angles[20:].std() < 0.5 * 0.3
    turn = torch.cat((torch.zeros(25), torch.linspace(0, 40, 13), torch.full((25,), 40.0)))[:, None].expand(-1, 3)
    followed, _ = smooth_pose(still_head(turn), None, 0.5, 25.0, [])
    assert (followed.angles[37:] > 32).all() and (followed.angles <= 40 + 1e-3).all()


def test_smoothing_starts_again_at_a_cut_and_rests_without_a_face():
    poses = heads(4, 7)
    cues = [Cue(), Cue(weight=0), Cue(anchor=True), Cue()]
    found, _ = smooth_pose(poses, None, 1.0, 25.0, cues)
    assert torch.equal(found.angles[1], found.angles[0])
    assert torch.equal(found.angles[2], poses.angles[2])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"pose_strength": 2.5}, "pose_strength is 2.5"),
        ({"expression_strength": float("nan")}, "expression_strength"),
        ({"keep": ("nose",)}, "keep has nose"),
        ({"motion": "sideways"}, "motion is 'sideways'"),
        ({"smooth": -1}, "smooth is -1"),
    ],
)
def test_control_that_is_not_allowed_is_named(wrong, said):
    with pytest.raises(InputError, match=said):
        MotionControl(**wrong)


def test_kept_parts_can_be_typed_and_sent_as_a_list():
    for given_parts in ("scale, roll", ["roll", "scale"], ("roll,scale",)):
        assert AnimateOptions(keep=given_parts).keep == ("roll", "scale")
    assert AnimateOptions.from_inputs({"keep": "yaw"}, Surface.HTTP).keep == ("yaw",)
    assert Parameters().updated({"keep": ["yaw"]}).updated({"keep": []}).keep == ()
    with pytest.raises(InputError, match="keep is 'rol': it must be some of pitch, yaw"):
        AnimateOptions(keep="rol")


def test_a_session_that_sets_motion_strength_sets_both():
    parameters = Parameters().updated({"pose_strength": 0.2, "expression_strength": 1.5})
    assert MotionControl.of(parameters.updated({"seed": 1})).pose == 0.2
    control = MotionControl.of(parameters.updated({"motion_strength": 0.6}))
    assert (control.pose, control.expression) == (0.6, 0.6)
    assert MotionControl.of(parameters.updated({"motion_strength": 0.6, "pose_strength": 0.1})).pose == 0.1


BOX = (0, 0, 10, 10)


def test_the_neutral_frame_has_open_eyes_a_closed_mouth_and_looks_straight_ahead():
    rest = Face(BOX, eyes=0.1)
    faces = {
        0: Face(BOX, mouth=0.3, eyes=0.1),
        1: Face(BOX, eyes=0.02),
        2: Face(BOX, eyes=0.1, yaw=-25),
        3: Face(BOX, eyes=0.1, pitch=20),
        5: rest,
        6: rest,
    }
    assert most_neutral(faces) == 5
    assert most_neutral(dict(reversed(faces.items()))) == 5
    assert most_neutral({}) == 0


@pytest.fixture(scope="module")
def hidden_first(tmp_path_factory):
    """Two frames without a face, then six with one."""
    pictures = [faceless(256, 256)] * 2 + moving_face(6)
    return save_video(tmp_path_factory.mktemp("hidden") / "hidden.mp4", pictures)


def test_a_neutral_frame_that_cannot_be_is_refused(small_model, portrait, hidden_first, tmp_path):
    for frame, kind, said in ((8, InputError, "from 0 to 7, as 8 frames are used"), (1, NoFaceError, "shows no face")):
        options = AnimateOptions(motion="relative", neutral_frame=frame)
        with pytest.raises(kind, match=said):
            list(animate(small_model, portrait, hidden_first, tmp_path / "out.mp4", options))
    with pytest.raises(InputError, match="unless motion is relative"):
        AnimateOptions(neutral_frame=1)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_relative_motion_from_file_to_file(small_model_folder, portrait, hidden_first, tmp_path, caplog):
    given = ["--ref_image", portrait, "--driving_video", hidden_first, "--model", small_model_folder]
    given += ["--motion", "relative", "--keep", "translation,scale", "--smooth", 0.5, "--pose_strength", 0.8]
    with caplog.at_level("INFO"):
        assert cli.main(["animate", *map(str, given), "-o", str(tmp_path / "out.mp4")]) == 0
    assert "relative motion is measured from frame 2" in caplog.text
