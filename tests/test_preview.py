"""The preview: frames that are spread over the driver, in a picture beside the output, before the whole is computed."""

import itertools

import numpy as np
import pytest
from PIL import Image

from personalive.animate.job import animate
from personalive.animate.places import preview_path
from personalive.animate.preview import CAPTION, chosen_frames, contact_sheet
from personalive.errors import OutputError
from personalive.media.video_reader import probe, read_frames
from personalive.settings import AnimateOptions
from personalive.testing.pictures import faceless, moving_face, numbered, read_number, save_video


def until_previewed(work):
    """Run an animation up to its preview and stop it there."""
    for progress in work:
        assert progress.stage in ("reading", "previewing"), "nothing else has begun"
        if progress.stage == "previewing" and progress.message:
            work.close()
            return progress.message
    raise AssertionError("no preview")


def tiles(path, count, columns):
    with Image.open(path) as sheet:
        assert "Synthetic" in sheet.text["Comment"]
        picture = np.asarray(sheet.convert("RGB"))
    width, height = picture.shape[1] // columns, picture.shape[0] // -(-count // columns)
    places = itertools.islice(itertools.product(range(-(-count // columns)), range(columns)), count)
    return [picture[y * height : (y + 1) * height - CAPTION, x * width : (x + 1) * width] for y, x in places]


def test_a_preview_is_there_before_the_face_is_searched_for_and_stays_when_the_run_is_stopped(
    small_model, portrait, driver, tmp_path
):
    output = tmp_path / "new" / "talk.mp4"
    message = until_previewed(animate(small_model, portrait, driver, output, AnimateOptions(preview=5)))
    assert str(preview_path(output)) in message
    assert [path.name for path in output.parent.iterdir()] == ["talk.preview.png"]
    shown = tiles(preview_path(output), 5, 3)
    assert all(tile.shape == (256, 256, 3) and tile.std() > 5 for tile in shown)


@pytest.mark.parametrize(
    "more",
    [
        pytest.param({"motion": "relative"}, marks=pytest.mark.slow),
        {"motion": "relative", "neutral_frame": 7, "smooth": 0.8},
        pytest.param({"crop": "center", "face_boxes": "keypoints"}, marks=pytest.mark.slow),
        pytest.param({"crop": "auto", "face_boxes": "keypoints", "motion": "relative"}, marks=pytest.mark.slow),
        pytest.param({"start": 0.2, "fps": 10}, marks=pytest.mark.slow),
    ],
)
def test_with_other_choices(small_model, portrait, driver, tmp_path, more):
    output = tmp_path / "talk.mp4"
    until_previewed(animate(small_model, portrait, driver, output, AnimateOptions(preview=2, **more)))
    assert len(tiles(preview_path(output), 2, 2)) == 2


def test_an_existing_preview_is_kept_unless_told_otherwise(small_model, portrait, driver, tmp_path):
    output = tmp_path / "talk.gif"
    preview_path(output).write_text("precious")
    with pytest.raises(OutputError, match=r"talk\.preview\.png already exists"):
        animate(small_model, portrait, driver, output, AnimateOptions(preview=2))
    assert preview_path(output).read_text() == "precious"
    until_previewed(animate(small_model, portrait, driver, output, AnimateOptions(preview=2, overwrite=True)))
    assert len(tiles(preview_path(output), 2, 2)) == 2


def test_frames_without_a_face_are_left_out(small_model, portrait, tmp_path):
    pictures = [faceless(256, 256)] * 4 + moving_face(4)
    driver = save_video(tmp_path / "late.mp4", pictures)
    output = tmp_path / "talk.mp4"
    until_previewed(animate(small_model, portrait, driver, output, AnimateOptions(preview=4)))
    assert len(tiles(preview_path(output), 2, 2)) == 2
    nobody = save_video(tmp_path / "nobody.mp4", [*pictures[:4], *pictures[4:], *[faceless(256, 256)] * 8])
    options = AnimateOptions(preview=2, overwrite=True)
    assert "no preview" in until_previewed(animate(small_model, portrait, nobody, tmp_path / "b.mp4", options))


def test_which_frames_are_chosen():
    assert chosen_frames(101, 5) == [0, 25, 50, 75, 100]
    assert chosen_frames(3, 16) == [0, 1, 2] and chosen_frames(1, 4) == [0] and chosen_frames(9, 1) == [4]


def test_a_sheet_holds_every_picture_with_its_time():
    pictures = numbered(7, 1024, 512)
    sheet = np.asarray(contact_sheet(pictures, [f"{n} s" for n in range(7)]))
    assert sheet.shape == (3 * (256 + CAPTION), 3 * 512, 3)
    found = [sheet[y * 280 : y * 280 + 256, x * 512 : (x + 1) * 512] for y in range(3) for x in range(3)]
    assert [read_number(tile) for tile in found[:7]] == list(range(7))
    assert (sheet[2 * 280 :, 512:] == 255).all() and sheet[256:280, :512].min() < 128


@pytest.mark.parametrize("name", ["gaps.mp4", "gaps.webm", "gaps.mkv"])
def test_frames_far_into_a_video_are_found_by_its_index(tmp_path, name):
    codec = ("-c:v", "libvpx-vp9", "-cpu-used", "8") if name.endswith("webm") else ("-c:v", "libx264", "-g", "40")
    pictures = numbered(240, 96, 64)
    path = save_video(tmp_path / name, pictures, options=(*codec, "-pix_fmt", "yuv420p"))
    info = probe(path)
    assert info.seekable
    every = list(read_frames(info))
    for skip in (99, 105, 130, 200, 239):
        rest = list(read_frames(info, None, skip))
        assert len(rest) == 240 - skip
        assert all(np.array_equal(a, b) for a, b in zip(rest, every[skip:], strict=True))
