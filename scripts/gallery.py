"""Makes README's gallery: what the options do, on drawn people, with the demo model.

python -m scripts.gallery [name ...]
"""

import dataclasses
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from personalive import AnimateOptions, PersonaLive, animate
from personalive.animate.plan import preview_path
from personalive.assets import DEMO_DRIVER, DEMO_PORTRAIT
from personalive.media.encoding import FRAMES_NAME
from personalive.media.images import resize
from personalive.media.video_reader import probe, read_frames
from personalive.training.avatars import Motion, neutral, render, sample_identities
from personalive.training.avatars.motion import FRAME_RATE
from personalive.training.demo_assets import pictures, write_video
from personalive.training.shots import to_pixels
from personalive.types import RGBArray

FOLDER = Path(__file__).parents[1] / "docs" / "images" / "gallery"
FRAMES = 32
EVERY = 2
"""Computed frames for each one that is shown."""
SIDE = 192
"""Pixels of a panel."""
QUALITY = 55
PEOPLE = 105
"""Seed of the people who are drawn for it."""


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
    who = sample_identities(8, torch.Generator().manual_seed(PEOPLE))[index : index + 1]
    place = {"scale": scale, "translate_x": x, "translate_y": y}
    pose = neutral(1).replace(**{name: torch.tensor([value]) for name, value in place.items()})
    return to_pixels(render(who, pose, size)[0])


class Gallery:
    """Draws the pictures, in a folder for what is needed on the way."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._model = PersonaLive.from_pretrained("demo")

    def strengths(self) -> None:
        """The driver; everything; only the expression; only the pose."""
        chosen: tuple[dict[str, float], ...] = ({}, {"pose_strength": 0.0}, {"expression_strength": 0.0})
        results = [self._animated(DEMO_PORTRAIT, DEMO_DRIVER, **options) for options in chosen]
        _save("strengths.webp", _beside(self._driver(DEMO_DRIVER), *results))

    def relative(self) -> None:
        """A driver who begins with a laugh; relative motion, from the frame that is found and from the first."""
        portrait, driver = self._folder / "calm.png", self._folder / "laugh.mp4"
        Image.fromarray(person(3, 512)).save(portrait)
        who = sample_identities(8, torch.Generator().manual_seed(PEOPLE))[5:6]
        write_video(driver, pictures(who, laugh(FRAMES), 256))
        found = self._animated(portrait, driver, motion="relative")
        first = self._animated(portrait, driver, motion="relative", neutral_frame=0)
        _save("relative.webp", _beside(self._driver(driver), found, first))

    def paste_back(self) -> None:
        """A whole portrait."""
        portrait = self._folder / "scene.png"
        Image.fromarray(person(0, 800, 0.5, 0.25, 0.05)[200:]).save(portrait)
        frames = self._animated(portrait, DEMO_DRIVER, paste_back=True)
        _save("paste_back.webp", (resize(frame, 480, 360) for frame in frames))

    def preview(self) -> None:
        """What `--preview 6` writes."""
        output = self._folder / "preview" / "talk.mp4"
        for progress in animate(self._model, DEMO_PORTRAIT, DEMO_DRIVER, output, AnimateOptions(preview=6)):
            if progress.stage == "finding the face":
                break
        with Image.open(preview_path(output)) as sheet:
            sheet.save(FOLDER / "preview.webp", quality=QUALITY, method=6)

    def _driver(self, path: Path) -> Iterator[RGBArray]:
        for number, frame in zip(range(FRAMES), read_frames(probe(path)), strict=False):
            if number % EVERY == 0:
                yield frame

    def _animated(self, portrait: Path, driver: Path, **options: Any) -> list[RGBArray]:
        with tempfile.TemporaryDirectory(dir=self._folder) as made:
            chosen = AnimateOptions(max_frames=FRAMES, **options)
            for _ in animate(self._model, portrait, driver, Path(made) / FRAMES_NAME, chosen):
                pass
            return [np.asarray(Image.open(path)) for path in sorted(Path(made).iterdir())[::EVERY]]


def _beside(*panels: "Iterator[RGBArray] | list[RGBArray]") -> Iterator[RGBArray]:
    for row in zip(*panels, strict=True):
        yield np.concatenate([resize(picture, SIDE, SIDE) for picture in row], axis=1)


def _save(name: str, frames: Iterator[RGBArray]) -> None:
    """An animated WebP at the speed of the result."""
    first, *others = (Image.fromarray(frame) for frame in frames)
    duration = round(1000 * EVERY / FRAME_RATE)
    first.save(FOLDER / name, save_all=True, append_images=others, duration=duration, loop=0, quality=QUALITY, method=6)


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
