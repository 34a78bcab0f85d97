"""Movement is measured anew where the driver settles."""

import numpy as np

from personalive.live.core.recentring import STILL_SECONDS, Recentring

PLACE, ASIDE = (0.4, 0.4, 0.6, 0.6), (0.55, 0.4, 0.75, 0.6)


def settles(*rests):
    """When a driver who rests in places, for seconds each, is taken to have settled; 25 frames a second."""
    recentring, at, found = Recentring(), 0.0, []
    for box, seconds in rests:
        for _ in range(int(seconds * 25)):
            if recentring.settled(box, at):
                found.append(round(at, 2))
            at += 0.04
    return found


def test_a_driver_who_moves_and_stays_is_measured_from_there_once():
    assert settles((PLACE, 20)) == []
    (when,) = settles((PLACE, 5), (ASIDE, 20))
    assert 5 + STILL_SECONDS <= when < 5 + STILL_SECONDS + 0.1


def test_one_who_comes_back_in_time_or_keeps_moving_is_not():
    assert settles((PLACE, 5), (ASIDE, STILL_SECONDS - 0.5), (PLACE, 20)) == []
    swings = [(tuple(np.array(PLACE) + 0.06 * np.sin(step)), 0.5) for step in range(60)]
    assert settles(*swings) == []


def test_coming_closer_counts_as_moving():
    assert len(settles((PLACE, 5), ((0.3, 0.3, 0.7, 0.7), 5))) == 1
