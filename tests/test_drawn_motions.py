"""The motions that come with the repository: each shows what its name says, begins and ends at rest, and drives."""

import numpy as np
import pytest

from personalive.animate.job import animate
from personalive.animate.motion_file import read_motion
from personalive.assets import DEMO_MOTIONS, DEMO_PORTRAIT
from personalive.errors import InputError
from personalive.media.faces import FaceTracker
from personalive.media.video_reader import probe, read_frames
from personalive.pipeline import PersonaLive
from personalive.settings import AnimateOptions
from personalive.training.drawn_motions import MOTIONS, keep, track

NAMES = ("nod", "talk", "blink", "laugh", "look_around")


@pytest.mark.parametrize("name", NAMES)
def test_each_is_read_as_it_was_drawn(name):
    file, drawn = read_motion(DEMO_MOTIONS / f"{name}.motion"), track(name)
    assert file.rate == 25 and len(file.recorded) == drawn.yaw.shape[1] and all(file.recorded.usable)
    read = file.recorded.motion.pose.angles
    for column, part in enumerate(("pitch", "yaw", "roll")):
        given = getattr(drawn, part)[0]
        assert float((read[:, column] - given).abs().mean()) < 3, part
    for values in vars(drawn).values():
        assert abs(float(values[0, 0] - values[0, -1])) < 0.1, "it can be looped"
    assert file.model == "demo" and set(MOTIONS) == set(NAMES)
    assert (DEMO_MOTIONS / f"{name}.motion").stat().st_size < 300_000


def test_they_do_not_fit_other_models(small_model, portrait, tmp_path):
    with pytest.raises(
        InputError, match="motion encoder of the model 'demo', which is not that of this model, 'small'"
    ):
        list(animate(small_model, portrait, DEMO_MOTIONS / "nod.motion", tmp_path / "out.mp4"))


@pytest.mark.slow
def test_the_demo_portrait_blinks_and_the_command_makes_the_same_again(tmp_path):
    model = PersonaLive.from_pretrained("demo", device="cpu")
    list(animate(model, DEMO_PORTRAIT, DEMO_MOTIONS / "blink.motion", tmp_path / "out.mp4", AnimateOptions()))
    with FaceTracker() as tracker:
        eyes = np.array([tracker.detect(frame)[0].eyes for frame in read_frames(probe(tmp_path / "out.mp4"))])
    closed = track("blink").blink[0].numpy() > 0.9
    assert eyes[closed].mean() < 0.7 * np.median(eyes[track("blink").blink[0].numpy() == 0])
    keep(model, tmp_path / "out.mp4", tmp_path / "again.motion")
    assert len(read_motion(tmp_path / "again.motion").recorded) == 50
