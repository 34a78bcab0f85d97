"""What an animation keeps between calls (docs/reference/streaming.md section 7), and how it becomes plain values."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from personalive.config import FRAMES, RAMP, WINDOW
from personalive.engine.keypoints import HeadPose
from personalive.engine.preprocess import DrivingFrames
from personalive.models.unet import Bank, ReferenceFeatures
from personalive.types import Box


@dataclass(frozen=True)
class MotionChunk:
    """The motion of n frames, as the reference takes it over."""

    keypoints: Tensor
    """fp32 [n, 21, 3]"""
    tokens: Tensor
    """Motion tokens, [n, tokens, width]."""

    def __len__(self) -> int:
        return len(self.keypoints)

    def __getitem__(self, frames: slice | Sequence[int]) -> "MotionChunk":
        return MotionChunk(self.keypoints[frames], self.tokens[frames])

    def join(self, later: "MotionChunk") -> "MotionChunk":
        """This motion, then `later`."""
        return MotionChunk(torch.cat((self.keypoints, later.keypoints)), torch.cat((self.tokens, later.tokens)))

    def stretched(self, before: "MotionChunk | None", count: int) -> "MotionChunk":
        """`count` frames, no fewer than these, that lead from the end of `before` through these in equal steps."""
        path = (self[:1] if before is None else before[-1:]).join(self)
        places = [len(self) * (step + 1) / count for step in range(count)]
        starts = [math.ceil(place) - 1 for place in places]  # of the step from one frame to the next

        def between(values: Tensor) -> Tensor:
            pairs = zip(starts, places, strict=True)
            return torch.stack([torch.lerp(values[start], values[start + 1], place - start) for start, place in pairs])

        return MotionChunk(between(path.keypoints), between(path.tokens))


@dataclass(frozen=True)
class ReferenceState:
    """A portrait as the networks know it."""

    latents: Tensor
    """Clean latents, [1, c, h, w]."""
    embedding: Tensor
    """Image embedding, [1, 1, e]."""
    features: ReferenceFeatures
    """What the denoising UNet attends to, without keyframes."""
    pose: HeadPose
    motion: Tensor
    """Motion tokens, [1, tokens, width]."""


@dataclass
class AnimationState:
    """What has happened since the animation began."""

    latents: Tensor
    """Partly denoised latents of the frames under way, [12, c, h, w], oldest first."""
    features: ReferenceFeatures
    """The reference's features and those of its keyframes."""
    bank: Tensor
    """Motion that is remembered, fp32 [n, tokens·width]; the first is the reference's."""
    calls: int = 0
    keyframes: int = 0
    frames_in: int = 0
    first: HeadPose | None = None
    """The driver's head at the beginning, from which its movement is measured."""
    lead: MotionChunk | None = None
    """The ramp of 12 frames to the first driving frame; known once that has come."""
    history: MotionChunk | None = None
    """Motion of the last frames, at most 16: the end of an animation mirrors them."""
    motion: Tensor | None = None
    """Motion tokens of the last call's window, [16, tokens, width]."""
    pose_features: Tensor | None = None
    """Pose features of the last call's window, [16, c₀, h, w]."""
    last_box: Box | None = None
    """The last usable face box that keypoints gave."""
    pending: DrivingFrames | None = None
    """Frames that do not fill a chunk yet."""

    @classmethod
    def begin(cls, latents: Tensor, reference: ReferenceState) -> "AnimationState":
        """The state before the first call."""
        return cls(latents, reference.features, _bank(reference))

    def forget_keyframes(self, reference: ReferenceState) -> None:
        """Go on with another reference and none of the keyframes."""
        self.features, self.bank, self.keyframes = reference.features, _bank(reference), 0

    def add_pending(self, frames: DrivingFrames) -> None:
        """Queue driving frames."""
        self.pending = frames if self.pending is None else self.pending.join(frames)
        self.frames_in += len(frames)

    def take_pending(self, count: int) -> DrivingFrames:
        """The oldest queued frames, `count` of them."""
        assert self.pending is not None
        taken, rest = self.pending[:count], self.pending[count:]
        self.pending = rest if len(rest) else None
        return taken

    def moved(self, chunk: MotionChunk, stretch: bool) -> MotionChunk:
        """The motion of the newest frames, with `stretch` four frames of it; the history keeps the last 16."""
        if stretch and len(chunk) < WINDOW:
            chunk = chunk.stretched(self.history, WINDOW)
        joined = chunk if self.history is None else self.history.join(chunk)
        self.history = joined[-FRAMES:]
        return chunk

    def ending(self, queued: int) -> tuple[int, MotionChunk]:
        """What brings the last driving frame out when no more come.

        Args:
            queued: the last frames of the history that have entered no window yet.

        Returns:
            How many frames more than the driver's come out, and whole chunks: the queued frames, then the driver's last
            ones in reverse, which push the last driving frame through all slots.
        """
        assert self.history is not None  # at least one frame has been observed
        surplus = -self.frames_in % WINDOW
        wanted = [*range(self.frames_in - queued, self.frames_in), *mirrored(self.frames_in, surplus + RAMP)]
        before = self.frames_in - len(self.history)
        return surplus, self.history[[index - before for index in wanted]]

    def entering(self, chunk: MotionChunk) -> MotionChunk:
        """What is new to the window with this chunk: at the first call the ramp comes before it."""
        return self.lead.join(chunk) if self.calls == 0 and self.lead is not None else chunk

    def enter(self, tokens: Tensor, pose_features: Tensor) -> None:
        """Move the window on by four frames; 16 fill it at the first call."""
        if self.motion is not None and self.pose_features is not None:
            tokens = torch.cat((self.motion[WINDOW:], tokens))
            pose_features = torch.cat((self.pose_features[WINDOW:], pose_features))
        self.motion, self.pose_features = tokens, pose_features


def _bank(reference: ReferenceState) -> Tensor:
    return reference.motion.float().flatten(1)


def mirrored(length: int, count: int) -> list[int]:
    """Indices of `count` frames that continue `length` frames by going back and forth; the end is not repeated."""
    period = max(2 * (length - 1), 1)
    places = [(length + i) % period for i in range(count)]
    return [min(place, period - place) if length > 1 else 0 for place in places]


def to_plain(value: Any) -> Any:
    """Dataclasses, tuples and tensors → dicts, lists and CPU tensors, which a file can hold."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple):
        return [to_plain(item) for item in value]
    return value.detach().cpu().clone() if isinstance(value, Tensor) else value


def _moved(values: dict[str, Any], device: torch.device) -> dict[str, Any]:
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in values.items()}


def _features(plain: dict[str, Any], device: torch.device) -> ReferenceFeatures:
    def moved(tensors: list[Tensor]) -> tuple[Tensor, ...]:
        return tuple(tensor.to(device) for tensor in tensors)

    banks = tuple(Bank(moved(bank["keys"]), moved(bank["values"])) for bank in plain["banks"])
    return ReferenceFeatures(moved(plain["context"]), banks)


def reference_from_plain(plain: dict[str, Any], device: torch.device) -> ReferenceState:
    """The opposite of `to_plain`."""
    values = _moved(plain, device)
    values["features"] = _features(plain["features"], device)
    values["pose"] = HeadPose(**_moved(plain["pose"], device))
    return ReferenceState(**values)


def animation_from_plain(plain: dict[str, Any], device: torch.device) -> AnimationState:
    """The opposite of `to_plain`."""
    values = _moved(plain, device)
    values["features"] = _features(plain["features"], device)
    for name, kind in (("first", HeadPose), ("lead", MotionChunk), ("history", MotionChunk)):
        values[name] = None if plain[name] is None else kind(**_moved(plain[name], device))
    values["pending"] = None if plain["pending"] is None else DrivingFrames(**plain["pending"])
    values["last_box"] = None if plain["last_box"] is None else tuple(plain["last_box"])
    return AnimationState(**values)
