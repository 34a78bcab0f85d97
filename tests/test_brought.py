"""What people bring is seen as its owner sees it: stills, colours, display matrices, clocks."""

import itertools
import logging
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from personalive.media.images import is_image, read_image
from personalive.media.video_reader import probe, read_frames
from personalive.testing.pictures import numbered, read_number, save_video
from tests import brought

CASES = Path(__file__).parents[2] / "shared" / "cases"


def difference(a, b):
    """Mean absolute difference in levels."""
    return np.abs(np.asarray(a, float) - np.asarray(b, float)).mean()


@pytest.mark.parametrize(
    ("suffix", "tolerance"), [("heic", 2), ("avif", 2), ("tiff", 0), ("jp2", 0), ("gif", 12), ("bmp", 0), ("webp", 2)]
)
def test_stills(tmp_path, suffix, tolerance):
    picture = brought.colours(300, 180)
    path = brought.save_still(tmp_path / f"still.{suffix}", picture)
    assert is_image(path)
    assert difference(read_image(path), picture) <= tolerance


@pytest.mark.parametrize("suffix", ["png", "heic", "tiff", "jpg", "avif"])
def test_a_profile_is_converted(tmp_path, suffix):
    picture = brought.colours(200, 120)
    wide = brought.in_p3(picture)
    assert difference(wide, picture) > 4, "else this test could not fail"
    path = brought.save_still(tmp_path / f"p3.{suffix}", wide, profile=brought.p3_profile())
    assert difference(read_image(path), picture) <= 2


def test_a_profile_and_transparency(tmp_path):
    picture = brought.colours(200, 120)
    layer = Image.fromarray(brought.in_p3(picture)).convert("RGBA")
    layer.putalpha(Image.linear_gradient("L").resize(layer.size))
    layer.save(tmp_path / "both.png", icc_profile=brought.p3_profile())
    shown = read_image(tmp_path / "both.png")
    assert difference(shown[-4:], picture[-4:]) <= 3, "nearly opaque: the picture"
    assert shown[:2].min() >= 250, "transparent: white"


@pytest.mark.parametrize("profile", [b"not a profile", brought.p3_profile()[:150]])
def test_a_damaged_profile_is_ignored(tmp_path, profile):
    picture = brought.colours(80, 60)
    path = brought.save_still(tmp_path / "odd.png", picture, profile=profile)
    assert difference(read_image(path), picture) == 0


def test_malformed_exif_does_not_spoil_a_picture(tmp_path):
    picture = brought.colours(80, 60)
    Image.fromarray(picture).save(tmp_path / "odd.png", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12" * 40)
    assert difference(read_image(tmp_path / "odd.png"), picture) == 0


def test_deep_greys_are_not_clipped(tmp_path):
    deep = np.linspace(0, 65535, 200 * 100).reshape(100, 200)
    expected = np.broadcast_to((deep / 257)[:, :, None], (100, 200, 3))
    Image.fromarray(deep.astype(np.uint16)).save(tmp_path / "deep.png")
    Image.fromarray(deep.astype(np.uint16)).save(tmp_path / "deep.tiff")
    Image.fromarray((deep / 65535).astype(np.float32)).save(tmp_path / "fractions.tiff")
    for name in ("deep.png", "deep.tiff", "fractions.tiff"):
        assert difference(read_image(tmp_path / name), expected) <= 1, name


@pytest.mark.parametrize(
    ("turn", "mirrored", "flipped"), [*itertools.product((0, 90, 180, 270), (False, True), (False, True))]
)
def test_every_display_matrix(tmp_path, turn, mirrored, flipped):
    picture = brought.colours(160, 96)
    source = save_video(tmp_path / "source.mp4", [picture] * 2)
    path = brought.save_turned(tmp_path / "turned.mp4", source, turn, mirrored, flipped)
    # ffmpeg turns counter-clockwise by the angle given, then mirrors.
    shown = np.rot90(picture, turn // 90)
    shown = shown[:, ::-1] if mirrored else shown
    shown = shown[::-1] if flipped else shown
    info = probe(path)
    assert (info.height, info.width) == shown.shape[:2]
    assert difference(next(read_frames(info)), shown) < 6


@pytest.mark.parametrize("transfer", ["arib-std-b67", "smpte2084"])
def test_high_dynamic_range_is_shown_as_sdr(tmp_path, transfer):
    frames = brought.moving_colours(4, 192, 128)
    shown = list(read_frames(probe(brought.save_hdr(tmp_path / "hdr.mov", frames, transfer))))
    assert difference(shown, frames) < 6


@pytest.mark.parametrize(("matrix", "color_range"), [*itertools.product(("bt601", "bt709", "bt2020"), ("tv", "pc"))])
def test_matrix_and_range_are_taken_as_tagged(tmp_path, matrix, color_range):
    frames = brought.moving_colours(3, 160, 96)
    path = brought.save_tagged(tmp_path / "tagged.mp4", frames, matrix, color_range)
    assert difference(list(read_frames(probe(path))), frames) < 2.5


@pytest.mark.parametrize(("height", "matrix"), [(480, "bt601"), (720, "bt709")])
def test_untagged_colours_are_taken_as_players_take_them(tmp_path, height, matrix):
    picture = brought.colours(height * 4 // 3, height)
    options = ("-vf", f"scale=out_color_matrix={matrix},format=yuv444p", "-c:v", "libx264", "-preset", "ultrafast")
    path = save_video(tmp_path / "untagged.mp4", [picture], options=(*options, "-crf", "8"))
    assert difference(next(read_frames(probe(path))), picture) < 2.5


def test_interlaced_video_is_deinterlaced(tmp_path):
    """A hard edge that moves fast has teeth where fields of two moments are shown in one frame."""
    frames = []
    for index in range(24):
        picture = np.full((128, 160, 3), 30, np.uint8)
        picture[:, 6 * index : 6 * index + 12] = 220
        frames.append(picture)
    info = probe(brought.save_interlaced(tmp_path / "fields.mpg", frames))
    shown = list(read_frames(info))
    assert info.rate == 25 and len(shown) == 12
    teeth = [np.abs(np.diff(image[8:-8].astype(float), axis=0)).mean() for image in shown[1:-1]]
    assert max(teeth) < 6, "the woven frames have 20 and more"


@pytest.mark.parametrize("rate", [1000, 120, 8])
def test_a_browser_s_recording_has_the_rate_of_its_time_stamps(tmp_path, rate):
    generator = np.random.default_rng(4)
    times = np.cumsum(generator.choice([17, 33, 50], size=60)).tolist()
    path = brought.save_without_rate(tmp_path / "recorded.webm", numbered(60), times, rate)
    info = probe(path)
    length = (times[-1] - times[0]) / 1000
    assert float(info.rate) == pytest.approx(59 / length, rel=0.05)
    assert float(info.duration) == pytest.approx(length, abs=0.15)
    assert abs(sum(1 for _ in read_frames(info)) - 60) <= 2


def test_joined_recordings_lose_no_frame(tmp_path, caplog):
    pictures = numbered(45)
    path = brought.save_joined(tmp_path / "joined.ts", [pictures[:25], pictures[25:]])
    with caplog.at_level(logging.WARNING):
        info = probe(path)
    assert "restart 1 time(s)" in caplog.text
    assert [read_number(frame) for frame in read_frames(info)] == list(range(45))
    assert info.duration == pytest.approx(Fraction(45, 25), abs=0.05)


def test_a_video_whose_size_changes_keeps_the_shape_of_what_it_shows(tmp_path):
    """As when a phone is turned, or a window resized, while it records."""
    picture = brought.colours(200, 200)
    wide = np.full((200, 300, 3), 128, np.uint8)
    wide[:, 50:250] = picture
    parts = [save_video(tmp_path / f"{n}.ts", [each] * 5, 25) for n, each in enumerate((picture, wide))]
    (tmp_path / "both.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    first, *_, last = read_frames(probe(tmp_path / "both.ts"))
    assert first.shape == last.shape == (200, 200, 3) and difference(first, picture) < 6
    small = np.asarray(Image.fromarray(picture).resize((133, 133), Image.Resampling.BOX))
    assert difference(last[34:166, 34:166], small[:132, :132]) < 8 and last[:30].max() < 30


@pytest.mark.skipif(not CASES.is_dir(), reason="the files of ../shared/cases are not here")
def test_the_cases_of_stills_and_clocks():
    portrait = read_image(Path(__file__).parents[1] / "demo" / "portrait.png")
    for name, tolerance in (("iphone_grid2x2.heic", 2), ("p3.png", 2), ("tiff.tif", 0)):
        assert difference(read_image(CASES / name), portrait) <= tolerance, name
    counts = {"phone_rot270.mp4": 40, "mediarec_vfr.webm": 74, "anamorphic.mp4": 25}
    assert {name: sum(1 for _ in read_frames(probe(CASES / name))) for name in counts} == counts
    browser = probe(CASES / "chrome_1000fps.webm")
    assert abs(sum(1 for _ in read_frames(browser)) - 50) <= 2 and 26 < browser.rate < 30
    hlg, sdr = (list(read_frames(probe(CASES / name))) for name in ("iphone_hlg.mov", "sdr_same.mp4"))
    assert difference(hlg, sdr) < 6
