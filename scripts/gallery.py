"""Makes README's gallery: what the options do, on drawn people, with the demo model.

python -m scripts.gallery [name ...]
"""

import dataclasses
import itertools
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from personalive import AnimateOptions, PersonaLive, animate
from personalive.animate.places import preview_path
from personalive.assets import DEMO_DRIVER, DEMO_PORTRAIT
from personalive.media.encoding import FRAMES_NAME
from personalive.media.images import resize
from personalive.media.video_reader import probe, read_frames
from personalive.training.avatars import Identity, Motion, neutral, render, sample_identities
from personalive.training.avatars.motion import FRAME_RATE
from personalive.training.demo_assets import pictures, write_video
from personalive.training.evaluate import HELD_OUT
from personalive.training.shots import to_pixels
from personalive.types import RGBArray

FOLDER = Path(__file__).parents[1] / "docs" / "images" / "gallery"
FRAMES = 48
EVERY = 2
"""Computed frames for each one that is shown."""
SIDE = 192
"""Pixels of a panel."""
QUALITY = 55
COUNT, PEOPLE = 3, HELD_OUT + 5
"""How many people are drawn for it, and the seed."""


def laugh(frames: int) -> Motion:
    """A track `[1, frames]` that begins in the middle of a laugh, and ends with a closed mouth and the head turning."""
    time = torch.linspace(0, 1, frames)[None]
    gone = ((time - 0.15) / 0.3).clamp(0, 1)
    laughing = 1 - gone * gone * (3 - 2 * gone)
    rest = neutral(1)
    still = Motion(
        **{each.name: getattr(rest, each.name)[:, None].expand(1, frames) for each in dataclasses.fields(rest)}
    )
    shake = 0.12 * torch.sin(40 * time) * laughing
    turn = torch.sin(2 * torch.pi * time)
    return still.replace(
        mouth_open=(laughing * 0.9 + shake).clamp(0, 1), smile=laughing, mouth_wide=0.6 * laughing, yaw=14 * turn
    )


def person(index: int, size: int, scale: float = 1.0, x: float = 0.0, y: float = 0.0) -> RGBArray:
    """A drawn person who rests, somewhere in a picture."""
    place = {"scale": scale, "translate_x": x, "translate_y": y, "smile": 0.3}
    pose = neutral(1).replace(**{name: torch.tensor([value]) for name, value in place.items()})
    return to_pixels(render(people()[index : index + 1], pose, size)[0])


def people() -> Identity:
    """Whom training did not draw."""
    return sample_identities(COUNT, torch.Generator().manual_seed(PEOPLE))


class Gallery:
    """Draws the pictures, in a folder for what is needed on the way."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._model = PersonaLive.from_pretrained("demo")

    def strengths(self) -> None:
        """The driver; everything; only the expression; only the pose."""
        portrait, full = self._folder / "person.png", AnimateOptions(seed=7)
        Image.fromarray(person(0, 256)).save(portrait)
        kinds = full, full.replace(pose_strength=0.0), full.replace(expression_strength=0.0)
        panels = [self._animated(portrait, DEMO_DRIVER, options) for options in kinds]
        _save("strengths.webp", _beside(self._driver(DEMO_DRIVER), *panels))

    def relative(self) -> None:
        """A driver who begins with a laugh; relative motion, from the frame that is found and from the first."""
        portrait, driver = self._folder / "calm.png", self._folder / "laugh.mp4"
        Image.fromarray(person(1, 512)).save(portrait)
        write_video(driver, pictures(people()[2:3], laugh(FRAMES), 256))
        found = self._animated(portrait, driver, AnimateOptions(motion="relative"))
        first = self._animated(portrait, driver, AnimateOptions(motion="relative", neutral_frame=0))
        _save("relative.webp", _beside(self._driver(driver), found, first))

    def paste_back(self) -> None:
        """A whole portrait."""
        portrait = self._folder / "scene.png"
        Image.fromarray(person(0, 800, 0.5, 0.25, 0.05)[200:]).save(portrait)
        frames = self._animated(portrait, DEMO_DRIVER, AnimateOptions(paste_back=True))
        _save("paste_back.webp", (resize(frame, 480, 360) for frame in frames))

    def preview(self) -> None:
        """What `--preview 6` writes."""
        output = self._folder / "preview" / "talk.mp4"
        for progress in animate(self._model, DEMO_PORTRAIT, DEMO_DRIVER, output, AnimateOptions(preview=6)):
            if progress.stage == "finding the face":
                break
        with Image.open(preview_path(output)) as sheet:
            sheet.save(FOLDER / "preview.webp", quality=QUALITY)

    def _driver(self, path: Path) -> list[RGBArray]:
        return list(itertools.islice(read_frames(probe(path)), 0, FRAMES, EVERY))

    def _animated(self, portrait: Path, driver: Path, options: AnimateOptions) -> list[RGBArray]:
        with tempfile.TemporaryDirectory(dir=self._folder) as made:
            output = Path(made) / FRAMES_NAME
            for _ in animate(self._model, portrait, driver, output, options.replace(max_frames=FRAMES)):
                pass
            return [np.asarray(Image.open(path)) for path in sorted(Path(made).iterdir())[::EVERY]]


def _beside(*panels: list[RGBArray]) -> Iterator[RGBArray]:
    for row in zip(*panels, strict=True):
        yield np.concatenate([resize(picture, SIDE, SIDE) for picture in row], axis=1)


def _save(name: str, frames: Iterator[RGBArray]) -> None:
    """An animated WebP at the speed of the result."""
    first, *others = (Image.fromarray(frame) for frame in frames)
    duration = round(1000 * EVERY / FRAME_RATE)
    first.save(FOLDER / name, save_all=True, append_images=others, duration=duration, loop=0, quality=QUALITY)


def main() -> None:
    """Make all of it, or the pictures that are named."""
    names = sys.argv[1:] or ["strengths", "relative", "paste_back", "preview"]
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        gallery = Gallery(Path(folder))
        for name in names:
            getattr(gallery, name)()


if __name__ == "__main__":
    main()
