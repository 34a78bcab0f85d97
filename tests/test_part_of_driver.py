"""Which part of the driver is used, and how often it is played: frames, order, sound, what is refused."""

import itertools
from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from personalive.animate.checks import check_inputs
from personalive.animate.job import animate
from personalive.animate.replay import Presences, length, order
from personalive.cli import main as cli
from personalive.errors import InputError
from personalive.media.video_reader import probe, read_frames
from personalive.settings import AnimateOptions, Surface
from personalive.testing.pictures import moving_face, numbered, read_number, run_ffmpeg, save_video
from tests.brought import save_without_rate


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    """24 numbered frames at 12 a second, with a face in each and a sound whose pitch rises twice: 400, 800, 1600 Hz."""
    folder = tmp_path_factory.mktemp("numbers")
    pictures = moving_face(24, step=1.0)
    for number, picture in enumerate(numbered(24, 256, 24)):
        pictures[number][-24:] = picture
    silent = save_video(folder / "silent.mp4", pictures, 12)
    tones = [f"sine=frequency={pitch}:duration={seconds}" for pitch, seconds in ((400, 0.5), (800, 0.5), (1600, 1))]
    sources = [argument for tone in tones for argument in ("-f", "lavfi", "-i", tone)]
    joined = ("-filter_complex", "[1:a][2:a][3:a]concat=n=3:v=0:a=1[a]", "-map", "0:v", "-map", "[a]")
    run_ffmpeg("-i", str(silent), *sources, *joined, "-c:v", "copy", "-c:a", "aac", str(folder / "driver.mp4"))
    return folder / "driver.mp4"


def run(model, portrait, driver, output, **options):
    asked = AnimateOptions(crop="none", side_by_side=True, **options)
    messages = [step.message for step in animate(model, portrait, driver, output, asked) if step.message]
    with av.open(str(output)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return [read_number(frame[-24:, 256:512]) for frame in frames], messages, frames


def pitch(path, at):
    """The loudest frequency of a tenth of a second around a moment; None: silence."""
    with av.open(str(path)) as container:
        if not container.streams.audio:
            return None
        rate = container.streams.audio[0].rate
        samples = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    window = samples[int((at - 0.05) * rate) : int((at + 0.05) * rate)]
    spectrum = np.abs(np.fft.rfft(window * np.hanning(len(window))))
    return float(np.argmax(spectrum) * rate / len(window)) if len(window) and np.abs(window).max() > 0.01 else None


def test_start_and_duration_choose_frames_and_their_sound(small_model, portrait, numbers, tmp_path):
    shown, messages, _ = run(small_model, portrait, numbers, tmp_path / "out.mp4", start="0:00.5", duration=0.75)
    assert shown == list(range(6, 15)) and messages == []
    assert pitch(tmp_path / "out.mp4", 0.25) == pytest.approx(800, abs=30)
    assert pitch(tmp_path / "out.mp4", 0.65) == pytest.approx(1600, abs=30)


@pytest.mark.slow
def test_a_loop_repeats_frames_and_sound_in_step(small_model, portrait, numbers, tmp_path):
    shown, messages, _ = run(small_model, portrait, numbers, tmp_path / "out.mp4", start=0.25, duration=0.5, loop=3)
    assert shown == [*range(3, 9)] * 3 and messages == []
    for again in range(3):
        assert pitch(tmp_path / "out.mp4", 0.5 * again + 0.12) == pytest.approx(400, abs=30)
        assert pitch(tmp_path / "out.mp4", 0.5 * again + 0.38) == pytest.approx(800, abs=30)


def test_ping_pong_goes_back_without_sound_and_says_so(small_model, portrait, numbers, tmp_path):
    shown, messages, frames = run(small_model, portrait, numbers, tmp_path / "out.mp4", max_frames=6, ping_pong=True)
    assert shown == [0, 1, 2, 3, 4, 5, 4, 3, 2, 1, 0]
    assert pitch(tmp_path / "out.mp4", 0.2) is None
    assert any("no sound" in message for message in messages)
    steps = [np.abs(a[:, 512:].astype(int) - b[:, 512:]).mean() for a, b in itertools.pairwise(frames)]
    assert max(steps[5:]) < 3 * max(steps[:5]), "nothing jumps where it turns"


@pytest.mark.slow
def test_a_part_is_what_is_seen_when_the_video_is_cut_there(small_model, portrait, numbers, tmp_path):
    cut = save_video(tmp_path / "cut.mkv", list(read_frames(probe(numbers)))[6:12], 12, options=("-c:v", "ffv1"))
    run_options = {"crop": "none", "audio": False}
    for name, driver, part in (("part", numbers, {"start": 0.5, "duration": 0.5}), ("cut", cut, {})):
        options = AnimateOptions(**run_options, **part)
        assert list(animate(small_model, portrait, driver, tmp_path / f"{name}.mp4", options))[-1].frames_done == 6
    piece, whole = (np.stack(list(read_frames(probe(tmp_path / f"{name}.mp4")))) for name in ("part", "cut"))
    assert np.abs(piece.astype(int) - whole).mean() < 1


@pytest.mark.slow
def test_times_and_loops_from_the_command_line(small_model_folder, portrait, numbers, tmp_path, caplog):
    given = ["--ref_image", portrait, "--driving_video", numbers, "--model", small_model_folder, "--crop", "none"]
    given += ["--start", "00:01.5", "--duration", "2", "--loop", 2]
    with caplog.at_level("INFO"):
        assert cli.main(["animate", *map(str, given), "-o", str(tmp_path / "out.mp4")]) == 0
    assert len(list(read_frames(probe(tmp_path / "out.mp4")))) == 12
    assert "ends 1.50 s before the part does" in caplog.text


@pytest.mark.parametrize("command", [True, False])
def test_a_part_after_the_end_is_refused_before_any_work(small_model, portrait, numbers, tmp_path, command, caplog):
    if command:
        given = ["--ref_image", portrait, "--driving_video", numbers, "--start", "1:00", "-o", tmp_path / "out.mp4"]
        assert cli.main(["animate", *map(str, given)]) == 1
        assert "start is 60 s: the driving video" in caplog.text and "has only 2.00 s" in caplog.text
    else:
        with pytest.raises(InputError, match=r"has only 2\.00 s"):
            list(animate(small_model, portrait, numbers, tmp_path / "out.mp4", AnimateOptions(start=60)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "value"), [("75", 75), ("1:15", 75), ("0:01:15.5", 75.5), ("0.04", 0.04), (3, 3), (" 2:00 ", 120)]
)
def test_times_as_people_write_them(text, value):
    assert AnimateOptions(start=text).start == value
    assert AnimateOptions.from_inputs({"duration": text}, Surface.HTTP).duration == value


@pytest.mark.parametrize("wrong", ["", "1:", "-1", "1:2:3:4", "soon", "1e5", "nan", "99999999", float("nan"), True])
def test_what_is_no_time_is_refused(wrong):
    with pytest.raises(InputError, match=r"start is .*: it must be seconds, mm:ss\.s"):
        AnimateOptions(start=wrong)


def test_how_many_frames_are_used_at_most():
    assert AnimateOptions().limit == 100 and AnimateOptions(duration=60).limit == 0
    assert AnimateOptions(duration=60, max_frames=10).limit == 10 and AnimateOptions(max_frames=0).limit == 0
    with pytest.raises(InputError, match="ping_pong is True"):
        AnimateOptions(loop=1, ping_pong=True)


@given(frames=st.integers(1, 30), passes=st.integers(1, 6), ping_pong=st.booleans())
def test_the_order_of_frames(frames, passes, ping_pong):
    indices = list(order(frames, passes, ping_pong=ping_pong))
    assert len(indices) == length(frames, passes, ping_pong=ping_pong)
    assert indices[:frames] == list(range(frames)) and set(indices) == set(range(frames))
    if ping_pong and frames > 1:
        assert all(abs(a - b) == 1 for a, b in itertools.pairwise(indices))
    else:
        assert indices == list(range(frames)) * passes


def test_the_jump_back_of_a_loop_is_eased_like_a_cut_and_a_turn_is_not():
    presences = Presences(Fraction(10), (), None)
    cues = [presences.cue(index, usable=True) for index in (0, 1, 2, 3, 0, 1, 2, 3, 2, 1)]
    weights = [cue.weight for cue in cues]
    assert weights[:4] == [1, 1, 1, 1] and 0 < weights[4] < weights[5] <= 1 and weights[7:] == [1, 1, 1]
    assert [cue.anchor for cue in cues] == [True, False, False, False, True, False, False, False, False, False]


@pytest.mark.parametrize("rate", [None, Fraction(10), Fraction(60)])
@pytest.mark.parametrize("skip", [1, 7, 19])
def test_skipping_gives_the_frames_that_reading_on_would_give(numbers, tmp_path, rate, skip):
    gaps = save_without_rate(tmp_path / "gaps.webm", numbered(20), [*range(0, 400, 40), *range(2000, 2400, 40)])
    for path in (numbers, gaps):
        info = probe(path)
        every = list(read_frames(info, rate))
        rest = list(read_frames(info, rate, skip))
        assert len(rest) == len(every) - skip
        assert all(np.array_equal(a, b) for a, b in zip(rest, every[skip:], strict=True))


def test_a_neutral_frame_is_counted_at_the_rate_of_the_result(portrait, tmp_path):
    path = save_video(tmp_path / "short.mp4", moving_face(8))
    options = AnimateOptions(fps=50, motion="relative", neutral_frame=12)
    check_inputs(portrait, path, tmp_path / "out.mp4", options)
