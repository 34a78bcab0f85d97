"""Every kind of result, read back: frames, rate, duration, sound, metadata; and nothing half-written."""

import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from personalive.animate.job import animate
from personalive.cli import main as cli
from personalive.errors import OutputError
from personalive.media.encoding import FRAMES_NAME, VideoFormat
from personalive.media.sound import Sound
from personalive.media.video_reader import probe
from personalive.media.video_writer import open_result
from personalive.settings import AnimateOptions
from personalive.testing.pictures import numbered, read_number, save_video

COMMENT = "Synthetic video: <model> & seed"
COUNT = 11
VIDEOS = [
    ("out.mp4", None, "h264", "aac"),
    ("out.mp4", "h265", "hevc", "aac"),
    ("out.mp4", "av1", "av1", "aac"),
    ("out.webm", None, "vp9", "opus"),
    ("out.webm", "av1", "av1", "opus"),
]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return save_video(tmp_path_factory.mktemp("clip") / "clip.mp4", numbered(COUNT, 128, 64), sound=True)


def write(path, clip=None, rate=Fraction(25), count=COUNT, overwrite=False, **choices):
    video = VideoFormat(128, 64, rate, COMMENT, **choices)
    sound = None if clip is None else Sound(probe(clip))
    with open_result(path, video, sound=sound, overwrite=overwrite) as writer:
        writer.write(np.stack(numbered(count, 128, 64)))
        writer.finish()
    return path


@pytest.mark.parametrize(("name", "codec", "stored", "sound"), VIDEOS)
def test_videos(tmp_path, clip, name, codec, stored, sound):
    path = write(tmp_path / name, clip, codec=codec)
    with av.open(str(path)) as container:
        (stream,), (audio,) = container.streams.video, container.streams.audio
        assert (stream.codec_context.codec.canonical_name, audio.codec_context.codec.canonical_name) == (stored, sound)
        comments = {name.lower(): value for name, value in (container.metadata | stream.metadata).items()}
        assert comments["comment"] == COMMENT
        assert stream.average_rate == 25
        assert float(container.duration / 1e6) == pytest.approx(COUNT / 25, abs=0.05)
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert [read_number(frame) for frame in frames] == list(range(COUNT))
    assert os.listdir(tmp_path) == [name]


def animated(path):
    with Image.open(path) as image:
        shown = []
        for index in range(image.n_frames):
            image.seek(index)
            image.load()
            shown.append((np.asarray(image.convert("RGB")), image.info["duration"]))
        return [frame for frame, _ in shown], [duration for _, duration in shown], image.info


@pytest.mark.parametrize("name", ["out.gif", "out.webp"])
def test_animated_pictures(tmp_path, clip, name):
    frames, durations, info = animated(write(tmp_path / name, clip))
    assert [read_number(frame) for frame in frames] == list(range(COUNT))
    assert durations == [40] * COUNT and info["loop"] == 0
    kept = info["comment"].decode() if name.endswith("gif") else info["xmp"].decode()
    assert COMMENT in kept or COMMENT.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") in kept
    with Image.open(tmp_path / name) as image:
        image.verify()
    assert os.listdir(tmp_path) == [name]


def test_a_gif_keeps_its_length_at_rates_that_players_do_not_show(tmp_path):
    frames, durations, _ = animated(write(tmp_path / "fast.gif", rate=Fraction(100)))
    assert len(frames) in (5, 6) and sum(durations) == pytest.approx(110, abs=15)
    frames, durations, _ = animated(write(tmp_path / "film.gif", rate=Fraction(30000, 1001)))
    assert len(frames) == COUNT and sum(durations) == pytest.approx(COUNT * 1001 / 30, abs=15)


def test_numbered_pictures(tmp_path, clip):
    folder = tmp_path / "new" / "frames"
    write(folder / FRAMES_NAME, clip)
    assert sorted(os.listdir(folder)) == [f"{number:05d}.png" for number in range(1, COUNT + 1)]
    for number, expected in enumerate(numbered(COUNT, 128, 64), 1):
        with Image.open(folder / f"{number:05d}.png") as image:
            assert np.array_equal(np.asarray(image), expected), "without loss"
            assert image.text["Comment"] == COMMENT


def test_a_folder_keeps_what_else_is_in_it_and_replaces_only_when_told(tmp_path):
    (tmp_path / "notes.txt").write_text("precious")
    write(tmp_path / FRAMES_NAME)
    with pytest.raises(OutputError, match="already holds numbered pictures"):
        write(tmp_path / FRAMES_NAME)
    write(tmp_path / FRAMES_NAME, count=3, overwrite=True)
    assert sorted(os.listdir(tmp_path)) == ["00001.png", "00002.png", "00003.png", "notes.txt"]
    assert (tmp_path / "notes.txt").read_text() == "precious"


@pytest.mark.parametrize("name", ["out.webm", "out.gif", "out.webp", "frames/%05d.png"])
def test_leaving_early_leaves_nothing(tmp_path, name):
    with pytest.raises(KeyboardInterrupt), open_result(tmp_path / name, VideoFormat(128, 64, Fraction(25), "x")) as out:
        out.write(np.stack(numbered(4, 128, 64)))
        raise KeyboardInterrupt
    assert not [path for path in tmp_path.rglob("*") if path.is_file() or "part" in path.name]


def test_a_killed_runs_pictures_are_removed_by_the_next_and_a_living_ones_are_not(tmp_path):
    program = (
        "import sys, os, signal, numpy\nfrom fractions import Fraction\nfrom pathlib import Path\n"
        "from personalive.media.encoding import VideoFormat\nfrom personalive.media.video_writer import open_result\n"
        "out = open_result(Path(sys.argv[1]), VideoFormat(128, 64, Fraction(25), 'x'))\n"
        "out.write(numpy.zeros((4, 64, 128, 3), numpy.uint8))\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / FRAMES_NAME)], check=False)
    (left,) = os.listdir(tmp_path)
    with open_result(tmp_path / FRAMES_NAME, VideoFormat(128, 64, Fraction(25), "x")) as living:
        assert left not in os.listdir(tmp_path)
        living.write(np.stack(numbered(2, 128, 64)))
        write(tmp_path / "beside.gif")
        living.finish()
    assert sorted(os.listdir(tmp_path)) == ["00001.png", "00002.png", "beside.gif"]


@pytest.mark.parametrize("name", ["out.mp4", "out.webm", "out.webp"])
def test_quality_is_seen_in_the_size(tmp_path, name):
    noise = np.random.default_rng(0).integers(0, 256, (4, 64, 128, 3), dtype=np.uint8)
    sizes = []
    for quality in (10, 45):
        path = tmp_path / f"{quality}{Path(name).suffix}"
        with open_result(path, VideoFormat(128, 64, Fraction(25), "x", quality=quality)) as writer:
            writer.write(noise)
            writer.finish()
        sizes.append(path.stat().st_size)
    assert sizes[0] > 1.5 * sizes[1]


@pytest.mark.parametrize(
    ("name", "choice", "said"),
    [
        ("out.mp4", {"codec": "vp9"}, "codec is vp9: it does not go into out.mp4; it takes h264 or h265 or av1"),
        ("out.webm", {"codec": "h264"}, "it takes vp9 or av1"),
        ("out.gif", {"codec": "av1"}, "no choice of codec"),
        ("out.gif", {"quality": 3}, "no choice of quality"),
        (FRAMES_NAME, {"quality": 3}, "no choice of quality"),
        ("out.avi", {}, r"ends with \.mp4, \.webm, \.gif, \.webp, or FOLDER/%05d\.png"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_work(small_model, portrait, clip, tmp_path, name, choice, said):
    with pytest.raises(OutputError, match=said):
        animate(small_model, portrait, clip, tmp_path / name, AnimateOptions(**choice))
    assert not list(tmp_path.iterdir())


def test_pictures_by_the_command_are_silent_and_say_so(small_model_folder, portrait, driver, tmp_path, caplog):
    given = ["--ref_image", portrait, "--driving_video", driver, "--model", small_model_folder, "-L", 5]
    with caplog.at_level("INFO"):
        assert cli.main(["animate", *map(str, given), "-o", str(tmp_path / FRAMES_NAME)]) == 0
    assert "no sound" in caplog.text and len(os.listdir(tmp_path)) == 5
    with Image.open(tmp_path / "00001.png") as image:
        assert image.size == (256, 256) and "Synthetic" in image.text["Comment"]
