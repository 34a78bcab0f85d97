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
from personalive.media.faces import FaceTracker
from personalive.media.images import read_image
from personalive.media.video_reader import probe, read_frames
from personalive.settings import AnimateOptions
from personalive.testing.pictures import save_image
from personalive.training import demo_assets
from personalive.training.avatars import neutral, render, sample_identities, sample_tracks
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


POSE = "yaw", "pitch", "roll"
EXPRESSION = "mouth", "blink"
FRAMES = 32


@pytest.fixture(scope="module")
def driver():
    """Every other frame of the demo's driver, and how it moves."""
    track = sample_tracks(1, 2 * FRAMES, torch.Generator().manual_seed(demo_assets.MOTION_SEED))[:, ::2]
    images = list(read_frames(probe(DEMO_DRIVER)))[: 2 * FRAMES : 2]
    with FaceTracker() as tracker:
        return images, [tracker.follow(image) for image in images], track


def spreads(reader, frames):
    """Standard deviations of what mediapipe reads."""
    readings = [reader.read(frame) for frame in frames]
    seen = [reading for reading in readings if reading is not None]
    assert len(seen) > 0.9 * len(readings)
    return {name: np.std([getattr(reading, name) for reading in seen]) for name in (*POSE, *EXPRESSION)}


def animated(model, portrait, box, driver, **motion):
    images, boxes, _ = driver
    stream = model.stream(seed=7, **motion)
    prepare = stream.preprocessor
    stream.set_reference(prepare.reference(portrait, box))
    return np.concatenate((stream.push(prepare.driving(images, boxes)), stream.flush()))


@pytest.mark.parametrize("index", range(3))
def test_at_strength_0_a_part_of_the_motion_rests_and_the_other_is_as_before(model, reader, driver, index):
    person = sample_identities(3, torch.Generator().manual_seed(HELD_OUT + 5))[index : index + 1]
    portrait = to_pixels(render(person, neutral(1))[0])
    with FaceTracker() as tracker:
        box = tracker.follow(portrait)
    full, no_pose, no_expression = (
        spreads(reader, animated(model, portrait, box, driver, **motion))
        for motion in ({}, {"pose_strength": 0.0}, {"expression_strength": 0.0})
    )
    rest = neutral(1)
    held = ("yaw", "pitch", "roll", "translate_x", "translate_y", "scale")
    resting = {name: getattr(rest, name)[:, None].expand(1, FRAMES) for name in held}
    true = spreads(reader, demo_assets.pictures(person, driver[2].replace(**resting), 256))
    for name in ("yaw", "roll"):
        assert no_pose[name] <= 0.1 * full[name], name
    # The instrument takes an open mouth for a nod: of true frames in which the head rests, too.
    assert no_pose["pitch"] <= true["pitch"] + 0.1 * full["pitch"]
    for name in POSE:
        assert no_expression[name] >= 0.9 * full[name], name
    # The demo model's mouth is not quite the same at every turn of the head.
    for name in EXPRESSION:
        assert no_pose[name] >= 0.8 * full[name], name
        assert no_expression[name] <= 0.3 * full[name], name


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
