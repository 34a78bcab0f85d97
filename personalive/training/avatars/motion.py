"""How a drawn person moves: pose and expression, independent of the identity, as samples and as smooth tracks."""

import dataclasses
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

FRAME_RATE = 25
"""Frames a second of a track."""


@dataclass(frozen=True)
class Motion:
    """A batch of poses and expressions; every field has the same shape, `[B]` or `[B, F]`.

    Angles are degrees in the convention of docs/reference/model.md section 9.2: a positive yaw turns the nose to the
    right of the picture, a positive pitch upwards, a positive roll turns the head clockwise. Translation is in units of
    half the picture. Gaze is -1 to 1 (right, down), blink and mouth opening 0 to 1, brow, mouth width and smile -1 to
    1.
    """

    yaw: Tensor
    pitch: Tensor
    roll: Tensor
    translate_x: Tensor
    translate_y: Tensor
    scale: Tensor
    gaze_x: Tensor
    gaze_y: Tensor
    blink: Tensor
    brow: Tensor
    mouth_open: Tensor
    mouth_wide: Tensor
    """-1 is round, 1 is wide."""
    smile: Tensor

    def __getitem__(self, index: object) -> "Motion":
        return Motion(**{field.name: getattr(self, field.name)[index] for field in dataclasses.fields(self)})

    def to(self, device: torch.device | str) -> "Motion":
        """The same motion on another device."""
        return Motion(**{field.name: getattr(self, field.name).to(device) for field in dataclasses.fields(self)})

    def flatten(self) -> "Motion":
        """`[B, F]` to `[B * F]`, with the frames of one track together."""
        return Motion(**{field.name: getattr(self, field.name).flatten() for field in dataclasses.fields(self)})

    def replace(self, **values: Tensor) -> "Motion":
        """A copy with some fields changed."""
        return dataclasses.replace(self, **values)


# low, high, slowest and fastest swing in Hz
RANGES: dict[str, tuple[float, float, float, float]] = {
    "yaw": (-30, 30, 0.25, 0.6),
    "pitch": (-17, 17, 0.3, 0.7),
    "roll": (-17, 17, 0.25, 0.5),
    "translate_x": (-0.12, 0.12, 0.1, 0.5),
    "translate_y": (-0.06, 0.08, 0.1, 0.5),
    "scale": (0.92, 1.12, 0.1, 0.3),
    "gaze_x": (-1, 1, 0.2, 0.8),
    "gaze_y": (-1, 1, 0.2, 0.8),
    "brow": (-1, 1, 0.2, 0.9),
    "mouth_open": (-0.5, 1, 0.6, 2.2),
    "mouth_wide": (-1, 1, 0.3, 1.2),
    "smile": (-0.4, 1, 0.15, 0.6),
}
BLINK_FRAMES = (0.35, 0.8, 1.0, 1.0, 0.85, 0.55, 0.2)
BLINK_GAPS = (14, 26)
"""Frames between the starts of two blinks: any 64 frames hold at least two whole blinks."""


def neutral(count: int) -> Motion:
    """Looking straight ahead with a closed mouth, `[count]`."""
    zero = torch.zeros(count)
    return Motion(**{field.name: zero for field in dataclasses.fields(Motion)} | {"scale": torch.ones(count)})


def sample_motions(count: int, generator: Generator) -> Motion:
    """Independent poses and expressions, `[count]` each."""
    values = {}
    for name, (low, high, _, _) in RANGES.items():
        values[name] = torch.rand(count, generator=generator) * (high - low) + low
    values["mouth_open"] = values["mouth_open"].clamp(min=0)
    blinks = torch.rand(count, generator=generator)
    values["blink"] = torch.where(blinks < 0.6, 0.0, torch.where(blinks < 0.8, 1.0, (blinks - 0.8) * 5))
    return Motion(**values)


def sample_tracks(count: int, frames: int, generator: Generator) -> Motion:
    """Smooth motion at 25 frames a second, `[count, frames]`; every 64 frames hold two blinks or more."""
    time = torch.arange(frames) / FRAME_RATE

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(count, 1, generator=generator) * (high - low) + low

    values = {}
    for name, (low, high, slow, fast) in RANGES.items():
        swing = sum(
            weight * torch.sin(2 * torch.pi * (uniform(slow, fast) * rate * time + uniform(0, 1)))
            for weight, rate in ((0.8, 1.0), (0.2, 1.9))
        )
        middle, reach = (low + high) / 2, (high - low) / 2
        size = uniform(0.8, 1)
        values[name] = middle + reach * (size * swing + (1 - size) * uniform(-1, 1))
    values["mouth_open"] = values["mouth_open"].clamp(min=0)
    values["blink"] = _blinks(count, frames, generator)
    return Motion(**values)


def _blinks(count: int, frames: int, generator: Generator) -> Tensor:
    shape = torch.tensor(BLINK_FRAMES)
    track = torch.zeros(count, frames + len(shape))
    low, high = BLINK_GAPS
    starts = torch.randint(0, low, (count,), generator=generator) - len(shape) // 2
    while bool((starts < frames).any()):
        for offset, value in enumerate(BLINK_FRAMES):
            index = (starts + offset).clamp(0, frames + len(shape) - 1)
            inside = (starts + offset >= 0) & (starts + offset < frames)
            rows = torch.arange(count)
            track[rows, index] = torch.where(inside, torch.full((count,), value), track[rows, index])
        starts = starts + torch.randint(low, high + 1, (count,), generator=generator)
    return track[:, :frames]
