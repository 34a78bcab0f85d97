"""Pictures and videos for tests: drawn here, or the public-domain photograph that scikit-image carries."""

import subprocess
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import numpy.typing as npt
from PIL import Image

from personalive.types import RGBArray


def photograph() -> RGBArray:
    """A woman's face and shoulders, 512x512."""
    from skimage import data  # a package of requirements-dev.txt, which only this picture needs

    return np.asarray(data.astronaut())


def faceless(width: int = 320, height: int = 240) -> RGBArray:
    """Colour gradients without a face."""
    y, x = np.mgrid[0:height, 0:width]
    picture: RGBArray = np.stack((x * 255 // width, y * 255 // height, np.full_like(x, 90)), axis=2).astype(np.uint8)
    return picture


def moving_face(frames: int, step: float = 2.0) -> list[RGBArray]:
    """The photographed face on a grey ground, 256x256 pixels, moving right by `step` pixels a frame."""
    size = 256
    face = np.asarray(Image.fromarray(photograph()[20:260, 105:345]).resize((size * 3 // 5, size * 3 // 5)))
    pictures = []
    for index in range(frames):
        picture = np.full((size, size, 3), 120, np.uint8)
        left = min(size - len(face), round(size // 10 + step * index))
        picture[size // 5 : size // 5 + len(face), left : left + len(face)] = face
        pictures.append(picture)
    return pictures


def numbered(frames: int, width: int = 320, height: int = 240) -> list[RGBArray]:
    """Frames that can be told apart after compression: frame n has 8 stripes of black and white, n in binary."""
    pictures = []
    for index in range(frames):
        bits = [(index >> bit) & 1 for bit in range(8)]
        row = np.repeat(np.array(bits, np.uint8) * 215 + 20, -(-width // 8))[:width]
        pictures.append(np.broadcast_to(row[None, :, None], (height, width, 3)).copy())
    return pictures


def read_number(picture: npt.NDArray[np.uint8]) -> int:
    """The number of a frame from `numbered`, also when it was scaled."""
    width = picture.shape[1]
    middle = picture[picture.shape[0] // 2, :, 1]
    return sum(int(middle[int((bit + 0.5) * width / 8)] > 127) << bit for bit in range(8))


def save_video(
    path: Path,
    pictures: Iterable[RGBArray],
    rate: Fraction | int = 25,
    *,
    sound: bool = False,
    options: tuple[str, ...] = ("-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p"),
) -> Path:
    """Encode pictures of one size with ffmpeg; `sound` adds a tone of the same length."""
    pictures = list(pictures)
    height, width = pictures[0].shape[:2]
    tone = ("-f", "lavfi", "-i", f"sine=frequency=440:duration={float(len(pictures) / Fraction(rate))}")
    run_ffmpeg(
        *("-f", "rawvideo", "-pix_fmt", "rgb24", "-video_size", f"{width}x{height}", "-framerate", str(rate)),
        *("-i", "pipe:0", *(tone if sound else ()), *options, str(path)),
        data=b"".join(picture.tobytes() for picture in pictures),
    )
    return path


def run_ffmpeg(*arguments: str, data: bytes = b"") -> None:
    """Run ffmpeg.

    Raises:
        RuntimeError: it failed; the message is its own.
    """
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-loglevel", "error", "-y", *arguments]
    result = subprocess.run(command, input=data, capture_output=True)
    if result.returncode:
        raise RuntimeError(result.stderr.decode())


def save_image(path: Path, picture: RGBArray) -> Path:
    """Save a picture in the format that the name says."""
    Image.fromarray(picture).save(path)
    return path
