"""Portraits of every kind are read upright and as RGB; what is not a picture is refused with a reason."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from personalive.errors import InputError
from personalive.media.images import MAX_SIDE, is_image, read_image
from personalive.testing.pictures import photograph


def quarters():
    """Red, green, blue and white quarters: so it shows which way is up."""
    picture = np.zeros((64, 96, 3), np.uint8)
    picture[:32, :48], picture[:32, 48:], picture[32:, :48], picture[32:, 48:] = (
        (255, 0, 0),
        (0, 255, 0),
        (0, 0, 255),
        (255, 255, 255),
    )
    return picture


@pytest.mark.parametrize(("suffix", "tolerance"), [("png", 0), ("jpg", 12), ("webp", 12), ("bmp", 0)])
def test_formats(tmp_path, suffix, tolerance):
    path = tmp_path / f"picture.{suffix}"
    Image.fromarray(photograph()).save(path, quality=97)
    assert is_image(path)
    picture = read_image(path)
    assert picture.shape == (512, 512, 3) and picture.dtype == np.uint8
    assert np.abs(picture.astype(int) - photograph()).mean() <= tolerance


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "1", "CMYK", "I;16"])
def test_modes_become_rgb(tmp_path, mode):
    path = tmp_path / ("picture.jpg" if mode == "CMYK" else "picture.png")
    source = Image.fromarray(photograph())
    if mode == "I;16":
        Image.fromarray(np.asarray(source.convert("L")).astype(np.uint16) * 257).save(path)
    else:
        converted = {"LA": lambda: source.convert("L").convert("LA"), "P": lambda: source.quantize(256)}
        converted.get(mode, lambda: source.convert(mode))().save(path)
    picture = read_image(path)
    expected = np.asarray(source if mode in ("RGBA", "P", "CMYK") else source.convert("L").convert("RGB"))
    assert picture.shape == (512, 512, 3)
    if mode != "1":
        assert np.abs(picture.astype(int) - expected).mean() < 12
    assert np.abs(picture.astype(int).mean() - expected.mean()) < 12


def test_transparent_parts_become_white_whatever_colour_hides_there(tmp_path):
    layer = np.zeros((64, 64, 4), np.uint8)
    layer[16:48, 16:48] = (200, 100, 50, 255)
    layer[:8, :8] = (0, 0, 0, 128)
    Image.fromarray(layer).save(tmp_path / "cut-out.png")
    picture = read_image(tmp_path / "cut-out.png")
    assert picture[60, 60].tolist() == [255, 255, 255]
    assert picture[32, 32].tolist() == [200, 100, 50]
    assert abs(int(picture[4, 4, 0]) - 127) <= 1


def test_palette_with_a_transparent_colour(tmp_path):
    image = Image.fromarray(quarters()).quantize(8)
    image.save(tmp_path / "palette.png", transparency=image.getpixel((2, 2)))
    picture = read_image(tmp_path / "palette.png")
    assert picture[5, 5].tolist() == [255, 255, 255]
    assert picture[5, 60].tolist() == [0, 255, 0]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_camera_orientation_is_applied(tmp_path, orientation):
    turn = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    stored = Image.fromarray(quarters())
    stored = stored if turn is None else stored.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "turned.jpg", exif=exif, quality=95, subsampling=0)
    assert np.abs(read_image(tmp_path / "turned.jpg").astype(int) - quarters()).mean() < 4


@pytest.mark.parametrize(("suffix", "size"), [("jpg", (7680, 4320)), ("png", (4320, 7680))])
def test_8k_is_scaled(tmp_path, suffix, size):
    path = tmp_path / f"large.{suffix}"
    Image.fromarray(quarters()).resize(size, Image.Resampling.NEAREST).save(path)
    height, width, _ = read_image(path).shape
    assert max(width, height) == MAX_SIDE
    assert width / height == pytest.approx(size[0] / size[1], rel=0.01)


def png_header(width, height):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100_000))


@pytest.mark.parametrize("size", [(40_000, 40_000), (12_000, 8_000), (80_000, 2_000)])
def test_image_bomb_is_refused_by_its_header(tmp_path, size):
    (tmp_path / "bomb.png").write_bytes(png_header(*size))
    with pytest.raises(InputError, match=r"pixels.*scale it down"):
        read_image(tmp_path / "bomb.png")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "does not exist"),
        (b"", "empty"),
        (b"hello, this is no picture", "not a picture"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
        (png_header(300, 300), "damaged"),
    ],
)
def test_what_is_no_picture_is_refused(tmp_path, content, reason):
    path = tmp_path / "picture.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=reason):
        read_image(path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_truncated_picture_is_refused(tmp_path, suffix):
    Image.fromarray(photograph()).save(tmp_path / f"whole.{suffix}")
    path = tmp_path / f"half.{suffix}"
    path.write_bytes((tmp_path / f"whole.{suffix}").read_bytes()[:-5000])
    with pytest.raises(InputError, match=r"damaged|not a picture"):
        read_image(path)


def test_folder_tiny_picture_and_impossible_names(tmp_path):
    with pytest.raises(InputError, match="not a file"):
        read_image(tmp_path)
    Image.new("RGB", (5, 900)).save(tmp_path / "thin.png")
    with pytest.raises(InputError, match="5x900"):
        read_image(tmp_path / "thin.png")
    for name in ("a\0b", "x" * 5000):
        with pytest.raises(InputError):
            read_image(tmp_path / name)


@pytest.mark.parametrize("tags", [{254: 1}, {50706: b"\1\4\0\0"}])
def test_the_preview_in_a_raw_file_is_not_taken_for_the_picture(tmp_path, tags):
    Image.new("RGB", (160, 120), "green").save(tmp_path / "photo.dng", "TIFF", tiffinfo=tags)
    with pytest.raises(InputError, match=r"raw file.*export a JPEG"):
        read_image(tmp_path / "photo.dng")
