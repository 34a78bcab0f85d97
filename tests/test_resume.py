"""A job that was stopped goes on from its last saved state, to the frames of an unbroken run."""

import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from personalive.animate import checks, resume
from personalive.animate.job import animate
from personalive.animate.motion_file import read_motion
from personalive.assets import DEMO_DRIVER, DEMO_PORTRAIT
from personalive.cli import main as cli
from personalive.errors import InputError, OutputError
from personalive.media import segments
from personalive.media.encoding import VideoFormat
from personalive.media.segments import segment_length
from personalive.media.video_reader import probe, read_frames
from personalive.settings import AnimateOptions
from personalive.testing.pictures import moving_face, save_video


@pytest.fixture
def always(monkeypatch):
    """The state is saved after every call."""
    monkeypatch.setattr(resume, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(resume, "SHARE", 0)


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    """24 frames with sound."""
    return save_video(tmp_path_factory.mktemp("driver") / "driver.mp4", moving_face(24), sound=True)


def run(model, portrait, driver, output, stop=None, **options):
    """An animation, or one that is stopped when it has `stop` frames; what was said."""
    said = []
    work = animate(model, portrait, driver, output, AnimateOptions(**options))
    for step in work:
        said += filter(None, [step.message])
        if stop is not None and step.stage == "animating" and step.frames_done >= stop:
            work.close()
            break
    return said


def in_parts(model, portrait, driver, output, stops, **options):
    said = [run(model, portrait, driver, output, stop, resume=True, **options) for stop in (*stops, None)]
    return [line for part in said for line in part if line.startswith("going on")]


def content(path):
    if path.name.endswith("%05d.png"):
        return [np.asarray(Image.open(each)) for each in sorted(path.parent.glob("*.png"))]
    return path.read_bytes()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("out.mp4", {}),
        ("out.gif", {"max_frames": 16}),
        ("frames/%05d.png", {"max_frames": 16, "motion": "relative", "smooth": 0.5}),
        ("out.mp4", {"max_frames": 10, "loop": 2, "ping_pong": True, "side_by_side": True}),
        ("out.webm", {"max_frames": 10, "loop": 2, "face_boxes": "keypoints", "crop": "none"}),
    ],
)
@pytest.mark.usefixtures("always")
@pytest.mark.slow
def test_the_result_is_that_of_an_unbroken_run(small_model, portrait, driver, tmp_path, name, options):
    expected, output = tmp_path / "expected" / name, tmp_path / "resumed" / name
    run(small_model, portrait, driver, expected, **options)
    said = in_parts(small_model, portrait, driver, output, (0, 8), **options)
    assert said and all(int(line.split()[3]) > 0 for line in said)
    if name == "out.mp4":
        assert content(output) == content(expected), "byte for byte, with sound"
    else:
        frames = [content(path) if "png" in name else list(read_frames(probe(path))) for path in (output, expected)]
        assert len(frames[0]) == len(frames[1]) and all(map(np.array_equal, *frames))
    assert not [path for path in output.parent.rglob("*") if "resume" in path.name], "nothing is left"


@pytest.mark.usefixtures("always")
@pytest.mark.slow
def test_segments_are_joined_without_a_seam(small_model, portrait, driver, tmp_path, monkeypatch):
    monkeypatch.setattr(segments, "SEGMENT", 8)
    run(small_model, portrait, driver, tmp_path / "whole.mp4", resume=True, audio=False)
    run(small_model, portrait, driver, tmp_path / "plain.mp4")
    in_parts(small_model, portrait, driver, tmp_path / "parts.mp4", (4, 12))
    with av.open(str(tmp_path / "parts.mp4")) as container:
        times = [frame.pts * frame.time_base for frame in container.decode(video=0)]
        assert "Synthetic video" in container.metadata["comment"]
    assert [round(time * 25, 3) for time in times] == list(range(24))
    whole, plain, parts = (
        np.stack(list(read_frames(probe(tmp_path / f"{name}.mp4")))).astype(int) for name in ("whole", "plain", "parts")
    )
    assert (
        np.array_equal(whole, parts) and np.abs(parts - plain).mean() < 5
    )  # the pictures are noise, and segments are short
    assert probe(tmp_path / "parts.mp4").sound == probe(tmp_path / "plain.mp4").sound == "aac"


@pytest.mark.usefixtures("always")
@pytest.mark.slow
def test_the_motion_file_is_whole_too(small_model, portrait, driver, tmp_path):
    run(small_model, portrait, driver, tmp_path / "a.mp4", save_motion=tmp_path / "a.motion")
    in_parts(small_model, portrait, driver, tmp_path / "b.mp4", (4, 12), save_motion=tmp_path / "b.motion")
    whole, parts = (read_motion(tmp_path / f"{name}.motion") for name in "ab")
    assert torch.equal(whole.recorded.motion.tokens, parts.recorded.motion.tokens) and whole.track == parts.track
    assert len(parts.recorded) == 24 and parts.sound is not None
    in_parts(small_model, portrait, tmp_path / "b.motion", tmp_path / "c.mp4", (4, 12), audio=False)
    run(small_model, portrait, driver, tmp_path / "d.mp4", audio=False)
    assert (tmp_path / "c.mp4").read_bytes() == (tmp_path / "d.mp4").read_bytes()


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.usefixtures("always")
def test_another_job_is_refused_by_name_and_the_state_stays(small_model, portrait, driver, tmp_path):
    output = tmp_path / "out.mp4"
    run(small_model, portrait, driver, output, 4, resume=True)
    before = contents(tmp_path / "out.mp4.resume")
    other = save_video(tmp_path / "other.mp4", moving_face(24))
    for changed, said in (({"seed": 7}, "seed is 7 now, and was 42 before"), ({"loop": 2}, "loop is 2 now")):
        with pytest.raises(InputError, match=said):
            run(small_model, portrait, driver, output, resume=True, **changed)
    with pytest.raises(InputError, match="driver is another file now"):
        run(small_model, portrait, other, output, resume=True)
    assert contents(tmp_path / "out.mp4.resume") == before
    work = animate(small_model, portrait, driver, output, AnimateOptions(resume=True))
    while next(work).stage != "animating":
        pass
    with pytest.raises(OutputError, match="another run is working on"):
        run(small_model, portrait, driver, output, resume=True)
    work.close()
    (tmp_path / "out.mp4.resume" / "state.pt").write_bytes(b"nonsense")
    with pytest.raises(InputError, match="is damaged; remove that folder"):
        run(small_model, portrait, driver, output, resume=True)


def test_a_job_that_has_saved_nothing_binds_nobody(small_model, portrait, driver, tmp_path):
    output = tmp_path / "out.mp4"
    with pytest.raises(InputError, match="has only"):
        run(small_model, portrait, driver, output, resume=True, start=60)
    assert not list(tmp_path.iterdir())
    resume.Resume(output, {"seed": 1}).close()  # as a kill leaves it
    run(small_model, portrait, driver, output, resume=True, max_frames=4)
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]


def test_a_folder_of_the_users_is_left_alone(small_model, portrait, driver, tmp_path):
    (tmp_path / "out.mp4.resume").mkdir()
    (tmp_path / "out.mp4.resume" / "letters.txt").write_text("precious")
    with pytest.raises(OutputError, match="holds something else"):
        run(small_model, portrait, driver, tmp_path / "out.mp4", resume=True)
    assert (tmp_path / "out.mp4.resume" / "letters.txt").read_text() == "precious"


@pytest.mark.parametrize("name", ["out.mp4", pytest.param("frames/%05d.png", marks=pytest.mark.slow)])
def test_a_run_that_was_stopped_after_its_last_step_is_done(small_model, portrait, driver, tmp_path, monkeypatch, name):
    output, options = tmp_path / name, {"max_frames": 16, "save_motion": tmp_path / "out.motion", "resume": True}

    def killed(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(resume.Resume, "remove", killed)
        with pytest.raises(KeyboardInterrupt):
            run(small_model, portrait, driver, output, **options)
    made = content(output)
    run(small_model, portrait, driver, output, **options)
    assert np.array_equal(content(output), made) and not list(tmp_path.rglob("*resume*"))
    with pytest.raises(OutputError, match="already"):
        run(small_model, portrait, driver, output, **options)


def test_the_command_asks_for_a_name_and_says_that_it_goes_on(portrait, driver, tmp_path, caplog, monkeypatch):
    given = ["animate", "--ref_image", str(portrait), "--driving_video", str(driver), "--resume"]
    assert cli.main(given) == 1
    assert "give --output" in caplog.text

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(checks, "check_inputs", interrupted)
    assert cli.main([*given, "-o", str(tmp_path / "out.mp4")]) == cli.INTERRUPTED
    assert "the same command goes on from the last saved state" in caplog.text


def test_segments_are_short_where_frames_are_large():
    def length(name, width, height):
        return segment_length(Path(name), VideoFormat(width, height, 25, ""))

    assert length("a.mp4", 512, 512) == 250 and length("a.webm", 1024, 1024) == 85
    assert length("a.mp4", 6000, 4000) == 25 and length("a.gif", 512, 512) > 10**9


KILLED = """
import sys
from personalive.animate import resume
from personalive.cli.main import main

resume.SAVE_SECONDS, resume.SHARE = 0.5, 5
sys.exit(main(sys.argv[1:]))
"""


def killed_at_random(tmp_path, kills, frames):
    """The demo model's command, killed at random moments of its life until it was killed often enough; then it ends."""
    chance = random.Random(os.urandom(8))
    arguments = ["animate", "--model", "demo", "--ref_image", DEMO_PORTRAIT, "--driving_video", DEMO_DRIVER]
    arguments += ["--device", "cpu", "-L", frames, "--face_boxes", "keypoints", "--crop", "none"]
    code = [sys.executable, "-c", KILLED, *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    subprocess.run([*code, "-o", str(tmp_path / "unbroken.mp4")], check=True, env=environment, capture_output=True)
    command = [*code, "-o", str(tmp_path / "out.mp4"), "--resume"]
    state, went_on, done = tmp_path / "out.mp4.resume" / "state.pt", 0, 0
    while done < kills:
        before = state.stat().st_mtime_ns if state.exists() else 0
        with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
            # At any moment of the life of a process that got further: the next saved state, and a bit more.
            lines: list[str] = []
            reader = threading.Thread(target=lambda pipe=process.stderr, lines=lines: lines.extend(pipe))
            reader.start()
            while process.poll() is None and (not state.exists() or state.stat().st_mtime_ns == before):
                threading.Event().wait(0.01)
            threading.Event().wait(chance.uniform(0, 2))
            process.send_signal(signal.SIGKILL)
            ended = process.wait()
            reader.join()
        went_on += any("going on after" in line for line in lines)
        done += 1
        if ended == 0:  # it was done before it could be killed
            break
    if ended != 0:
        last = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert last.returncode == 0, last.stderr
    assert (tmp_path / "out.mp4").read_bytes() == (tmp_path / "unbroken.mp4").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.mp4", "unbroken.mp4"]
    return done, went_on


@pytest.mark.slow
def test_a_killed_job_goes_on(tmp_path):
    assert killed_at_random(tmp_path, 1, 24)[0] == 1


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ten_kills_at_random_moments(tmp_path):
    done, went_on = killed_at_random(tmp_path, 10, 100)
    assert done >= 5 and went_on >= 3
