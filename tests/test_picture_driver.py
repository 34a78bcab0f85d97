"""A picture as driver: its pose and expression, held, or eased in."""

import numpy as np
import pytest
from PIL import Image

from personalive.animate.job import animate
from personalive.animate.motion_file import read_motion
from personalive.animate.replay import Easing
from personalive.cli import main as cli
from personalive.engine.stream import Stream
from personalive.errors import InputError
from personalive.media.video_reader import probe, read_frames
from personalive.settings import AnimateOptions
from personalive.testing.pictures import moving_face, photograph, save_image


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    return save_image(tmp_path_factory.mktemp("picture") / "smile.png", moving_face(1)[0])


class Watched:
    """What goes into the model and comes out of it."""

    def __init__(self, model, portrait, driver, output, **options):
        self.records = []
        stream = model.stream

        def watched(**given):
            made = stream(**given, observer=self.records.append)
            self.reference = lambda: made.require_state().reference
            return made

        model.stream = watched
        try:
            steps = list(animate(model, portrait, driver, output, AnimateOptions(**options)))
        finally:
            del model.stream
        self.said = [step.message for step in steps if step.message]
        self.frames = np.stack(list(read_frames(probe(output))))

    @property
    def shares(self):
        """How far the portrait's tokens are towards the picture's in each frame of the result."""
        tokens = np.concatenate(
            [self.records[0].motion.numpy()[12:], *(r.motion.numpy()[-4:] for r in self.records[1:])]
        )
        rest = self.reference().motion.numpy()[0]
        target = self.target if hasattr(self, "target") else tokens[len(self.frames) - 1]
        way = (target - rest).ravel()
        return [float((each - rest).ravel() @ way / (way @ way)) for each in tokens[: len(self.frames)]]


@pytest.mark.slow
def test_it_is_held_for_four_seconds(small_model, portrait, picture, tmp_path, monkeypatch):
    seen = []
    observe = Stream.observe
    monkeypatch.setattr(Stream, "observe", lambda self, frames: seen.append(1) or observe(self, frames))
    result = Watched(small_model, portrait, picture, tmp_path / "out.mp4", fps=8)
    assert len(result.frames) == 32 and probe(tmp_path / "out.mp4").rate == 8 and not result.said
    assert result.shares == pytest.approx([1.0] * 32, abs=1e-4)
    assert seen == [1], "it is encoded once"


@pytest.mark.slow
def test_over_a_duration_it_is_eased_in(small_model, portrait, picture, tmp_path):
    result = Watched(small_model, portrait, picture, tmp_path / "out.mp4", duration="0:00.8", side_by_side=True)
    shares = result.shares
    assert len(shares) == 20 and shares[0] == pytest.approx(0, abs=1e-5) and shares[-1] == pytest.approx(1)
    place = np.linspace(0, 1, 20)
    assert shares == pytest.approx(place**2 * (3 - 2 * place), abs=1e-3)
    drivers = result.frames[:, :, 256:512].astype(int)
    assert np.abs(drivers - drivers[0]).mean() < 2, "the picture stands beside every frame"


@pytest.mark.parametrize(
    ("asked", "eased"),
    [
        ({"duration": 0.4, "still": "hold"}, 0),
        pytest.param({"still": "ease", "fps": 3}, 1, marks=pytest.mark.slow),
    ],
)
def test_the_kind_and_the_length_can_be_chosen(small_model, portrait, picture, tmp_path, asked, eased):
    shares = Watched(small_model, portrait, picture, tmp_path / "out.mp4", **asked).shares
    assert len(shares) == (12 if eased else 10) and shares[-1] == pytest.approx(1, abs=1e-4)
    assert shares[0] == pytest.approx(1 - eased, abs=1e-4)


@pytest.mark.slow
def test_ping_pong_eases_in_and_out(small_model, portrait, picture, tmp_path):
    options = {"duration": 0.4, "ping_pong": True}
    result = Watched(small_model, portrait, picture, tmp_path / "out.mp4", save_motion=tmp_path / "a.motion", **options)
    result.target = read_motion(tmp_path / "a.motion").recorded.motion.tokens[0].numpy()
    shares = result.shares
    assert len(shares) == 19 and shares[9] == pytest.approx(1, abs=1e-4)
    assert shares == pytest.approx(shares[::-1], abs=1e-3) and sorted(shares[:10]) == shares[:10]
    again = Watched(small_model, portrait, tmp_path / "a.motion", tmp_path / "again.mp4", **options)
    assert np.array_equal(result.frames, again.frames), "a motion file of a picture drives like it"


def test_from_the_command_line_and_turned_upright(small_model_folder, portrait, tmp_path, caplog):
    driver = save_image(tmp_path / "lying.jpg", np.ascontiguousarray(np.rot90(photograph())))
    given = ["--ref_image", portrait, "--driving_video", driver, "--model", small_model_folder, "--duration", "0.2"]
    with caplog.at_level("INFO"):
        assert cli.main(["animate", *map(str, given), "-o", str(tmp_path / "out.mp4")]) == 0
    assert len(list(read_frames(probe(tmp_path / "out.mp4")))) == 5
    assert "the driver's face is not upright" in caplog.text


def save_frames(path, count):
    pictures = [Image.fromarray(picture) for picture in moving_face(count, step=8)]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=40)
    return path


@pytest.mark.slow
def test_a_gif_is_a_video_if_it_has_several_frames(small_model, portrait, tmp_path):
    for count, frames in ((1, 5), (6, 6)):
        driver = save_frames(tmp_path / f"{count}.gif", count)
        options = {"duration": 0.2} if count == 1 else {}
        assert len(Watched(small_model, portrait, driver, tmp_path / f"{count}.mp4", **options).frames) == frames
    with pytest.raises(InputError, match="animated picture that cannot drive: convert it"):
        Watched(small_model, portrait, save_frames(tmp_path / "moving.webp", 3), tmp_path / "out.mp4")


@pytest.mark.parametrize("wrong", [{"start": 1}, {"motion": "relative"}])
def test_what_only_videos_have_is_refused(small_model, portrait, picture, tmp_path, wrong):
    with pytest.raises(InputError, match="is still"):
        list(animate(small_model, portrait, picture, tmp_path / "out.mp4", AnimateOptions(**wrong)))


def test_easing_ends_where_it_should():
    easing = Easing(5)
    share = 0.0
    for index in (0, 1, 2, 3, 4, 3, 2, 1, 0, 4):
        cue = easing.cue(index, usable=True)
        share = (share + (1 - share) * cue.weight) * (1 - cue.neutral)
        assert share == pytest.approx((index / 4) ** 2 * (3 - index / 2))
    assert Easing(1).cue(0, usable=True).weight == 1
