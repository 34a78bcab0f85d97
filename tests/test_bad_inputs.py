"""A hundred bad files and commands: refused with one line that names the reason, before any weights are touched."""

import logging
import os
import random
import struct
from io import StringIO

import numpy as np
import pytest
from PIL import Image

from personalive.cli.main import main
from personalive.testing.pictures import faceless, moving_face, numbered, photograph, run_ffmpeg, save_video
from tests.brought import save_still

STILLS = ("png", "jpg", "webp", "heic", "avif", "tiff", "jp2", "bmp", "gif")
VIDEOS = ("mp4", "mov", "mkv", "webm", "avi", "ts")


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A portrait and a driver that would do."""
    folder = tmp_path_factory.mktemp("good")
    Image.fromarray(photograph()).save(folder / "portrait.png")
    save_video(folder / "driver.mp4", moving_face(6), sound=True)
    return folder / "portrait.png", folder / "driver.mp4"


@pytest.fixture(scope="module")
def bad_references(tmp_path_factory):
    """Damaged, empty, tiny, huge and faceless pictures, and what is none: (file, word of the reason)."""
    folder, chance = tmp_path_factory.mktemp("references"), random.Random(1)
    bad = []
    for suffix in STILLS:
        whole = save_still(folder / f"whole.{suffix}", photograph()[:256, :256]).read_bytes()
        for name, data in (
            ("empty", b""),
            ("cut", whole[: len(whole) // 3]),
            ("half", whole[: len(whole) // 2]),
            ("head", whole[:24]),
            ("noise", whole[:12] + chance.randbytes(4000)),
        ):
            path = folder / f"{name}.{suffix}"
            path.write_bytes(data)
            bad.append((path, "empty" if name == "empty" else "damaged"))
        bad.append((save_still(folder / f"tiny.{suffix}", faceless(12, 8)), "pixels"))
        bad.append((save_still(folder / f"faceless.{suffix}", faceless()), "no face"))
    texts = {"page.html": b"<!doctype html><html>", "doc.pdf": b"%PDF-1.7", "archive.zip": b"PK\3\4", "note.txt": b"hi"}
    for name, data in texts.items():
        (folder / name).write_bytes(data + bytes(200))
        bad.append((folder / name, "neither"))
    huge = folder / "huge.bmp"
    huge.write_bytes(b"BM" + struct.pack("<IIIIiiHHIIiiII", 54, 0, 54, 40, 60000, 60000, 1, 24, 0, 0, 0, 0, 0, 0))
    bad += [(huge, "pixels"), (folder, "not a file"), (folder / "missing.png", "does not exist")]
    return bad


@pytest.fixture(scope="module")
def bad_drivers(tmp_path_factory):
    """Damaged, empty, silent-movie-less and faceless videos, and what is none: (file, word of the reason)."""
    folder, chance = tmp_path_factory.mktemp("drivers"), random.Random(2)
    source = save_video(folder / "source.mp4", moving_face(8))
    bad = []
    for suffix in VIDEOS:
        path = folder / f"whole.{suffix}"
        run_ffmpeg("-i", str(source), *(("-c:v", "libvpx") if suffix == "webm" else ()), str(path))
        whole = path.read_bytes()
        for name, data in (
            ("empty", b""),
            ("head", whole[:40]),
            ("noise", chance.randbytes(3000)),
            ("zeros", bytes(5000)),
        ):
            (folder / f"{name}.{suffix}").write_bytes(data)
            bad.append((folder / f"{name}.{suffix}", ""))
    bad.append((save_video(folder / "faceless.mp4", numbered(8)), "no face"))
    bad.append((save_video(folder / "black.mp4", [np.zeros((64, 64, 3), np.uint8)] * 4), "no face"))
    run_ffmpeg("-f", "lavfi", "-i", "sine=duration=1", str(folder / "sound.m4a"))
    bad.append((folder / "sound.m4a", "no video"))
    for suffix in STILLS[:-1]:
        bad.append((save_still(folder / f"plain.{suffix}", faceless()), "no face was found in the driver"))
    bad += [(folder, "not a file"), (folder / "missing.mp4", "does not exist")]
    return bad


def said_by(*command):
    """What the command, which fails, logs, line by line."""
    said = StringIO()
    handler = logging.StreamHandler(said)
    logging.getLogger("personalive").addHandler(handler)
    try:
        assert main([str(each) for each in command]) == 1
    finally:
        logging.getLogger("personalive").removeHandler(handler)
    return said.getvalue().splitlines()


def refused(reference, driver, output, word):
    """The command ends with one line that has this word in it."""
    (line,) = said_by("animate", "--ref_image", reference, "--driving_video", driver, "--output", output)
    assert word in line, line
    assert " object at 0x" not in line and "Traceback" not in line


@pytest.mark.slow
def test_bad_files_are_refused_by_name_before_a_model_is_needed(
    good, bad_references, bad_drivers, tmp_path, monkeypatch
):
    monkeypatch.setattr("personalive.weights.resolve", lambda *_, **__: pytest.fail("weights were asked for"))
    assert len(bad_references) + len(bad_drivers) >= 100
    before = sorted(path for path in tmp_path.rglob("*"))
    for path, word in bad_references:
        refused(path, good[1], tmp_path / "out.mp4", word)
    for path, word in bad_drivers:
        refused(good[0], path, tmp_path / "out.mp4", word)
    assert sorted(path for path in tmp_path.rglob("*")) == before, "nothing is left behind"


def test_bad_outputs_are_refused(good, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "there.mp4").write_text("")
    for output in ("out.avi", "file/out.mp4", "there.mp4", "."):
        refused(*good, tmp_path / output, "")
    refused(*good, good[1], "")


def test_pipes_and_devices_are_not_replaced(good, tmp_path):
    for name in ("pipe.mp4", "pipe.motion", "made.preview.png"):
        os.mkfifo(tmp_path / name)
    usual = ("animate", "--ref_image", good[0], "--driving_video", good[1], "--overwrite", "-o")
    for arguments, said in (
        ((tmp_path / "pipe.mp4",), "is a pipe or a device"),
        ((tmp_path / "made.mp4", "--save_motion", tmp_path / "pipe.motion"), "must be a file"),
        ((tmp_path / "made.mp4", "--preview", "2"), "made.preview.png is not a file"),
    ):
        (line,) = said_by(*usual, *arguments)
        assert said in line
    assert all(path.is_fifo() for path in tmp_path.iterdir()) and len(list(tmp_path.iterdir())) == 3


COMMANDS = [
    (["--driving_video", "ftp://host/a.mp4"], "ftp addresses"),
    (["--driving_video", r"C:\Users\me\a.mp4"], "/mnt/c"),
    (["--driving_video", "http://127.0.0.1:9/a.mp4"], "127.0.0.1"),
    (["--face", "nobody"], "face is 'nobody'"),
    (["--width", "300"], "width is 300"),
    (["--ref_image", ""], "the reference is empty"),
    (["--driving_video", ""], "the driving video is empty"),
    *((["--device", name], f"device is '{name}': it must be cpu, cuda") for name in ("meta", "cuda:x", "mps", "")),
]


@pytest.mark.parametrize(("arguments", "word"), COMMANDS)
def test_bad_commands_leave_one_line(tmp_path, arguments, word):
    line = said_by("animate", "-o", tmp_path / "out.mp4", *arguments)[-1]
    assert word in line and "Traceback" not in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", ["webp", "png", "avif"])
def test_an_animated_picture_that_cannot_drive_is_called_one(good, tmp_path, suffix):
    first, *rest = [Image.fromarray(each) for each in moving_face(3)]
    first.save(tmp_path / f"moving.{suffix}", save_all=True, append_images=rest, duration=40)
    refused(good[0], tmp_path / f"moving.{suffix}", tmp_path / "out.mp4", "animated picture")
