"""Faces are found as the published model expects them, followed, and cropped without squashing."""

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from personalive.errors import NoFaceError
from personalive.media.crop import crop_box, cut
from personalive.media.faces import PATIENCE, FaceTracker
from personalive.testing.pictures import faceless, moving_face, photograph


@pytest.fixture(scope="module")
def shared_tracker():
    with FaceTracker() as made:
        yield made


@pytest.fixture
def tracker(shared_tracker):
    shared_tracker.reset()
    return shared_tracker


def scene(*faces, size=(640, 480)):
    """The photographed face at several places: (left, top, side) each."""
    picture = np.full((size[1], size[0], 3), 120, np.uint8)
    face = Image.fromarray(photograph()[20:260, 105:345])
    for left, top, side in faces:
        picture[top : top + side, left : left + side] = np.asarray(face.resize((side, side)))
    return picture


def middle(box):
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def test_box_is_the_square_of_the_published_preparation(tracker):
    from mediapipe.python.solutions.face_mesh import FaceMesh

    picture = photograph()
    with FaceMesh(static_image_mode=True, max_num_faces=1) as mesh:
        points = mesh.process(picture).multi_face_landmarks[0].landmark
    xs, ys = [int(p.x * 512) for p in points], [int(p.y * 512) for p in points]
    side = max(max(xs) - min(xs), max(ys) - min(ys)) * 1.1
    x, y = (min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2
    expected = (int(x - side / 2), int(y - side / 2), int(x + side / 2), int(y + side / 2))
    assert [face.box for face in tracker.detect(picture)] == [expected]


def test_box_at_the_border_stays_inside_the_picture(tracker):
    picture = photograph()[85:300, 190:400]
    (face,) = tracker.detect(np.ascontiguousarray(picture))
    left, top, right, bottom = face.box
    assert (left, top) == (0, 0) and right < 210 and bottom < 215


def test_no_face_in_gradients_and_noise(tracker):
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    assert tracker.detect(faceless()) == []
    assert tracker.detect(noise) == []


def test_largest_face_comes_first(tracker):
    faces = tracker.detect(scene((30, 150, 180), (340, 80, 260)))
    assert len(faces) == 2
    assert faces[0].area > faces[1].area
    assert middle(faces[0].box)[0] > 340


def test_small_face_in_a_large_picture_is_found(tracker):
    picture = np.full((1400, 1400, 3), 120, np.uint8)
    picture[100:612, 200:712] = photograph()
    (face,) = tracker.detect(picture)
    (alone,) = tracker.detect(photograph())
    assert face.box == pytest.approx(np.add(alone.box, (200, 100, 200, 100)), abs=8)


def test_same_face_is_followed_when_another_becomes_larger(tracker):
    tracker.follow(scene((40, 100, 260), (400, 150, 180)))
    for step in range(1, 4):
        box = tracker.follow(scene((40 + 8 * step, 100, 260 - 30 * step), (370, 120, 190 + 20 * step)))
        assert box is not None and middle(box)[0] < 320


def test_in_a_frame_without_the_face_its_place_is_kept(tracker):
    first = tracker.follow(scene((40, 100, 260)))
    assert tracker.follow(faceless(640, 480)) is None
    assert tracker.box == first


def test_another_person_does_not_stand_in_for_a_hidden_one(tracker):
    both = scene((40, 100, 260), (400, 150, 180))
    tracker.follow(both)
    other = scene((400, 150, 180))
    found = [tracker.follow(other) for _ in range(PATIENCE + 1)]
    assert found[0] is None and found[PATIENCE - 1] is None
    assert found[PATIENCE] is not None, "after a while the one who is there is taken"


def test_trackers_in_several_threads_agree():
    pictures = moving_face(6)
    results = {}

    def work(name):
        with FaceTracker() as own:
            results[name] = [own.follow(picture) for picture in pictures]

    threads = [threading.Thread(target=work, args=(name,)) for name in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results[0] == results[1] == results[2]
    assert len(results[0]) == 6 and None not in results[0]


SIZES = st.tuples(st.integers(64, 3000), st.integers(64, 3000))
SHAPES = st.tuples(st.integers(4, 16), st.integers(4, 16)).map(lambda s: (s[0] * 64, s[1] * 64))


@given(size=SIZES, shape=SHAPES, data=st.data())
def test_crops_lie_inside_and_keep_the_shape(size, shape, data):
    left, top = data.draw(st.integers(0, size[0] - 9)), data.draw(st.integers(0, size[1] - 9))
    side = data.draw(st.integers(8, max(8, min(size) // 2)))
    face = (left, top, min(size[0], left + side), min(size[1], top + side))
    for crop in ("auto", "center"):
        a, b, c, d = crop_box(size, shape, crop, face)
        assert 0 <= a < c <= size[0] and 0 <= b < d <= size[1]
        ratio = shape[0] / shape[1]
        assert abs((c - a) - (d - b) * ratio) <= 0.5 + 0.5 * ratio + 1e-6, "squashed by more than rounding"


@given(size=SIZES, shape=SHAPES, data=st.data())
def test_automatic_crop_holds_a_face_that_fits(size, shape, data):
    side = data.draw(st.integers(8, max(8, min(size) // 8)))
    left, top = data.draw(st.integers(0, size[0] - side)), data.draw(st.integers(0, size[1] - side))
    face = (left, top, left + side, top + side)
    a, b, c, d = crop_box(size, shape, "auto", face)
    if min(c - a, d - b) > side + 2:  # an extreme shape of a small picture has no room
        assert a <= face[0] + 1 and b <= face[1] + 1 and c >= face[2] - 1 and d >= face[3] - 1


def test_stretching_is_there_for_who_asks():
    assert crop_box((640, 480), (256, 256), "none", None) == (0, 0, 640, 480)


def test_automatic_crop_without_a_face_is_refused():
    with pytest.raises(NoFaceError, match="set crop to center"):
        crop_box((640, 480), (256, 256), "auto", None)


def test_cut_takes_the_pixels_of_the_box():
    picture = photograph()
    part = cut(picture, (10, 20, 40, 60))
    assert part.shape == (40, 30, 3)
    assert (part == picture[20:60, 10:40]).all()
