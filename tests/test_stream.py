"""One animation: how many frames come out, that splitting pushes changes nothing, swapping, saving, keyframes."""

import copy
import io
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from personalive.config import (
    ImageEncoderConfig,
    ModelConfig,
    MotionEncoderConfig,
    MotionExtractorConfig,
    PoseGuiderConfig,
    UNetConfig,
    VAEConfig,
)
from personalive.engine.keyframes import MAX_KEYFRAMES, KeyframeDecision
from personalive.engine.networks import PlainNetworks
from personalive.errors import InputError
from personalive.models import NETWORKS, build_network
from personalive.pipeline import PersonaLive
from personalive.testing import weight_rule

TINY = ModelConfig(
    name="tiny",
    size=32,
    unet=UNetConfig(block_channels=(8, 8), heads=1, norm_groups=4, layers_per_block=1, cross_attention_dim=8),
    vae=VAEConfig(block_channels=(8, 8, 8), layers_per_block=1, norm_groups=4),
    image_encoder=ImageEncoderConfig(
        hidden_size=8, intermediate_size=8, layers=1, heads=1, image_size=32, patch_size=16, projection_dim=8
    ),
    motion_encoder=MotionEncoderConfig(image_size=32, channels=64, attention_width=32, tokens=4, hourglass_depth=1),
    motion_extractor=MotionExtractorConfig(image_size=32, depths=(1, 1, 1, 1), channels=(8, 8, 8, 8)),
    pose_guider=PoseGuiderConfig(channels=(8, 8, 8), output_channels=8),
)
"""Pictures of 32 × 32 pixels: hundreds of frames take seconds."""


@pytest.fixture(scope="module")
def model():
    networks = {name: build_network(name, TINY) for name in NETWORKS}
    for name, network in networks.items():
        weight_rule.fill(network, name)
    return PersonaLive.from_modules(TINY, networks, torch.float32)


def picture(name, index=0):
    return weight_rule.frame(name, index, 48, 40)


def whole(image):
    return 0, 0, image.shape[1], image.shape[0]


def begin(model, reference="ref", mesh=True, **options):
    stream = model.stream(**options)
    image = picture(reference)
    stream.set_reference(stream.preprocessor.reference(image, whole(image) if mesh else None))
    return stream


def frames(stream, count, driver="drv", start=0, mesh=True):
    images = [picture(f"{driver}{index // 6}", index) for index in range(start, start + count)]
    return stream.preprocessor.driving(images, [whole(image) for image in images] if mesh else None)


def animate(model, count, splits=(), **options):
    """All frames of an animation whose driver comes in pieces that end at `splits`."""
    stream = begin(model, **options)
    driving = frames(stream, count)
    edges = [0, *sorted(split for split in splits if 0 < split < count), count]
    pieces = [stream.push(driving[a:b]) for a, b in itertools.pairwise(edges) if a < b]
    return np.concatenate([*pieces, stream.flush()])


def quickly(values, *quick):
    """Parameters of which all but the quick ones are for the slow tier."""
    return [value if value in quick else pytest.param(value, marks=pytest.mark.slow) for value in values]


@settings(max_examples=2)
@given(st.integers(1, 80), st.lists(st.integers(1, 79), max_size=6))
@pytest.mark.slow
def test_any_split_of_any_length_gives_the_same_frames_as_one_push(model, count, splits):
    once = animate(model, count)
    assert once.shape == (count, 32, 32, 3) and once.dtype == np.uint8
    assert np.array_equal(animate(model, count, splits), once)


@pytest.mark.parametrize("count", quickly(range(1, 18), 1, 4, 13, 17))
def test_as_many_frames_come_out_as_went_in(model, count):
    assert len(animate(model, count)) == count
    assert len(animate(model, count, emit_lead_in=True)) == count + 12


def test_the_end_comes_call_by_call_and_may_be_broken_off(model):
    expected, records = animate(model, 10), []
    stream = begin(model, observer=records.append)
    driving = frames(stream, 10)
    early = stream.push(driving)
    ends = stream.drain()
    first = next(ends)
    assert len(first) == 4 and len(records) < 5  # no more calls have been made than this chunk needs
    ends.close()
    assert np.array_equal(np.concatenate([early, *stream.drain()]), expected)  # as if it had not been begun
    assert np.array_equal(np.concatenate([stream.push(driving), *stream.drain()]), expected)
    assert np.array_equal(np.concatenate([early, first]), expected[:4])


def test_an_end_that_is_dropped_late_does_not_disturb_what_has_begun_since(model):
    expected = begin(model, emit_lead_in=True)
    expected = [expected.push(frames(expected, 4, start=start)) for start in (0, 4)]
    stream = begin(model, emit_lead_in=True)
    stream.push(frames(stream, 10))
    ends = stream.drain()
    next(ends)
    stream.reset()
    pushed = [stream.push(frames(stream, 4))]
    ends.close()
    pushed.append(stream.push(frames(stream, 4, start=4)))
    assert np.array_equal(pushed, expected)


def test_the_beginning_does_not_depend_on_how_long_the_driver_goes_on(model):
    long = animate(model, 40)
    assert np.array_equal(animate(model, 28)[:16], long[:16])
    assert not np.array_equal(long[0], long[20])


@pytest.mark.parametrize("steps", quickly([4, 8, 12, 16], 8))
def test_every_number_of_steps_gives_its_own_picture(model, steps):
    out = animate(model, 6, steps=steps)
    assert len(out) == 6
    if steps > 4:
        assert not np.array_equal(out, animate(model, 6))


def test_seeds_repeat_and_differ(model):
    assert np.array_equal(animate(model, 8, seed=1), animate(model, 8, seed=1))
    assert not np.array_equal(animate(model, 8, seed=1), animate(model, 8, seed=2))


def test_reset_begins_the_same_animation_again(model):
    stream = begin(model)
    driving = frames(stream, 24)
    first = stream.push(driving)
    stream.push(frames(stream, 6, start=60))
    stream.reset()
    assert np.array_equal(stream.push(driving), first)


def test_inputs_are_not_changed(model):
    stream = begin(model)
    driving = frames(stream, 9)
    copies = driving.pose_images.clone(), driving.faces.clone()
    stream.push(driving)
    stream.flush()
    assert torch.equal(driving.pose_images, copies[0]) and torch.equal(driving.faces, copies[1])


@pytest.mark.parametrize("mesh", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.slow
def test_streams_that_advance_together_equal_those_that_are_alone(model, mesh):
    names = ["a", "b", "c"]

    def streams():
        return [begin(model, name, mesh, seed=seed, keyframe_threshold=0) for seed, name in enumerate(names)]

    together, alone = streams(), streams()
    alone[2].push(frames(alone[2], 8, "late", mesh=mesh))  # one is ahead of the others
    together[2].push(frames(together[2], 8, "late", mesh=mesh))
    driving = [frames(stream, 64, name, mesh=mesh) for stream, name in zip(together, names, strict=True)]
    batched = model.advance(together, driving)
    for stream, part, its_frames in zip(alone, batched, driving, strict=True):
        single = stream.push(its_frames)
        assert part.shape == single.shape
        assert np.abs(part.astype(int) - single).max() <= 1  # batches of other sizes round differently


class Failing:
    """Networks of which one function fails once, at its nth call from now on."""

    def __init__(self, networks, function, calls):
        self._networks, self._function, self._calls = networks, function, calls

    def __getattr__(self, name):
        found = getattr(self._networks, name)
        if name != self._function:
            return found

        def call(*arguments):
            self._calls -= 1
            if self._calls == 0:
                raise torch.OutOfMemoryError("not enough memory")
            return found(*arguments)

        return call


class BrokenCopy:
    """Pixels whose copy to the host fails, as errors of a GPU come late."""

    def result(self):
        raise torch.OutOfMemoryError("not enough memory")


EVERY_STEP = ("denoise", "decode", "upload", "guide", "encode_reference", "download")
CALLED = [
    *((True, each) for each in ("encode_driver", *EVERY_STEP)),
    *((False, each) for each in ("extract_pose", "encode_motion", *EVERY_STEP)),
]
"""Networks that a step calls with boxes by the mesh and by keypoints, which have to be extracted first."""


@pytest.mark.parametrize(
    ("mesh", "function"),
    [pytest.param(*each, marks=() if each == (True, "denoise") else pytest.mark.slow) for each in CALLED],
)
def test_a_push_that_fails_changes_nothing_and_may_be_tried_again(model, function, mesh):
    """In its second step, and for all streams that advance together."""

    def streams():
        made = [begin(model, name, mesh, seed=seed, keyframe_threshold=0) for seed, name in enumerate("ab")]
        model.advance(made, [frames(stream, 43, mesh=mesh) for stream in made])
        return made

    undisturbed, disturbed = streams(), streams()
    before = [copy.deepcopy(stream.state_dict()) for stream in disturbed]
    driving = [frames(stream, 9, start=43, mesh=mesh) for stream in disturbed]
    calls = {"encode_reference": 1, "upload": 5, "denoise": 4, "decode": 4, "download": 4}.get(function, 2)
    networks = Failing(model.networks, function, calls)
    for stream in disturbed:
        stream.networks = networks
    with pytest.raises(torch.OutOfMemoryError):
        model.advance(disturbed, driving)
    assert networks._calls == 0
    assert all(same(stream.state_dict(), saved) for stream, saved in zip(disturbed, before, strict=True))
    for expected, actual in zip(model.advance(undisturbed, driving), model.advance(disturbed, driving), strict=True):
        assert len(actual) == 12 and np.array_equal(actual, expected)


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def test_an_error_that_comes_with_the_pixels_changes_nothing_either(model, monkeypatch):
    stream = begin(model, emit_lead_in=True)
    stream.push(frames(stream, 6))
    before = copy.deepcopy(stream.state_dict())
    with monkeypatch.context() as patch:
        patch.setattr(PlainNetworks, "download", lambda self, pixels: BrokenCopy())
        with pytest.raises(torch.OutOfMemoryError):
            stream.push(frames(stream, 4, start=6))
    assert same(stream.state_dict(), before)


@pytest.mark.parametrize(
    ("function", "action"),
    [
        ("encode_image", "set"),
        ("encode_motion", "set"),
        ("encode_reference", "swap"),
        ("upload", "reset"),
        ("decode", "flush"),
        ("encode_reference", "load"),
    ],
)
def test_whatever_else_fails_changes_nothing(model, function, action):
    stream, image = begin(model, keyframe_threshold=0), picture("b")
    stream.push(frames(stream, 50))
    saved = copy.deepcopy(stream.state_dict())
    reference = stream.preprocessor.reference(image, whole(image))
    actions = {
        "set": lambda: stream.set_reference(reference),
        "swap": lambda: stream.swap_reference(reference),
        "reset": stream.reset,
        "flush": stream.flush,
        "load": lambda: stream.load_state_dict(begin(model, "c", seed=9).state_dict()),
    }
    stream.networks = Failing(model.networks, function, 3 if action == "flush" else 1)
    with pytest.raises(torch.OutOfMemoryError):
        actions[action]()
    assert same(stream.state_dict(), saved)


def test_an_observer_sees_only_what_has_been_finished(model):
    records = []
    stream = begin(model, observer=records.append)
    stream.networks = Failing(model.networks, "decode", 3)
    with pytest.raises(torch.OutOfMemoryError):
        stream.push(frames(stream, 16))
    assert records == []
    stream.push(frames(stream, 16))
    assert [record.step for record in records] == [0, 1, 2, 3]


def test_streams_that_do_not_go_together_are_refused(model):
    stream, other = begin(model), begin(model, steps=8)
    with pytest.raises(InputError, match="advance together"):
        model.advance([stream, other], [frames(stream, 4)] * 2)
    with pytest.raises(InputError, match="advance together"):
        model.advance([stream, stream], [frames(stream, 4)] * 2)


def test_a_state_saved_in_the_middle_continues_identically(model):
    stream = begin(model, keyframe_threshold=0.5)
    stream.push(frames(stream, 46))
    file = io.BytesIO()
    torch.save(stream.state_dict(), file)
    file.seek(0)
    resumed = model.stream()
    resumed.load_state_dict(torch.load(file, weights_only=True))
    rest = frames(stream, 31, start=46)
    expected = np.concatenate([stream.push(rest), stream.flush()])
    assert np.array_equal(np.concatenate([resumed.push(rest), resumed.flush()]), expected)


def test_a_state_of_another_kind_is_refused_with_the_values(model):
    state = begin(model).state_dict()
    with pytest.raises(InputError, match=r"\[32, 32\] and 4 steps, this stream \[48, 32\]"):
        model.stream(width=48).load_state_dict(state)
    with pytest.raises(InputError, match="steps"):
        model.stream(steps=8).load_state_dict(state)


def test_keyframes_stop_at_three_and_come_from_the_tenth_call_on(model):
    made, records = [], []
    stream = begin(model, keyframe_threshold=0, observer=records.append)
    for start in range(0, 120, 4):
        stream.push(frames(stream, 4, start=start))
        made.append(stream.keyframe_count)
    assert made[:9] == [0] * 9 and made[9] == 1 and made[-1] == MAX_KEYFRAMES
    assert len(records[-1].bank) == 1 + MAX_KEYFRAMES


def test_a_high_threshold_makes_no_keyframe(model):
    stream = begin(model, keyframe_threshold=1000)
    stream.push(frames(stream, 80))
    assert stream.keyframe_count == 0


def test_a_keyframe_policy_may_refuse(model):
    stream = begin(model, keyframe_threshold=0, keyframes=lambda test: KeyframeDecision(None, False))
    stream.push(frames(stream, 60))
    assert stream.keyframe_count == 0


def test_a_swapped_reference_takes_over_within_four_calls(model):
    stream, other = begin(model, "a", keyframe_threshold=0), begin(model, "b", keyframe_threshold=1000)
    driving, later = frames(stream, 60), frames(stream, 40, start=60)
    stream.push(driving)
    assert stream.keyframe_count == MAX_KEYFRAMES
    image = picture("b")
    stream.keyframe_threshold = 1000
    stream.swap_reference(stream.preprocessor.reference(image, whole(image)))
    assert stream.keyframe_count == 0
    swapped = stream.push(later)
    other.push(driving)
    expected = other.push(later)
    # The noise is the same; once every frame under way began with the new portrait, so is the picture.
    difference = np.abs(swapped.astype(int) - expected).reshape(10, -1).max(axis=1)
    assert difference[0] > difference[5:].max()


def test_motion_strength_zero_keeps_the_reference_still(model):
    records = []
    stream = begin(model, motion_strength=0.0, observer=records.append)
    stream.push(frames(stream, 16))
    still = torch.cat([record.keypoints for record in records])
    torch.testing.assert_close(still, still[:1].expand_as(still))
    assert all(torch.equal(record.motion, record.motion[:1].expand_as(record.motion)) for record in records)


def test_reanchoring_measures_movement_from_the_next_frame(model):
    records = []
    stream = begin(model, observer=records.append)
    stream.push(frames(stream, 8))
    stream.reanchor()
    stream.push(frames(stream, 4, "other"))
    fresh = begin(model, observer=records.append)
    fresh.push(frames(fresh, 4, "other"))
    torch.testing.assert_close(records[-2].keypoints[:, :, 2], records[-1].keypoints[-4:, :, 2])
    torch.testing.assert_close(records[-2].keypoints, records[-1].keypoints[-4:])


def test_faces_that_keypoints_lose_are_cut_by_the_last_good_box(model, monkeypatch):
    from personalive.engine import step

    stream = begin(model, mesh=False)
    boxes = [[(4, 4, 28, 28)] * 4, [(0, 0, 0, 0)] * 4]
    monkeypatch.setattr(step, "bounded", lambda found, width, height: boxes[0])
    stream.push(frames(stream, 4, mesh=False))
    boxes.reverse()
    stream.push(frames(stream, 4, mesh=False))
    assert stream.require_state().last_box == (4, 4, 28, 28)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"steps": 5}, "4, 8, 12, 16"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**32}, "seed"),
        ({"keyframe_threshold": 1001}, "keyframe_threshold"),
        ({"seed": 1.5}, "seed"),
        ({"width": 30}, "multiple of 4"),
        ({"height": -32}, "height is -32"),
        ({"keyframe_threshold": float("nan")}, "keyframe_threshold is nan"),
        ({"keyframe_threshold": -1}, "keyframe_threshold"),
        ({"motion_strength": float("inf")}, "motion_strength"),
        ({"motion_strength": 3}, "from 0 to 2"),
    ],
)
def test_options_that_are_not_allowed_are_named(model, options, said):
    with pytest.raises(InputError, match=said):
        model.stream(**options)


def test_use_in_the_wrong_order_says_what_to_do(model):
    stream = model.stream()
    for action in (lambda: stream.push(frames(stream, 4)), stream.flush, stream.reset, stream.reanchor):
        with pytest.raises(InputError, match="set_reference"):
            action()


def test_pictures_and_boxes_that_do_not_fit_are_refused(model):
    prepare = model.stream().preprocessor
    image = picture("a")
    for wrong in (image[..., 0], image.astype(np.float32), image[:0]):
        with pytest.raises(InputError, match="uint8"):
            prepare.reference(wrong, None)
    with pytest.raises(InputError, match="within a picture of 40×48"):
        prepare.driving([image], [(0, 0, 41, 48)])
    stream = begin(model)
    with pytest.raises(InputError, match="cannot be mixed"):
        stream.push(frames(stream, 1))
        stream.push(frames(stream, 1, mesh=False))
    with pytest.raises(InputError, match="prepared for"):
        stream.set_reference(model.stream(width=48).preprocessor.reference(image, None))
