"""Motion is held while the face is away, eases to neutral after a while, and eases back in equal steps."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from personalive.engine.cues import PLAIN, Presence


def run(presence, flags):
    """Where a motion that is 1 in every frame with a face is led, from the portrait's 0."""
    motion, path = 0.0, []
    for usable in flags:
        cue = presence.cue(usable)
        motion += (1.0 - motion) * cue.weight
        motion -= motion * cue.neutral
        path.append(motion)
    return path


def test_frames_with_a_face_are_taken_as_they_are():
    presence = Presence(25)
    assert presence.cue(True).anchor
    assert [presence.cue(True) for _ in range(5)] == [PLAIN] * 5


def test_a_short_gap_holds_the_motion():
    assert run(Presence(25), [True] * 3 + [False] * 40) == [1.0] * 43


def test_a_long_gap_eases_to_the_portrait_and_back_in_equal_steps():
    path = run(Presence(20), [True] * 2 + [False] * 90 + [True] * 10)
    assert path[2 + 40] < 1 and path[91] < 1e-9
    down = [a - b for a, b in pairwise(path[41:72])]
    assert max(down) - min(down) < 1e-9
    up = [b - a for a, b in pairwise(path[91:98])]
    assert max(up) - min(up) < 1e-9 and abs(path[97] - 1) < 1e-9


def test_before_the_first_face_the_portrait_rests():
    assert run(Presence(25), [False] * 4) == [0.0] * 4


def test_a_cut_anchors_and_eases():
    presence = Presence(25)
    presence.cue(True)
    cue = presence.cue(True, cut=True)
    assert cue.anchor and cue.weight < 1


@given(st.lists(st.booleans(), max_size=200), st.floats(1, 120))
def test_weights_are_shares(flags, rate):
    presence = Presence(rate)
    cues = [presence.cue(flag) for flag in flags]
    assert all(0 <= cue.weight <= 1 and 0 <= cue.neutral <= 1 for cue in cues)
    assert sum(cue.anchor for cue in cues) == (1 if any(flags) else 0)
