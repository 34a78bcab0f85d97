"""Frames that cost an encoder what real results cost it, in place of the noise that random weights decode to."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from personalive.assets import DEMO_DRIVER
from personalive.media.video_reader import probe, read_frames
from personalive.types import RGBArray

GRAIN = 1.0
"""Standard deviation of the noise on them, of 255: encoders find them as hard as photographs that move."""


def lifelike(count: int, size: int) -> list[RGBArray]:
    """A head that moves, uint8 [size, size, 3] each: the demo's driver enlarged, back and forth, with film grain."""
    there = [_enlarged(frame, size) for frame in read_frames(probe(DEMO_DRIVER))]
    round_trip = there + there[-2:0:-1]
    random = np.random.default_rng(0)
    grain = random.normal(0, GRAIN, (size + 64, size + 64, 1)).astype(np.float32)
    frames = []
    for index in range(count):
        top, left = random.integers(0, 64, 2)
        noisy = round_trip[index % len(round_trip)] + grain[top : top + size, left : left + size]
        frames.append(noisy.clip(0, 255).astype(np.uint8))
    return frames


def _enlarged(frame: RGBArray, size: int) -> RGBArray:
    return np.asarray(Image.fromarray(frame).resize((size, size), Image.Resampling.LANCZOS))


@contextmanager
def finishing(networks: Any, frames: Sequence[RGBArray]) -> Iterator[None]:
    """Let a model finish these frames, over and over, instead of what it has computed in the same time."""
    shown = torch.from_numpy(np.stack(frames)).to(networks.device)
    download, done = networks.download, 0

    def replaced(tensor: Tensor) -> Any:
        nonlocal done
        if tensor.dtype == torch.uint8 and tensor.shape[1:] == shown.shape[1:]:
            places = [(done + offset) % len(shown) for offset in range(len(tensor))]
            done += len(tensor)
            for row, place in zip(tensor, places, strict=True):
                row.copy_(shown[place], non_blocking=True)
        return download(tensor)

    networks.download = replaced
    try:
        yield
    finally:
        del networks.download
