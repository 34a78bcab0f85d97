"""The animated crop in the whole portrait: nothing changes outside, no seam, and the head is never cut."""

import numpy as np
import pytest
import torch
from PIL import Image

from personalive.animate.job import animate
from personalive.animate.paste_back import PasteBack, soft_mask
from personalive.animate.plan import read_portrait
from personalive.cli import main as cli
from personalive.errors import InputError
from personalive.media.transform import moved, turned_back
from personalive.media.video_reader import probe, read_frames
from personalive.settings import AnimateOptions
from personalive.testing.pictures import photograph
from personalive.training.avatars import neutral, render, sample_identities
from personalive.training.shots import to_pixels

SIZE = 256, 256
PASTED = AnimateOptions(paste_back=True, audio=False)


def drawn(person, size, scale, x, y, yaw=0.0):
    """A drawn person somewhere in a picture."""
    pose = neutral(1).replace(
        scale=torch.tensor([scale]),
        translate_x=torch.tensor([x]),
        translate_y=torch.tensor([y]),
        yaw=torch.tensor([yaw]),
    )
    who = sample_identities(8, torch.Generator().manual_seed(105))[person : person + 1]
    return to_pixels(render(who, pose, size)[0])


def grain(picture, strength):
    """A picture with a photograph's noise."""
    noise = np.random.default_rng(0).normal(0, strength, (*picture.shape[:2], 1))
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


def found(tmp_path, picture, options=PASTED):
    path = tmp_path / "portrait.png"
    Image.fromarray(picture).save(path)
    return read_portrait(path, SIZE, options)


def crop_mask(pasting):
    """How much of the crop can be seen where in the whole picture."""
    mask = np.zeros(pasting.size[::-1], np.float32)
    mask[pasting._area] = pasting._mask
    return mask


def pasted(pasting, frame):
    ((result,),) = pasting.paste(frame[None])
    assert result.dtype == np.uint8
    return result


def as_a_model_shows(portrait, whole, seed=1):
    """The crop of another picture at the model's size: softer, in slightly other colours, and noisy."""
    left, top = portrait.place[:2, 2].astype(int)
    height, width = portrait.image.shape[:2]
    part = Image.fromarray(np.ascontiguousarray(whole[top : top + height, left : left + width]))
    small = np.asarray(part.resize(SIZE, Image.Resampling.BICUBIC)) + np.array([6.0, -5.0, 3.0])
    noise = np.random.default_rng(seed).normal(0, 1, small.shape)
    return np.clip(small + noise, 0, 255).astype(np.uint8)


def slope(picture):
    """Gradient of the brightness at every place, in levels a pixel."""
    return np.hypot(*np.gradient(picture.astype(float).mean(axis=2)))


@pytest.mark.parametrize(
    ("person", "place"),
    [
        (0, (0.4, -0.3, 0.05)),
        pytest.param(1, (0.45, 0.3, -0.2), marks=pytest.mark.slow),
        pytest.param(3, (0.5, -0.72, 0.25), marks=pytest.mark.slow),
        pytest.param(6, (0.4, 0, 0), marks=pytest.mark.slow),
    ],
)
@pytest.mark.slow
def test_a_head_that_turns_is_not_cut_and_has_no_seam(tmp_path, person, place):
    size = 700
    still = drawn(person, size, *place)
    picture = grain(still, 3)
    portrait = found(tmp_path, picture)
    pasting = PasteBack(portrait, as_a_model_shows(portrait, still))
    mask = crop_mask(pasting)
    assert 0.02 < (mask > 0).mean() < 0.7
    rim = (mask > 0) & (mask < 1)
    for yaw in (-20.0, 20.0):
        turned = drawn(person, size, *place, yaw)
        result = pasted(pasting, as_a_model_shows(portrait, turned, seed=2))
        assert np.array_equal(result[mask == 0], picture[mask == 0])
        differs = np.abs(turned.astype(int) - still).max(axis=2) > 12
        assert (mask[differs] == 1).all(), "hair, ears and neck are within the rim wherever the head turns"
        error = np.abs(result.astype(int) - turned).max(axis=2)
        assert error[differs].mean() < 15 and error[mask == 1].mean() < 12, "nothing stays of the head at rest"
        assert slope(result)[rim].mean() <= 1.2 * slope(picture)[rim].mean()
        assert np.abs((result.astype(int) - picture)[rim].mean(axis=0)).max() < 0.5, "colours are matched"
    assert differs.mean() > 0.01


@pytest.mark.parametrize("level", [70, 30])
@pytest.mark.slow
def test_what_a_model_draws_wrongly_is_not_shown_whether_it_moves_or_not(tmp_path, level):
    """Shoulders, for instance, that are narrower than they are."""
    picture = drawn(0, 700, 0.4, -0.3, 0.05)
    portrait = found(tmp_path, picture)
    rest, frame = (as_a_model_shows(portrait, drawn(0, 700, 0.4, -0.3, 0.05, yaw)) for yaw in (0.0, 15.0))
    rest[220:, 60:110], frame[220:, 60:110] = 30, level
    mistaken = np.abs(pasted(PasteBack(portrait, rest), frame).astype(int) - picture)
    left, top = portrait.place[:2, 2].astype(int)
    height, width = portrait.image.shape[:2]
    where = slice(top + height * 230 // 256, top + height * 250 // 256), slice(left + width // 4, left + width * 3 // 8)
    assert mistaken[where].max() < 4


def test_colours_are_matched_where_the_rim_rests_and_not_by_what_moves_there(tmp_path):
    picture = drawn(0, 600, 0.45, -0.3, 0.05)
    portrait = found(tmp_path, picture)
    frame = as_a_model_shows(portrait, picture)
    pasting = PasteBack(portrait, frame)
    plain = pasting._difference(frame)
    assert np.abs(plain[2, 128] - [-6, 5, -3]).max() < 1.5 and np.abs(plain[110:150, 110:150]).max() < 0.5
    moving = frame.copy()
    moving[100:140, :40] = 255 - moving[100:140, :40]  # as if an arm came in from the left
    assert np.abs(pasting._difference(moving) - plain)[:80].max() < 1


def test_a_side_at_the_pictures_border_does_not_fade(tmp_path):
    portrait = found(tmp_path, drawn(1, 700, 0.5, -0.72, 0.25)[:543, :699])
    mask = crop_mask(PasteBack(portrait, as_small(portrait)))
    assert mask.shape == (543, 699)
    assert (mask[300:500, 0] == 1).all() and mask[-1, 60] == 1, "left and lower border"
    assert mask[:, -1].max() == 0 and mask[0].max() == 0


def as_small(portrait):
    return np.asarray(Image.fromarray(portrait.image).resize(SIZE, Image.Resampling.LANCZOS))


@pytest.mark.parametrize("quarters", [1, *(pytest.param(each, marks=pytest.mark.slow) for each in (0, 2, 3))])
@pytest.mark.parametrize("degrees", [0, pytest.param(50, marks=pytest.mark.slow)])
def test_a_turned_portrait_comes_back_to_where_it_was(tmp_path, quarters, degrees):
    person = Image.fromarray(drawn(3, 700, 0.45, 0.1, 0.0))
    picture = np.asarray(person.rotate(degrees, Image.Resampling.BICUBIC, fillcolor=(120, 130, 140)))
    picture = np.ascontiguousarray(np.rot90(picture, quarters))
    portrait = found(tmp_path, picture)
    pasting = PasteBack(portrait, 255 - as_small(portrait))  # so that everything counts as moving
    result = pasted(pasting, as_small(portrait))
    error, mask = np.abs(result.astype(int) - picture), crop_mask(pasting)
    assert (error[mask == 0] == 0).all() and error[mask == 1].any()
    assert error.mean() < 1.5 and np.quantile(error, 0.999) < 80, "everything is where it was"


@pytest.mark.parametrize("crop", ["auto", *(pytest.param(each, marks=pytest.mark.slow) for each in ("center", "none"))])
@pytest.mark.slow
def test_large_portraits_keep_their_own_size(tmp_path, crop):
    picture = np.asarray(Image.fromarray(drawn(6, 600, 0.5, 0.2, 0.1)[:450]).resize((3001, 2251)))
    portrait = found(tmp_path, picture, PASTED.replace(crop=crop))
    assert max(portrait.image.shape) <= 2048 and portrait.whole.shape == picture.shape
    result = pasted(PasteBack(portrait, 255 - as_small(portrait)), as_small(portrait))
    assert result.shape == picture.shape
    assert np.abs(result.astype(int) - picture).mean() < 1.5


def test_the_ways_back_from_turns():
    picture = np.arange(6 * 9).reshape(6, 9)
    for quarters in range(4):
        turned = np.rot90(picture, quarters)
        for y, x in np.ndindex(turned.shape):
            column, row, _ = turned_back((9, 6), 90.0 * quarters) @ [x + 0.5, y + 0.5, 1]
            assert turned[y, x] == picture[int(row), int(column)]
    there = turned_back((9, 6), 30.0)
    assert np.allclose(there @ [4.5, 3, 1], [4.5, 3, 1]) and np.allclose(moved(2, 3) @ [1, 1, 1], [3, 4, 1])


def test_the_mask_is_smooth_and_whole():
    line = np.linspace(0, 1, 1001, dtype=np.float32)
    mask = soft_mask(line, np.full_like(line, 0.5), (0.1, 0.1, 0.2, 0.1))
    assert mask[0] == 0 and mask[-1] == 0 and (mask[100:800] == 1).all()
    assert np.abs(np.diff(mask)).max() < 0.02
    assert soft_mask(np.float32([1.01]), np.float32([0.5]), (0, 0, 0, 0)) == 0


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A photograph in a larger picture of odd sides, as a phone stores it: turned by its EXIF tag."""
    rng = np.random.default_rng(2)
    picture = np.clip(rng.normal(120, 12, (611, 803, 3)), 0, 255).astype(np.uint8)
    picture[60:572, 170:682] = photograph()
    stored = Image.fromarray(np.ascontiguousarray(np.rot90(picture)))
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path_factory.mktemp("scene") / "scene.png"
    stored.save(path, exif=exif.tobytes())
    return path, picture


def whole_mask(path):
    portrait = read_portrait(path, SIZE, PASTED)
    return crop_mask(PasteBack(portrait, as_small(portrait)))


@pytest.mark.slow
def test_numbered_pictures_are_equal_outside_and_animated_inside(small_model, scene, driver, tmp_path):
    path, picture = scene
    mask = whole_mask(path)
    assert 0.1 < (mask > 0).mean() < 0.9
    list(animate(small_model, path, driver, tmp_path / "%05d.png", PASTED.replace(max_frames=6)))
    frames = [np.asarray(Image.open(tmp_path / f"{number:05d}.png")) for number in range(1, 7)]
    for frame in frames:
        assert np.array_equal(frame[mask == 0], picture[mask == 0])
        assert np.abs(frame.astype(int) - picture)[mask == 1].mean() > 5, "this model draws something else"


@pytest.mark.parametrize("name", ["out.mp4", pytest.param("out.webm", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_videos_have_even_sides_and_are_equal_outside_as_far_as_encoders_are(
    small_model_folder, scene, driver, tmp_path, name
):
    path, picture = scene
    given = ["--ref_image", path, "--driving_video", driver, "--model", small_model_folder, "-L", 5]
    assert cli.main(["animate", *map(str, given), "--paste_back", "--quality", "10", "-o", str(tmp_path / name)]) == 0
    mask = whole_mask(path)
    mask, picture = mask[:610, :802], picture[:610, :802]
    for frame in read_frames(probe(tmp_path / name)):
        assert frame.shape == (610, 802, 3)
        grey = np.abs(frame.astype(int).mean(axis=2) - picture.mean(axis=2))[mask == 0]
        assert grey.mean() < 6 and np.abs(frame.astype(int) - picture)[mask == 1].mean() > grey.mean() + 5


@pytest.mark.slow
def test_keypoints_and_a_turned_driver_do_not_matter(small_model, scene, driver, tmp_path):
    options = PASTED.replace(face_boxes="keypoints", crop="center", max_frames=4)
    list(animate(small_model, scene[0], driver, tmp_path / "%05d.png", options))
    assert Image.open(tmp_path / "00001.png").size == (803, 611)


def test_what_does_not_go_together_is_refused():
    with pytest.raises(InputError, match="side_by_side is True: it must be left out with paste_back"):
        AnimateOptions(paste_back=True, side_by_side=True)
