"""The driver's face is found in every frame that shows it, and the crop holds it without jumping."""

import os
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from personalive.animate.track_cache import KEPT, read_track, track_path, write_track
from personalive.media.crop import holds
from personalive.media.face_track import FaceTrack, crop_path, track_face
from personalive.media.faces import FaceTracker
from personalive.media.video_reader import probe, read_frames
from personalive.testing.pictures import faceless, moving_face, photograph
from tests.test_brought import CASES

SHAPE = (256, 256)
RATE = Fraction(25)


@pytest.fixture(scope="module")
def shared_tracker():
    with FaceTracker() as made:
        yield made


@pytest.fixture
def tracker(shared_tracker):
    shared_tracker.reset()
    return shared_tracker


def track(frames, tracker):
    *counts, found = track_face(frames, tracker)
    assert counts == list(range(1, len(found.boxes) + 1))
    return found


def scene(*places, ground=120, size=(640, 300)):
    picture = np.full((size[1], size[0], 3), ground, np.uint8)
    picture[:, ::16] = ground // 2  # not blank where there is no face
    face = Image.fromarray(photograph()[20:260, 105:345])
    for left, side in places:
        picture[20 : 20 + side, left : left + side] = np.asarray(face.resize((side, side)))
    return picture


def test_one_crop_holds_a_face_that_stays(tracker):
    frames = moving_face(12, step=1.0)
    found = track(frames, tracker)
    assert found.seen == 12 and found.cuts == ()
    path = crop_path(found, (256, 256), SHAPE, RATE)
    assert len(set(path)) == 1


def test_a_steady_face_is_searched_in_every_other_frame_only(tracker, monkeypatch):
    searched = []
    monkeypatch.setattr(tracker, "follow", lambda image: searched.append(image) or FaceTracker.follow(tracker, image))
    track([photograph()] * 12, tracker)
    assert 1 <= len(searched) <= 7


def test_the_crop_follows_a_face_that_crosses_the_picture(tracker):
    frames = [scene((10 + 12 * index, 160)) for index in range(30)]
    found = track(frames, tracker)
    assert found.seen == 30
    path = crop_path(found, (640, 300), SHAPE, RATE)
    assert all(holds(part, box) for part, box in zip(path, found.boxes, strict=True))
    steps = np.diff([part[0] for part in path])
    assert steps.max() <= 24 and np.abs(np.diff(steps)).max() <= 12, "no jerks"


def test_a_cut_begins_a_new_path(tracker):
    frames = [scene((20, 160), ground=60)] * 6 + [scene((430, 160), ground=200)] * 6
    found = track(frames, tracker)
    assert found.cuts == (6,) and found.seen == 12
    path = crop_path(found, (640, 300), SHAPE, RATE)
    assert path[5] != path[6] and len(set(path)) == 2


def test_reasons_are_told_apart(tracker):
    leaving = [scene((20 + 60 * index, 160)) for index in range(8)] + [scene()] * 2
    found = track(leaving, tracker)
    assert found.count("left") >= 2 and found.count("none") == 0
    tracker.reset()
    hidden = [scene((200, 160))] * 4 + [scene()] * 3 + [scene((200, 160))] * 3
    assert track(hidden, tracker).count("none") == 3
    tracker.reset()
    instead = [scene((20, 200), (430, 160))] * 4 + [scene((430, 160))] * 3
    found = track(instead, tracker)
    assert found.count("other") == 3 and found.most_faces == 2


def test_a_black_frame_is_no_cut_and_no_face(tracker):
    black = np.zeros((512, 512, 3), np.uint8)
    found = track([photograph()] * 4 + [black] * 3 + [photograph()] * 3, tracker)
    assert found.cuts == () and set(found.absences) == {4, 5, 6}


def test_no_face_at_all(tracker):
    assert track([faceless()] * 6, tracker).seen == 0


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_paths_stay_in_the_picture_and_hold_the_face(data):
    width, height = data.draw(st.integers(300, 1920)), data.draw(st.integers(240, 1080))
    side = data.draw(st.integers(24, min(width, height) // 3))
    count = data.draw(st.integers(2, 60))
    xs = np.cumsum(data.draw(st.lists(st.integers(-30, 30), min_size=count, max_size=count)))
    boxes = []
    for x in xs:
        left = int(np.clip(width // 2 + x, 0, width - side))
        boxes.append((left, height // 4, left + side, height // 4 + side))
    cuts = (count // 2,) if count > 4 else ()
    path = crop_path(FaceTrack(tuple(boxes), {}, cuts, 1), (width, height), SHAPE, RATE)
    assert len(path) == count
    for part, box in zip(path, boxes, strict=True):
        assert 0 <= part[0] < part[2] <= width and 0 <= part[1] < part[3] <= height
        assert holds(part, box)


def test_tracks_are_kept_for_the_same_search_in_the_same_file(tmp_path):
    video = tmp_path / "a.mp4"
    video.write_bytes(b"1234" * 1000)
    folder = tmp_path / "cache"
    path = track_path(folder, video, "25 100")
    assert read_track(path) is None
    found = FaceTrack(((1, 2, 3, 4), None), {1: "left"}, (1,), 2)
    write_track(path, found)
    assert read_track(track_path(folder, video, "25 100")) == found
    assert read_track(track_path(folder, video, "25 101")) is None
    fetched = tmp_path / "fetched later"
    fetched.write_bytes(b"1234" * 1000)
    os.utime(fetched, ns=(1, 1))
    assert read_track(track_path(folder, fetched, "25 100")) == found
    video.write_bytes(b"1234" * 500 + b"1235" + b"1234" * 499)
    assert read_track(track_path(folder, video, "25 100")) is None
    path.write_text("{")
    assert read_track(path) is None
    for index in range(KEPT + 3):
        write_track(folder / f"{index}.json", found)
    assert len(list(folder.iterdir())) == KEPT


@pytest.mark.skipif(not CASES.is_dir(), reason="the files of ../shared/cases are not here")
def test_the_cases_of_drivers(tracker):
    info = probe(CASES / "walk.mp4")
    found = track(read_frames(info), tracker)
    assert found.seen == 40
    assert all(map(holds, crop_path(found, (info.width, info.height), SHAPE, info.rate), found.boxes))
    tracker.reset()
    assert set(track(read_frames(probe(CASES / "flash.mp4")), tracker).absences) == {10, 11, 12, 13, 14}
    tracker.reset()
    two = track(read_frames(probe(CASES / "two.mp4")), tracker)
    sides = {box[0] > 512 for box in two.boxes}
    assert two.most_faces == 2 and len(sides) == 1, "one of them throughout"
