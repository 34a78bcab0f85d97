"""Videos of people as training examples: the same person is reference, driver and target.

The frames have no labels. The motion extractor finds the heads, so it must be trained already (the published one, or
that of a finished run), and the extractor stage needs drawn people. The driver's colours are changed, so that motion
tokens do not learn to carry them.
"""

import logging
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor

from personalive.errors import InputError, PersonaLiveError
from personalive.media.faces import FaceTracker
from personalive.media.video_reader import probe, read_frames
from personalive.training.avatars.motion import FRAME_RATE
from personalive.training.shots import Shots

SUFFIXES = (".mp4", ".mov", ".webm", ".mkv")
MAX_FRAMES = 1500
"""The most frames of one video that are kept in memory."""
LEAST_FRAMES = 64

log = logging.getLogger(__name__)


class VideoFolder:
    """All videos of a folder, square and with a face box in every frame."""

    labelled = False

    def __init__(self, folder: Path, size: int, device: torch.device) -> None:
        """Read, crop to the middle square and look for faces; this takes a while.

        Raises:
            InputError: there is no usable video.
        """
        self.size, self.device = size, device
        self.videos = [
            video for path in sorted(folder.rglob("*")) if path.suffix.lower() in SUFFIXES for video in self._read(path)
        ]
        if not self.videos:
            raise InputError(f"{folder} holds no video with a face in {LEAST_FRAMES} frames in a row")

    def _read(self, path: Path) -> list[tuple[Tensor, Tensor]]:
        """Frames uint8 `[f, 3, S, S]` and boxes `[f, 4]`, or nothing."""
        frames: list[Tensor] = []
        boxes: list[Tensor] = []
        try:
            with FaceTracker() as tracker:
                for frame in read_frames(probe(path), Fraction(FRAME_RATE)):
                    side = min(frame.shape[:2])
                    top, left = ((full - side) // 2 for full in frame.shape[:2])
                    square = np.ascontiguousarray(frame[top : top + side, left : left + side])
                    box = tracker.follow(square)  # at the size it was filmed: in small pictures faces are missed
                    if box is None or len(frames) == MAX_FRAMES:
                        break
                    size = (self.size, self.size)
                    picture = np.array(Image.fromarray(square).resize(size, Image.Resampling.LANCZOS))
                    frames.append(torch.from_numpy(picture).permute(2, 0, 1))
                    boxes.append(torch.tensor(box, dtype=torch.float32) * (self.size / side))
        except PersonaLiveError as error:
            log.warning("%s is skipped: %s", path, error)
            return []
        if len(frames) < LEAST_FRAMES:
            message = "%s is skipped: its first %d frames show a face, and %d are needed"
            log.warning(message, path, len(frames), LEAST_FRAMES)
            return []
        return [(torch.stack(frames), torch.stack(boxes))]

    def pictures(self, count: int, seed: int) -> Shots:
        """Single frames."""
        return self.portraits(count, seed)

    def portraits(self, count: int, seed: int) -> Shots:
        """Single frames."""
        return self._pick(torch.Generator().manual_seed(seed), count, 1)

    def stills(self, people: int, frames: int, seed: int) -> tuple[Shots, Shots, Shots]:
        """Unrelated frames, each group from one video."""
        generator = torch.Generator().manual_seed(seed)
        shots = self._pick(generator, people, frames + 1)
        target = Shots(shots.images[:, 1:], shots.boxes[:, 1:], None, None)
        return Shots(shots.images[:, :1], shots.boxes[:, :1], None, None), recolour(target, generator), target

    def clips(self, people: int, length: int, seed: int) -> "VideoClips":
        """Frames in order."""
        return VideoClips(self, people, length, seed)

    def _pick(self, generator: Generator, people: int, frames: int) -> Shots:
        rows = []
        for _ in range(people):
            images, boxes = self.videos[int(torch.randint(len(self.videos), (), generator=generator))]
            chosen = torch.randint(len(images), (frames,), generator=generator)
            rows.append((images[chosen], boxes[chosen]))
        return self.shots(rows)

    def shots(self, rows: list[tuple[Tensor, Tensor]]) -> Shots:
        """Pictures and boxes on the device."""
        images = torch.stack([images for images, _ in rows]).to(self.device).float() / 127.5 - 1
        return Shots(images, torch.stack([boxes for _, boxes in rows]).to(self.device), None, None)


class VideoClips:
    """A clip of a video for each person; where a video is too short it is played back and forth."""

    def __init__(self, source: VideoFolder, people: int, length: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.source, self.length, self._seed = source, length, seed
        self._rows = []
        for _ in range(people):
            images, boxes = source.videos[int(torch.randint(len(source.videos), (), generator=generator))]
            start = int(torch.randint(len(images), (), generator=generator))
            period = 2 * (len(images) - 1)
            places = (torch.arange(start, start + length)) % period
            places = torch.minimum(places, period - places)
            self._rows.append((images[places], boxes[places]))
        last = [(images[-1:], boxes[-1:]) for images, boxes in self._rows]
        self.reference = source.shots(last)

    def ramp(self) -> Tensor | None:
        """Nothing is known of it."""
        return None

    def frames(self, start: int, stop: int) -> tuple[Shots, Shots]:
        """The driver: the target in other colours."""
        target = self.source.shots([(images[start:stop], boxes[start:stop]) for images, boxes in self._rows])
        return recolour(target, torch.Generator().manual_seed(self._seed)), target


def recolour(shots: Shots, generator: Generator) -> Shots:
    """The same shots, with the colours of each person mixed and scaled."""
    people, device = len(shots.images), shots.images.device
    mix = torch.eye(3) + 0.25 * torch.randn(people, 3, 3, generator=generator)
    lift = 0.15 * torch.randn(people, 1, 3, 1, 1, generator=generator)
    images = torch.einsum("nij,nfjhw->nfihw", mix.to(device), shots.images) + lift.to(device)
    return Shots(images.clamp(-1, 1), shots.boxes, shots.pose, shots.focus)
