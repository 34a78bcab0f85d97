"""Another background behind the portrait, found by the real segmentation in a photograph and in a driver's video."""

import itertools
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from personalive.assets import DEMO_DRIVER
from personalive.live.core.background import BackgroundPainter
from personalive.live.core.faces import MeshFaces
from personalive.live.core.pictures import encode, filled, opaque, stacked
from personalive.media.video_reader import probe, read_frames
from personalive.testing.pictures import photograph

GREEN = "#00b140"
KEY = np.array([0x00, 0xB1, 0x40])


def swaying():
    """200 frames in which a photographed head sways."""
    image = np.ascontiguousarray(photograph()[:, 40:440][::2, ::2])
    noise = np.random.default_rng(0).integers(-2, 3, (200, 1, 1, 1))
    sways = (6 * np.sin(np.arange(200) / 12)).astype(int)
    return (np.stack([np.roll(image, sway, axis=1) for sway in sways]) + noise).clip(0, 255).astype(np.uint8)


def talking():
    """200 frames of the demo's driver, who turns his head and talks, there and back."""
    frames = [filled(frame, 256, 256) for frame in itertools.islice(read_frames(probe(DEMO_DRIVER)), 100)]
    return np.stack([*frames, *reversed(frames)])


@pytest.fixture(
    scope="module", params=[swaying, pytest.param(talking, marks=pytest.mark.slow)], ids=["swaying", "talking"]
)
def frames(request):
    return request.param()


@pytest.fixture(scope="module")
def cut_out(frames):
    """The frames with opacity."""
    painter = BackgroundPainter()
    images = np.stack([painter.paint(frame, "transparent", GREEN) for frame in frames])
    assert painter.seconds > 0
    painter.close()
    return images


@pytest.fixture(scope="module")
def painted(frames):
    painter = BackgroundPainter()
    images = np.stack([painter.paint(frame, "colour", GREEN) for frame in frames])
    painter.close()
    return images


def test_face_and_hair_stay_and_the_corners_get_the_colour(frames, painted):
    left, top, right, bottom = MeshFaces().look(frames[0])
    x, y, side = (left + right) // 2, (top + bottom) // 2, (right - left) // 5
    face = np.s_[:40, y - side : y + side, x - side : x + side]
    hair = np.s_[:40, top - side // 2 : top, x - side : x + side]  # above the forehead, where the box ends
    for part in (face, hair):
        assert np.abs(painted[part].astype(int) - frames[part]).mean() < 4
    assert np.abs(painted[:, 2:8, 2:8].astype(int) - KEY).max() < 25


def test_the_edge_flickers_no_more_than_twice_what_the_face_does(cut_out, painted):
    def flicker(mask):
        """Mean second difference over time, which steady movement does not have, of the pixels that a mask chooses."""
        values = painted.astype(np.float32).mean(axis=-1)
        return np.abs(values[2:] - 2 * values[1:-1] + values[:-2])[mask[1:-1]].mean()

    opacity = cut_out[..., 3] / 255
    edge, face = (opacity > 0.1) & (opacity < 0.9), opacity > 0.98
    assert edge.any() and face.any()
    assert flicker(edge) <= 2 * flicker(face)


def test_a_transparent_background_leaves_the_pictures_and_says_what_is_opaque(frames, cut_out):
    assert (cut_out[..., :3] == frames).all()
    assert cut_out[:, 2:8, 2:8, 3].max() < 25
    one = cut_out[0]
    assert (opaque(one)[one[..., 3] == 0] == 0).all()
    height = len(one)
    assert (stacked(one)[:height] == one[..., :3]).all() and (stacked(one)[height:] == one[..., 3:]).all()
    with Image.open(BytesIO(encode(one, "WEBP"))) as read:
        assert np.abs(np.asarray(read)[..., 3].astype(int) - one[..., 3]).max() <= 2
    with Image.open(BytesIO(encode(one))) as read:
        assert read.mode == "RGB"


def test_blur_and_a_picture_leave_the_face_and_nothing_is_done_unless_it_is_asked_for(frames):
    painter = BackgroundPainter()
    frame = frames[0]
    assert painter.paint(frame, "as_is", GREEN) is frame
    assert painter.seconds == 0
    blurred = painter.paint(frame, "blur", GREEN)
    assert blurred.shape == frame.shape and not (blurred == frame).all()
    sky = filled(np.full((300, 900, 3), (30, 60, 200), np.uint8), frame.shape[1], frame.shape[0])
    behind = painter.paint(frame, "picture", GREEN, sky)
    assert np.abs(behind[2:8, 2:8].astype(int) - (30, 60, 200)).max() < 25
    nothing_yet = painter.paint(frame, "picture", GREEN)
    painter.close()
    assert np.abs(nothing_yet[2:8, 2:8].astype(int) - KEY).max() < 25
