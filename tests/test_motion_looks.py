"""What the choices of motion look like: mediapipe reads the demo model's pictures, and those that are true."""

import numpy as np
import pytest
import torch
from PIL import Image

from personalive import PersonaLive
from personalive.animate.job import animate
from personalive.animate.preview import CAPTION, chosen_frames
from personalive.assets import DEMO_DRIVER, DEMO_PORTRAIT
from personalive.media.encoding import FRAMES_NAME
from personalive.media.images import read_image
from personalive.media.video_reader import probe, read_frames
from personalive.settings import AnimateOptions
from personalive.testing.pictures import save_image
from personalive.training.avatars import neutral, render, sample_identities
from personalive.training.demo_assets import pictures, write_video
from personalive.training.evaluate import HELD_OUT
from personalive.training.measure import FaceReader
from personalive.training.shots import to_pixels
from scripts.gallery import laugh

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def model():
    return PersonaLive.from_pretrained("demo", device="cpu")


@pytest.fixture(scope="module")
def reader():
    return FaceReader()


def test_relative_motion_ends_in_the_closed_mouth_of_a_driver_who_begins_mid_laugh(model, reader, tmp_path):
    people = sample_identities(2, torch.Generator().manual_seed(HELD_OUT + 5))
    portrait = save_image(tmp_path / "portrait.png", to_pixels(render(people[:1], neutral(1))[0]))
    track = laugh(24)
    write_video(tmp_path / "laugh.mp4", pictures(people[1:], track, 256))
    ends = {}
    for name, more in (("found", {}), ("first", {"neutral_frame": 0})):
        output = tmp_path / f"{name}.mp4"
        options = AnimateOptions(motion="relative", **more)
        list(animate(model, portrait, tmp_path / "laugh.mp4", output, options))
        mouths = [reader.read(frame).mouth for frame in read_frames(probe(output))]
        ends[name] = np.mean(mouths[:3]), np.mean(mouths[-6:])
    closed = reader.read(read_image(portrait)).mouth
    opened, shut = ends["found"]
    assert shut - closed < 0.15 * (opened - closed), "closed where the driver's is"
    assert ends["first"][0] - closed < 0.3 * (opened - closed), "measured from the laugh, it would not be seen"


def test_a_preview_shows_the_poses_and_mouths_of_the_result(model, reader, tmp_path):
    frames = 25
    options = AnimateOptions(preview=5, max_frames=frames, audio=False)
    output = tmp_path / FRAMES_NAME
    list(animate(model, DEMO_PORTRAIT, DEMO_DRIVER, output, options))
    result = [read_image(tmp_path / f"{index + 1:05d}.png") for index in chosen_frames(frames, 5)]
    with Image.open(tmp_path / "preview.png") as sheet:
        side = model.config.size
        corners = [(index % 3 * side, index // 3 * (side + CAPTION)) for index in range(5)]
        tiles = [np.asarray(sheet.crop((x, y, x + side, y + side))) for x, y in corners]
    for shown, made in zip(map(reader.read, tiles), map(reader.read, result), strict=True):
        assert abs(shown.yaw - made.yaw) < 4 and abs(shown.roll - made.roll) < 3
        assert abs(shown.mouth - made.mouth) < 0.01
