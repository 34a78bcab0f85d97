"""Files as people have them, from file to file: a result shows beside itself what their owner sees in them."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from personalive.animate.job import AnimateOptions, animate
from personalive.assets import DEMO_DRIVER, DEMO_PORTRAIT
from personalive.media.video_reader import probe, read_frames
from personalive.testing.pictures import run_ffmpeg, save_video
from tests import brought

CASES = Path(__file__).parents[2] / "shared" / "cases"
needs_cases = pytest.mark.skipif(not CASES.is_dir(), reason="the files of ../shared/cases are not here")
SIDE = 256
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


class Result:
    """A result, side by side, and what was said on the way."""

    def __init__(self, model, reference, driver, folder, **options):
        path = folder / f"{Path(driver).stem}.mp4"
        kept = AnimateOptions(side_by_side=True, overwrite=True, **options)
        self.said = " | ".join(step.message for step in animate(model, reference, driver, path, kept) if step.message)
        self.info = probe(path)
        self.frames = np.stack(list(read_frames(self.info)))
        self.portrait = self.frames[0, :, :SIDE].astype(float)
        self.drivers = self.frames[:, :, SIDE : 2 * SIDE].astype(float)
        self.path = path


def difference(a, b):
    return np.abs(np.asarray(a, float) - np.asarray(b, float)).mean()


@pytest.fixture(scope="module")
def usual(small_model, tmp_path_factory):
    return Result(small_model, DEMO_PORTRAIT, DEMO_DRIVER, tmp_path_factory.mktemp("usual"), max_frames=4)


@needs_cases
@pytest.mark.parametrize(
    ("name", "tolerance", "said"),
    [
        ("iphone_grid2x2.heic", 3, ""),
        ("p3.png", 3, ""),
        ("tiff.tif", 1, ""),
        ("upside.png", 3, "turned by half a turn"),
        ("alpha.png", 120, ""),
        ("small_face.png", 120, ""),
        ("two_faces.png", 120, "shows 2 faces"),
    ],
)
def test_portraits(small_model, usual, tmp_path, name, tolerance, said):
    result = Result(small_model, CASES / name, DEMO_DRIVER, tmp_path, max_frames=4)
    assert difference(result.portrait, usual.portrait) <= tolerance
    assert said in result.said if said else "portrait" not in result.said
    if name == "alpha.png":  # white shows through, and no darker or brighter rim
        assert result.portrait.max() > 245


@needs_cases
@pytest.mark.parametrize(
    ("name", "frames", "rate", "said"),
    [
        ("selfie_hflip.mp4", 40, 25, ""),
        ("dm_vflip.mp4", 40, 25, "turned by half a turn"),  # a player shows it upside down
        ("phone_rot270.mp4", 40, 25, ""),
        ("anamorphic.mp4", 25, 25, ""),
        ("mediarec_vfr.webm", 74, 25, ""),
        ("chrome_1000fps.webm", (48, 52), None, ""),
        ("two.mp4", None, 25, "2 faces"),
        ("walk.mp4", 40, 25, ""),
        ("flash.mp4", 30, 25, "held in 5 of 30 driving frames: 5 where no face was seen"),
    ],
)
def test_drivers(small_model, tmp_path, name, frames, rate, said):
    result = Result(small_model, DEMO_PORTRAIT, CASES / name, tmp_path, max_frames=0)
    if isinstance(frames, tuple):
        assert frames[0] <= len(result.frames) <= frames[1]
        assert 26 < result.info.rate < 30 and len(result.frames) / result.info.rate == pytest.approx(1.79, abs=0.06)
    elif frames is not None:
        assert (len(result.frames), result.info.rate) == (frames, rate)
    assert said in result.said if said else "held" not in result.said and "turned" not in result.said


@needs_cases
def test_a_flipped_driver_is_seen_as_a_player_shows_it(small_model, tmp_path):
    """ffmpeg's own filters are the judge of what the display matrices mean. An upside-down face is turned."""
    for name, turn in (("selfie_hflip.mp4", "hflip"), ("dm_vflip.mp4", "vflip")):
        with av.open(str(CASES / name)) as container:
            stored = next(iter(container.decode(video=0))).to_ndarray(format="rgb24")
        shown = stored[:, ::-1] if turn == "hflip" else np.rot90(stored[::-1], 2)
        result = Result(small_model, DEMO_PORTRAIT, CASES / name, tmp_path, max_frames=4, crop="none")
        expected = Image.fromarray(np.ascontiguousarray(shown)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        assert difference(result.drivers[0], expected) < 6, name


@needs_cases
def test_hdr_looks_like_the_same_picture_in_sdr(small_model, tmp_path):
    hdr, sdr = (
        Result(small_model, DEMO_PORTRAIT, CASES / name, tmp_path, max_frames=8, crop="none", face_boxes="keypoints")
        for name in ("iphone_hlg.mov", "sdr_same.mp4")
    )
    assert difference(hdr.drivers, sdr.drivers) < 6


@needs_cases
def test_late_sound_stays_late(small_model, tmp_path):
    result = Result(small_model, DEMO_PORTRAIT, CASES / "audio_late.mp4", tmp_path, max_frames=0)
    with av.open(str(result.path)) as container:
        (sound,) = container.streams.audio
        assert float(sound.start_time * sound.time_base) == pytest.approx(0.68, abs=0.02)


@needs_cases
def test_a_still_picture_drives_for_four_seconds(small_model, tmp_path):
    result = Result(small_model, DEMO_PORTRAIT, CASES / "single.png", tmp_path)
    assert len(result.frames) == 100


@pytest.mark.parametrize(("suffix", "wide"), [("heic", False), ("avif", True), ("jp2", False), ("tiff", True)])
def test_generated_portraits(small_model, usual, tmp_path, suffix, wide):
    drawn = np.asarray(Image.open(DEMO_PORTRAIT).convert("RGB"))
    stored, profile = (brought.in_p3(drawn), brought.p3_profile()) if wide else (drawn, None)
    path = brought.save_still(tmp_path / f"portrait.{suffix}", stored, profile=profile)
    result = Result(small_model, path, DEMO_DRIVER, tmp_path, max_frames=4)
    assert difference(result.portrait, usual.portrait) <= 4


@pytest.mark.parametrize("rate", [Fraction(12), Fraction(30000, 1001), Fraction(50)])
def test_generated_drivers_keep_their_rate(small_model, tmp_path, rate):
    frames = list(read_frames(probe(DEMO_DRIVER)))[:12]
    path = save_video(tmp_path / "driver.mp4", frames, rate=rate)
    result = Result(small_model, DEMO_PORTRAIT, path, tmp_path / "..", max_frames=0)
    assert (len(result.frames), result.info.rate) == (12, rate)


@pytest.mark.parametrize(("quarters", "words"), [(1, "a quarter turn"), (2, "half a turn"), (3, "a quarter turn")])
def test_a_driver_that_lies_or_stands_on_its_head_is_turned(small_model, usual, tmp_path, quarters, words):
    frames = [np.ascontiguousarray(np.rot90(frame, quarters)) for frame in list(read_frames(probe(DEMO_DRIVER)))[:8]]
    path = save_video(tmp_path / "turned.mp4", frames)
    result = Result(small_model, DEMO_PORTRAIT, path, tmp_path / "..", max_frames=4)
    assert f"turned by {words}" in result.said and "held" not in result.said
    assert difference(result.drivers, usual.drivers) < 4


def test_a_face_that_is_seen_late_and_a_clock_that_starts_late(small_model, tmp_path):
    frames = list(read_frames(probe(DEMO_DRIVER)))[:8]
    black = [np.zeros_like(frames[0])] * 5
    late = Result(small_model, DEMO_PORTRAIT, save_video(tmp_path / "late.mp4", black + frames[:2]), tmp_path / "..")
    assert "held in 5 of 7 driving frames" in late.said
    source = save_video(tmp_path / "plain.mp4", frames)
    run_ffmpeg("-i", str(source), "-c", "copy", "-output_ts_offset", "3600", str(tmp_path / "clock.mkv"))
    assert len(Result(small_model, DEMO_PORTRAIT, tmp_path / "clock.mkv", tmp_path / "..").frames) == 8
