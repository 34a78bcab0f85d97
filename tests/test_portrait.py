"""Portraits are turned upright or refused, small faces are found, and their owner is told what will not look well."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from personalive.errors import NoFaceError
from personalive.media.images import read_image
from personalive.media.portrait import PortraitFinder, find_portrait, sharpness
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
