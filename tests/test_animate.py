"""From files to a file: what comes out, what is refused, what is left behind when it stops."""

import gc
import math
import os
import subprocess
import sys
import threading
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from personalive.animate.checks import check_inputs
from personalive.animate.inputs import open_input
from personalive.animate.job import Progress, animate
from personalive.engine.stream import Stream
from personalive.errors import DeviceMemoryError, InputError, NoFaceError, OutputError
from personalive.media.fetched import fetched_inputs
from personalive.media.held_folder import HeldFolder
from personalive.settings import AnimateOptions
from personalive.testing.pictures import (
    faceless,
    moving_face,
    numbered,
    photograph,
    read_number,
    run_ffmpeg,
    save_image,
    save_video,
)
from tests.endpoint_support import receiver


def run(model, portrait, driver, output, **options):
    return list(animate(model, portrait, driver, output, AnimateOptions(**options)))


def read(path):
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        return frames, container.streams.video[0].average_rate, bool(container.streams.audio), container.metadata


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """5 frames of a face, silent."""
    return save_video(tmp_path_factory.mktemp("short") / "short.mp4", moving_face(5))


def test_result_has_the_drivers_frames_rate_and_sound(small_model, portrait, driver, tmp_path):
    progress = run(small_model, portrait, driver, tmp_path / "out.mp4")
    frames, rate, sound, metadata = read(tmp_path / "out.mp4")
    assert (len(frames), rate, sound) == (22, 25, True)
    assert frames[0].shape == (256, 256, 3)
    assert "Synthetic" in metadata["comment"]
    assert "model small, seed 42" in metadata["comment"]
    assert progress[-1] == Progress("done", 22, 22)
    for stage in ("finding the face", "animating"):
        steps = [step for step in progress if step.stage == stage]
        done = [step.frames_done for step in steps]
        assert done == sorted(done) and all(step.frames_total == 22 for step in steps) and done[-1] == 22
    assert os.listdir(tmp_path) == ["out.mp4"]


@pytest.mark.slow
def test_same_seed_same_file_other_seed_other_pictures(small_model, portrait, short, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(small_model, portrait, short, tmp_path / f"{name}.mp4", seed=seed)
    a, b, c = (np.stack(read(tmp_path / f"{name}.mp4")[0]).astype(int) for name in "abc")
    assert (a == b).all()
    assert np.abs(a - c).mean() > 1


def test_one_frame(small_model, portrait, tmp_path):
    driver = save_video(tmp_path / "one.mp4", moving_face(1))
    run(small_model, portrait, driver, tmp_path / "out.mp4")
    assert len(read(tmp_path / "out.mp4")[0]) == 1


def test_cut_by_max_frames_is_said(small_model, portrait, driver, tmp_path):
    progress = run(small_model, portrait, driver, tmp_path / "out.mp4", max_frames=6)
    frames, _, sound, _ = read(tmp_path / "out.mp4")
    assert len(frames) == 6 and sound
    assert "6 of 22 frames used" in [step.message for step in progress]


@pytest.mark.slow
def test_all_frames(small_model, portrait, driver, tmp_path):
    progress = run(small_model, portrait, driver, tmp_path / "out.mp4", max_frames=0, audio=False)
    frames, _, sound, _ = read(tmp_path / "out.mp4")
    assert len(frames) == 22 and not sound
    assert not any(step.message for step in progress)


@pytest.mark.parametrize(("fps", "count"), [(12.5, 11), pytest.param(50, 44, marks=pytest.mark.slow)])
def test_other_rate_keeps_the_duration(small_model, portrait, driver, tmp_path, fps, count):
    run(small_model, portrait, driver, tmp_path / "out.mp4", fps=fps)
    frames, rate, *_ = read(tmp_path / "out.mp4")
    assert (len(frames), rate) == (count, Fraction(fps))


@pytest.mark.parametrize("crop", ["auto", *(pytest.param(crop, marks=pytest.mark.slow) for crop in ("center", "none"))])
def test_sizes_and_crops(small_model, portrait, short, tmp_path, crop):
    run(small_model, portrait, short, tmp_path / "out.mp4", width=320, height=256, crop=crop)
    assert read(tmp_path / "out.mp4")[0][0].shape == (256, 320, 3)


@pytest.mark.slow
def test_side_by_side_shows_reference_driver_and_result(small_model, portrait, tmp_path):
    pictures = moving_face(7)
    for number, picture in enumerate(numbered(7, 256, 24)):
        pictures[number][-24:] = picture
    driver = save_video(tmp_path / "driver.mp4", pictures)
    run(small_model, portrait, driver, tmp_path / "alone.mp4", crop="none")
    run(small_model, portrait, driver, tmp_path / "both.mp4", crop="none", side_by_side=True)
    frames = read(tmp_path / "both.mp4")[0]
    assert frames[0].shape == (256, 768, 3)
    assert [read_number(frame[-24:, 256:512]) for frame in frames] == list(range(7)), "the driver's own frame beside it"
    from PIL import Image

    reference = np.asarray(Image.fromarray(photograph()).resize((256, 256))).astype(int)
    assert np.abs(frames[3][:, :256] - reference).mean() < 6
    for frame, alone in zip(frames, read(tmp_path / "alone.mp4")[0], strict=True):
        assert np.abs(frame[:, 512:].astype(int) - alone).mean() < 6


def test_keypoint_boxes_need_no_face_detector(small_model, portrait, short, tmp_path):
    run(small_model, portrait, short, tmp_path / "out.mp4", face_boxes="keypoints", crop="center")
    assert len(read(tmp_path / "out.mp4")[0]) == 5


@pytest.mark.parametrize("name", [pytest.param("driver.gif", marks=pytest.mark.slow), "driver"])
def test_a_gif_drives_whatever_its_file_is_called(small_model, portrait, short, tmp_path, name):
    """Files that are fetched have no suffix."""
    run_ffmpeg("-i", str(short), "-f", "gif", str(tmp_path / name))
    check_inputs(portrait, tmp_path / name, tmp_path / "out.mp4", AnimateOptions())
    run(small_model, portrait, tmp_path / name, tmp_path / "out.mp4")
    assert len(read(tmp_path / "out.mp4")[0]) == 5


def test_a_gif_drives_from_the_web(portrait, short, tmp_path, monkeypatch):
    monkeypatch.setenv("PERSONALIVE_ALLOW_PRIVATE_URLS", "1")
    run_ffmpeg("-i", str(short), str(tmp_path / "driver.gif"))
    with receiver((tmp_path / "driver.gif").read_bytes()) as web:
        address = f"{web.url}/driver.gif"
        with fetched_inputs(str(tmp_path)) as inputs:
            fetched = open_input(address, "the driving video", inputs)
            check_inputs(portrait, fetched, tmp_path / "out.mp4", AnimateOptions())
    assert os.listdir(tmp_path) == ["driver.gif"]
    with receiver(b"no video") as web, pytest.raises(InputError) as told, fetched_inputs(str(tmp_path)) as inputs:
        address = f"{web.url}/talk.mp4?quality=high"
        check_inputs(portrait, open_input(address, "the driving video", inputs), tmp_path / "out.mp4", AnimateOptions())
    assert address in str(told.value) and str(tmp_path) not in str(told.value)


def test_fetched_files_of_a_program_that_was_killed_are_removed_and_those_in_use_stay(tmp_path):
    program = (
        "import sys, time\nfrom personalive.media.held_folder import HeldFolder\n"
        "held = HeldFolder('personalive-inputs-', sys.argv[1])\n"
        "(held.path / 'film').write_bytes(b'x'); print(held.path, flush=True); time.sleep(60)"
    )
    running = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert running.stdout is not None
    theirs = Path(running.stdout.readline().strip())
    (tmp_path / "personalive-inputs-notes.txt").write_text("not a folder")
    with HeldFolder("personalive-inputs-", str(tmp_path)) as held:
        assert (theirs / "film").exists() and held.path.exists()
        running.kill()
        running.wait()
        with HeldFolder("personalive-inputs-", str(tmp_path)):
            assert not theirs.exists() and held.path.exists()
    assert os.listdir(tmp_path) == ["personalive-inputs-notes.txt"]


def test_video_as_reference_takes_its_first_frame_with_a_face(small_model, short, tmp_path):
    reference = save_video(tmp_path / "reference.mp4", [faceless(256, 256)] * 3 + moving_face(3))
    run(small_model, reference, short, tmp_path / "out.mp4", crop="none", side_by_side=True)
    shown = read(tmp_path / "out.mp4")[0][0][:, :256].astype(int)
    assert np.abs(shown - moving_face(1)[0]).mean() < 6


def test_frames_without_a_face_are_bridged_and_counted(small_model, portrait, tmp_path):
    pictures = moving_face(12)
    for hidden in (0, 1, 5, 6, 7):
        pictures[hidden] = faceless(256, 256)
    driver = save_video(tmp_path / "driver.mp4", pictures)
    progress = run(small_model, portrait, driver, tmp_path / "out.mp4")
    assert len(read(tmp_path / "out.mp4")[0]) == 12
    assert progress[-1].faceless == 5
    assert "held in 5 of 12 driving frames: 5 where no face was seen" in progress[-1].message


@pytest.mark.slow
def test_photograph_of_8k_is_scaled(small_model, short, tmp_path):
    from PIL import Image

    large = Image.new("RGB", (7680, 4320), (90, 90, 90))
    large.paste(Image.fromarray(photograph()).resize((3000, 3000)), (2000, 800))
    large.save(tmp_path / "8k.jpg")
    run(small_model, tmp_path / "8k.jpg", short, tmp_path / "out.mp4")
    assert len(read(tmp_path / "out.mp4")[0]) == 5


def bad_inputs(folder):
    """Name → (reference, driver, error, what the message says); None stands for a good one."""
    grey = save_image(folder / "grey.png", faceless())
    plain = save_video(folder / "plain.mp4", [faceless(256, 256)] * 6)
    empty, text, sound = folder / "empty.png", folder / "text.png", folder / "sound.mp4"
    empty.write_bytes(b"")
    text.write_text("neither picture nor video")
    run_ffmpeg("-f", "lavfi", "-i", "sine=duration=1", str(sound))
    missing = folder / "missing"
    return {
        "no reference": (missing, None, InputError, "does not exist"),
        "no driver": (None, missing, InputError, "does not exist"),
        "folder as reference": (folder, None, InputError, "not a file"),
        "folder as driver": (None, folder, InputError, "not a file"),
        "empty reference": (empty, None, InputError, "empty"),
        "empty driver": (None, empty, InputError, "empty"),
        "text as reference": (text, None, InputError, "neither a picture .* nor a video"),
        "text as driver": (None, text, InputError, "not a video"),
        "picture without a face as driver": (None, grey, NoFaceError, "no face was found in the driver"),
        "sound as driver": (None, sound, InputError, "no video frames"),
        "sound as reference": (sound, None, InputError, "no video frames"),
        "reference without a face": (grey, None, NoFaceError, "no face was found in the reference"),
        "driver without any face": (None, plain, NoFaceError, "no face was found in the 6 frames .* of the driver"),
        "video without a face as reference": (plain, None, NoFaceError, "no face was found in the reference"),
    }


BAD = [
    *("no reference", "no driver", "folder as reference", "folder as driver", "empty reference", "empty driver"),
    *(
        "text as reference",
        "text as driver",
        "picture without a face as driver",
        "sound as driver",
        "sound as reference",
    ),
    *("reference without a face", "driver without any face", "video without a face as reference"),
]


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    return bad_inputs(tmp_path_factory.mktemp("bad"))


@pytest.mark.parametrize("name", BAD)
def test_bad_inputs_are_refused_before_the_model_works(small_model, portrait, short, bad, tmp_path, monkeypatch, name):
    reference, driver, kind, message = bad[name]
    monkeypatch.setattr(Stream, "set_reference", lambda *_: pytest.fail("the model was used"))
    with pytest.raises(kind, match=message):
        run(small_model, reference or portrait, driver or short, tmp_path / "new" / "out.mp4")
    assert not (tmp_path / "new").exists(), "nothing was made, not even the folder"


def test_output_is_refused_before_anything_is_read(small_model, portrait, short, tmp_path):
    (tmp_path / "there.mp4").write_bytes(b"precious")
    for name, reason in (("there.mp4", "--overwrite"), ("out.avi", "mp4"), (".", "mp4")):
        with pytest.raises(OutputError, match=reason):
            animate(small_model, portrait, short, tmp_path / name)
    assert (tmp_path / "there.mp4").read_bytes() == b"precious"


def test_an_input_is_never_overwritten(small_model, portrait, short, tmp_path):
    link = tmp_path / "link.mp4"
    link.symlink_to(short)
    before = short.read_bytes()
    for output in (short, link):
        with pytest.raises(OutputError, match="one of the inputs"):
            animate(small_model, portrait, short, output, AnimateOptions(overwrite=True))
    assert short.read_bytes() == before


NOT_WHOLE = [math.nan, math.inf, -1, 10**30, 2.5, True, "4", None]
NOT_NUMBERS = [math.nan, math.inf, -math.inf, -1, 1e300, 10**30, "1", True]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("width", [v for v in NOT_WHOLE if v is not None] + [0, 192, 257, 300, 1088]),
        ("height", [v for v in NOT_WHOLE if v is not None] + [0, 192, 257, 300, 1088]),
        ("max_frames", [*[v for v in NOT_WHOLE if v is not None], 1_000_001]),
        ("steps", [*NOT_WHOLE, 0, 1, 5, 20]),
        ("seed", [*NOT_WHOLE, 2**32]),
        ("fps", [*NOT_NUMBERS, 0, 0.5, 121]),
        ("motion_strength", [*NOT_NUMBERS, 2.1, None]),
        ("keyframe_threshold", NOT_NUMBERS),
        ("crop", ["", "left", None, 1, math.nan]),
        ("face_boxes", ["", "both", None]),
        ("audio", [None, "yes", 2]),
        ("overwrite", [None, "yes", 2]),
        ("side_by_side", [None, "yes", 2]),
    ],
)
def test_values_that_are_not_allowed_are_named_with_those_that_are(name, values):
    for value in values:
        with pytest.raises(InputError, match=f"{name} is ") as refused:
            AnimateOptions(**{name: value})
        assert "must be" in str(refused.value)


@given(
    width=st.integers(4, 16),
    height=st.integers(4, 16),
    fps=st.floats(1, 120),
    strength=st.floats(0, 2),
    seed=st.integers(0, 2**32 - 1),
)
def test_allowed_values_are_taken(width, height, fps, strength, seed):
    options = AnimateOptions(width=64 * width, height=64 * height, fps=fps, motion_strength=strength, seed=seed)
    assert abs(options.rate - Fraction(fps)) < Fraction(1, 1000)


def test_closing_in_the_middle_stops_within_a_chunk(small_model, portrait, driver, tmp_path):
    work = animate(small_model, portrait, driver, tmp_path / "out.mp4")
    steps = iter(work)
    while (step := next(steps)).stage != "animating" or step.frames_done == 0:
        pass
    assert len(os.listdir(tmp_path)) == 1, "only the unfinished file"
    work.close()
    assert os.listdir(tmp_path) == []
    assert not [thread.name for thread in threading.enumerate() if thread.name == "driving video"]
    gc.collect()
    assert not [thing for thing in gc.get_objects() if type(thing) is Stream], "its state is freed"


def test_failure_in_the_middle_leaves_nothing(small_model, portrait, driver, tmp_path, monkeypatch):
    submit = Stream.submit

    def fail_later(stream, driving):
        if stream.frames_in >= 8:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return submit(stream, driving)

    monkeypatch.setattr(Stream, "submit", fail_later)
    with pytest.raises(DeviceMemoryError, match=r"256x256.*smaller --width.*--low_memory"):
        run(small_model, portrait, driver, tmp_path / "out.mp4")
    assert os.listdir(tmp_path) == []
    assert not [thread.name for thread in threading.enumerate() if thread.name == "driving video"]


def test_inputs_are_not_changed(small_model, portrait, short, tmp_path):
    before = portrait.read_bytes(), short.read_bytes()
    run(small_model, portrait, short, tmp_path / "out.mp4")
    assert (portrait.read_bytes(), short.read_bytes()) == before


def test_everything_imports_without_the_packages_of_the_doors():
    """On a GPU machine without mediapipe, PyAV, ffmpeg or Cog, the engine still works."""
    program = (
        "import sys\n"
        "for name in ('av', 'mediapipe', 'imageio_ffmpeg', 'cog', 'fastapi', 'aiortc'): sys.modules[name] = None\n"
        "import personalive.animate.job, personalive.media.faces, personalive.loading\n"
        "import personalive.media.url_fetch, personalive.cli.doctor\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_memory_does_not_grow_with_length(tmp_path):
    """The peak of a run of 3,000 frames is within 5 % of that of 300; each in its own process."""
    program = (
        "import resource, sys\nfrom pathlib import Path\nfrom personalive.animate.job import *\n"
        "from personalive.testing.small_model import make_small_model\n"
        "a, b, c, n = sys.argv[1:]\n"
        "for p in animate(make_small_model(), a, b, c, AnimateOptions(max_frames=int(n))): pass\n"
        "print(p.frames_done, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    portrait = save_image(tmp_path / "portrait.png", photograph())
    clip = save_video(tmp_path / "clip.mp4", moving_face(50))
    driver = tmp_path / "driver.mp4"
    run_ffmpeg("-stream_loop", "59", "-i", str(clip), "-c", "copy", str(driver))
    peaks = []
    for count in (300, 3000):
        arguments = [portrait, driver, tmp_path / f"{count}.mp4", str(count)]
        done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
        frames, peak = map(int, done.stdout.split()[-2:])
        assert frames == count
        peaks.append(peak)
    assert peaks[1] <= peaks[0] * 1.05
