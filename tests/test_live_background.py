"""Another background behind the portrait, found by the real segmentation in a photograph's animation."""

import numpy as np
import pytest

from personalive.live.core.background import BackgroundPainter
from personalive.live.core.faces import MeshFaces
from personalive.testing.pictures import photograph

GREEN = "#00b140"
KEY = np.array([0x00, 0xB1, 0x40])


@pytest.fixture(scope="module")
def frames():
    """200 frames in which a photographed head sways."""
    image = np.ascontiguousarray(photograph()[:, 40:440][::2, ::2])
    sways = (6 * np.sin(np.arange(200) / 12)).astype(int)
    rng = np.random.default_rng(0)
    return np.stack([np.roll(image, sway, axis=1) for sway in sways]) + rng.integers(0, 3, (200, 1, 1, 1), np.uint8)


@pytest.fixture(scope="module")
def painted(frames):
    painter = BackgroundPainter()
    images = np.concatenate([painter.paint(part, "colour", GREEN) for part in np.array_split(frames, 50)])
    assert painter.seconds > 0
    painter.close()
    return images


def test_the_face_stays_and_the_corners_get_the_colour(frames, painted):
    left, top, right, bottom = MeshFaces().look(frames[0])
    x, y, side = (left + right) // 2, (top + bottom) // 2, (right - left) // 5
    face = np.s_[:, y - side : y + side, x - side : x + side]
    assert np.abs(painted[face].astype(int) - frames[face]).mean() < 3
    assert np.abs(painted[:, 2:8, 2:8].astype(int) - KEY).max() < 25


def test_the_edge_flickers_no_more_than_twice_what_the_face_does(frames, painted):
    def flicker(images, mask):
        """Mean second difference over time, which movement does not have, of the pixels that a mask chooses."""
        values = images.astype(np.float32).mean(axis=-1)
        return np.abs(values[2:] - 2 * values[1:-1] + values[:-2])[mask[1:-1]].mean()

    changed = np.abs(painted.astype(int) - frames).mean(axis=-1)
    share = changed / np.maximum(np.abs(KEY - frames.astype(int)).mean(axis=-1), 1)
    edge = (share > 0.1) & (share < 0.9)
    face = share < 0.02
    assert edge.any() and face.any()
    assert flicker(painted, edge) <= 2 * max(flicker(painted, face), flicker(frames, edge))


def test_blur_leaves_the_face_and_nothing_is_done_unless_it_is_asked_for(frames):
    painter = BackgroundPainter()
    assert (painter.paint(frames[:4], "as_is", GREEN) == frames[:4]).all()
    assert painter.seconds == 0
    blurred = painter.paint(frames[:4], "blur", GREEN)
    painter.close()
    assert not (blurred == frames[:4]).all()
