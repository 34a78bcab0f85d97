"""Motion is held while the face is away, eases to neutral after a while, and eases back in equal steps."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from personalive.engine.cues import PLAIN, Presence


def run(rate, flags):
    """Where a motion that is 1 in every frame with a face is led, from the portrait's 0, at frames a second."""
    presence, motion, path = Presence(), 0.0, []
    for index, usable in enumerate(flags):
        cue = presence.cue(usable, index / rate)
        motion += (1.0 - motion) * cue.weight
        motion -= motion * cue.neutral
        path.append(motion)
    return path


def test_frames_with_a_face_are_taken_as_they_are():
    presence = Presence()
    assert presence.cue(True, 0.0).anchor
    assert [presence.cue(True, 0.04 * index) for index in range(1, 6)] == [PLAIN] * 5


def test_a_short_gap_holds_the_motion():
    assert run(25, [True] * 3 + [False] * 40) == [1.0] * 43


def test_a_long_gap_eases_to_the_portrait_and_back_in_equal_steps():
    path = run(20, [True] * 2 + [False] * 90 + [True] * 10)
    assert path[2 + 40] < 1 and path[91] < 1e-9
    down = [a - b for a, b in pairwise(path[41:72])]
    assert max(down) - min(down) < 1e-9
    up = [b - a for a, b in pairwise(path[91:98])]
    assert max(up) - min(up) < 1e-9 and abs(path[97] - 1) < 1e-9


def test_before_the_first_face_the_portrait_rests():
    assert run(25, [False] * 4) == [0.0] * 4


def test_a_cut_anchors_and_eases():
    presence = Presence()
    presence.cue(True, 0.0)
    cue = presence.cue(True, 0.04, cut=True)
    assert cue.anchor and cue.weight < 1


def test_a_cut_while_the_face_is_away_counts_when_it_is_back():
    presence = Presence()
    flags = [(True, False), (False, True), (False, False), (True, False), (True, False)]
    cues = [presence.cue(usable, 0.04 * index, cut=cut) for index, (usable, cut) in enumerate(flags)]
    assert [cue.anchor for cue in cues] == [True, False, False, True, False]


def test_a_camera_that_stalls_makes_no_difference_to_where_the_motion_is():
    """The same times, seen at fewer of them."""
    flags = [True] * 10 + [False] * 100 + [True] * 20
    path, presence, motion = run(25, flags), Presence(), 0.0
    for index in [0, 5, 9, 40, 59, 70, 71, 90, 109, 110, 113, 119, 129]:
        cue = presence.cue(flags[index], index / 25)
        motion += (1.0 - motion) * cue.weight
        motion -= motion * cue.neutral
        if flags[index] or index > 59:
            assert abs(motion - path[index]) < 0.04, index


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.floats(1e-3, 10)), max_size=200))
def test_weights_are_shares(frames):
    presence, at, cues = Presence(), 0.0, []
    for usable, cut, gap in frames:
        at += gap
        cues.append(presence.cue(usable, at, cut=cut))
    assert all(0 <= cue.weight <= 1 and 0 <= cue.neutral <= 1 for cue in cues)
    usable = [cue for cue, (seen, _, _) in zip(cues, frames, strict=True) if seen]
    assert not usable or usable[0].anchor
    assert all(cue.weight == 0 for cue, (seen, _, _) in zip(cues, frames, strict=True) if not seen)
