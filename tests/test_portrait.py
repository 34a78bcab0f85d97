"""Portraits are turned upright or refused, small faces are found, and their owner is told what will not look well."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from personalive.animate.plan import read_portrait
from personalive.errors import FaceTooSmallError, InputError, NoFaceError
from personalive.media.images import read_image
from personalive.media.portrait import PortraitFinder, find_portrait, sharpness
from personalive.settings import AnimateOptions
from personalive.testing.pictures import faceless, photograph
from tests.test_brought import CASES

SHAPE = (256, 256)
needs_cases = pytest.mark.skipif(not CASES.is_dir(), reason="the files of ../shared/cases are not here")


@pytest.fixture(scope="module")
def finder():
    with PortraitFinder() as made:
        yield made


def drawn():
    return read_image(Path(__file__).parents[1] / "demo" / "portrait.png")


def same(a, b):
    """Whether two crops show the same, to a few pixels."""
    small = [np.asarray(Image.fromarray(each).resize((64, 64)), float) for each in (a, b)]
    return np.abs(small[0] - small[1]).mean() < 12


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_portrait_that_lies_or_hangs_is_turned_upright(finder, quarters):
    upright = finder.find(photograph(), SHAPE, "auto")
    turned = finder.find(np.ascontiguousarray(np.rot90(photograph(), quarters)), SHAPE, "auto")
    assert upright.remarks == ()
    assert "turned" in " ".join(turned.remarks)
    assert same(upright.image, turned.image)


@pytest.mark.parametrize("degrees", [50, -60, 130])
def test_a_tilted_head_is_levelled(finder, degrees):
    upright = finder.find(photograph(), SHAPE, "auto")
    tilted = np.asarray(Image.fromarray(photograph()).rotate(degrees))
    found = finder.find(tilted, SHAPE, "auto")
    assert found.remarks and abs(finder._tracker.detect(found.image)[0].roll) < 40
    assert upright.image.shape[0] * 0.6 < found.image.shape[0] < upright.image.shape[0] * 1.6


def test_a_slightly_tilted_head_stays_as_it_is(finder):
    found = finder.find(np.asarray(Image.fromarray(photograph()).rotate(15)), SHAPE, "auto")
    assert found.remarks == ()


def test_a_small_face_in_a_large_picture_is_found_and_cropped(finder):
    large = np.full((900, 1600, 3), 90, np.uint8)
    face = np.asarray(Image.fromarray(photograph()[20:260, 105:345]).resize((140, 140)))
    large[120:260, 1300:1440] = face
    found = finder.find(large, SHAPE, "auto")
    assert found.image.shape[0] < 400
    assert found.box[2] - found.box[0] > found.image.shape[1] / 5


@pytest.mark.parametrize("size", [(1280, 720), (2048, 1536)])
@pytest.mark.parametrize("side", [24, 36, 52, 80, 140])
def test_a_small_face_is_found_upright_or_refused_with_its_size(finder, size, side):
    """The face of `photograph` is 114 pixels wide, in its middle."""
    background = np.random.default_rng(side).integers(0, 255, (size[1] // 24, size[0] // 24, 3), dtype=np.uint8)
    scene = Image.fromarray(background).resize(size, Image.Resampling.BICUBIC)
    face = Image.fromarray(photograph()).resize((round(512 * side / 114),) * 2, Image.Resampling.LANCZOS)
    scene.paste(face, (round(size[0] * 0.4), round(size[1] * 0.15)))
    if side < 30:
        with pytest.raises(FaceTooSmallError, match=r"face too small: (\d+) pixels of the 32") as told:
            finder.find(np.asarray(scene), SHAPE, "auto")
        assert int(re.search(r"\d+", str(told.value))[0]) == pytest.approx(side, rel=0.2)
        return
    found = finder.find(np.asarray(scene), SHAPE, "auto")
    assert "turned" not in " ".join(found.remarks)
    assert found.box[2] - found.box[0] == pytest.approx(side, rel=0.2)
    assert ("small" in " ".join(found.remarks)) == (side < 60)


def test_a_face_keeps_all_its_pixels_however_large_the_picture(tmp_path):
    scene = Image.new("RGB", (5000, 3600), (90, 110, 100))
    scene.paste(Image.fromarray(photograph()).resize((700, 700), Image.Resampling.LANCZOS), (3300, 900))
    scene.save(tmp_path / "group.jpg", quality=95)
    portrait = read_portrait(tmp_path / "group.jpg", SHAPE, AnimateOptions())
    assert portrait.box[2] - portrait.box[0] == pytest.approx(114 * 700 / 512, rel=0.1) and portrait.remarks == ()


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "avif"])
def test_an_animation_whose_first_picture_shows_no_one(tmp_path, suffix):
    shown = [np.zeros((512, 512, 3), np.uint8), faceless(512, 512), np.full((512, 512, 3), 255, np.uint8), photograph()]
    first, *rest = [Image.fromarray(each) for each in shown]
    path = tmp_path / f"moving.{suffix}"
    first.save(path, save_all=True, append_images=rest, duration=100)
    portrait = read_portrait(path, SHAPE, AnimateOptions())
    assert "picture 4 of its file" in portrait.remarks[0]
    assert same(portrait.image, find_portrait([photograph()], SHAPE, "auto", "largest", "it").image)
    whole = read_portrait(path, SHAPE, AnimateOptions(face_boxes="keypoints", crop="none"))
    assert "picture 2 of its file" in whole.remarks[0], "without a search for faces: the first that is not blank"


def test_an_animation_that_breaks_off_before_a_face_is_refused(tmp_path):
    first = Image.fromarray(faceless(512, 512))
    first.save(tmp_path / "cut.gif", save_all=True, append_images=[Image.fromarray(photograph())], duration=100)
    data = (tmp_path / "cut.gif").read_bytes()
    (tmp_path / "cut.gif").write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(InputError, match=r"cut\.gif"):
        read_portrait(tmp_path / "cut.gif", SHAPE, AnimateOptions())


def test_what_will_not_look_well_is_said(finder):
    tiny = np.full((256, 256, 3), 90, np.uint8)
    tiny[60:140, 60:140] = np.asarray(Image.fromarray(photograph()[20:260, 105:345]).resize((80, 80)))
    assert "small" in " ".join(finder.find(tiny, SHAPE, "auto").remarks)
    blurred = np.asarray(Image.fromarray(photograph()).filter(ImageFilter.GaussianBlur(4)))
    assert "blurred" in " ".join(finder.find(blurred, SHAPE, "auto").remarks)


def test_blur_lowers_sharpness():
    box = (150, 50, 300, 200)
    blurred = [Image.fromarray(photograph()).filter(ImageFilter.GaussianBlur(radius)) for radius in range(5)]
    values = [sharpness(np.asarray(image), box) for image in blurred]
    assert values == sorted(values, reverse=True)


@pytest.mark.parametrize(
    ("which", "left"), [("left", True), ("right", False), ("1", True), ("2", False), ("largest", False)]
)
def test_which_of_two_faces(which, left):
    both = np.full((300, 700, 3), 120, np.uint8)
    face = Image.fromarray(photograph()[20:260, 105:345])
    both[60:260, 40:240] = np.asarray(face.resize((200, 200)))
    both[30:270, 400:640] = np.asarray(face)
    with PortraitFinder(which) as chosen:
        found = chosen.find(both, SHAPE, "auto")
    other = np.asarray(face.resize((200, 200)) if left else face)
    assert ("number 1" if left else "number 2") in " ".join(found.remarks)
    assert found.image.shape[0] <= max(300, other.shape[0])


@pytest.mark.parametrize(
    ("count", "said"),
    [(1, "face is 9, but the portrait shows one face"), (2, "face is 9, but the portrait shows 2 faces")],
)
def test_a_number_that_no_face_has_is_said(count, said):
    picture = np.full((300, 700, 3), 120, np.uint8)
    for left in (40, 400)[:count]:
        picture[30:270, left : left + 240] = photograph()[20:260, 105:345]
    with PortraitFinder("9") as chosen:
        assert said in " ".join(chosen.find(picture, SHAPE, "auto").remarks)


def test_a_picture_without_a_face_is_refused_by_name():
    with pytest.raises(NoFaceError, match=r"the reference x\.png"):
        find_portrait([faceless()], SHAPE, "auto", "largest", "the reference x.png")


@needs_cases
def test_the_cases_of_portraits(finder):
    portrait = finder.find(drawn(), SHAPE, "auto")
    upside = finder.find(read_image(CASES / "upside.png"), SHAPE, "auto")
    assert "half a turn" in upside.remarks[0] and same(portrait.image, upside.image)
    small = finder.find(read_image(CASES / "small_face.png"), SHAPE, "auto")
    assert small.image.shape[0] < 400
    assert "2 faces" in finder.find(read_image(CASES / "two_faces.png"), SHAPE, "auto").remarks[0]
