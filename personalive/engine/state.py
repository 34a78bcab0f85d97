"""What an animation keeps between steps (docs/reference/streaming.md section 7), and how it becomes plain values.

A state is a value: a step returns the next one and leaves its own unchanged.
"""

from dataclasses import dataclass, is_dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from personalive.config import CHUNK, LEAD_IN, WINDOW
from personalive.engine.control import MotionControl
from personalive.engine.keyframes import KeyframePolicy
from personalive.engine.motion import DriverMotion, HeadPose, MotionChunk
from personalive.engine.networks import Features, Networks
from personalive.engine.preprocess import DrivingFrames
from personalive.engine.smoothing import Smoothed
from personalive.errors import InputError
from personalive.types import Box

Driving: TypeAlias = DrivingFrames | DriverMotion
"""What drives: frames, or what `observe` found in frames before."""


@dataclass(frozen=True)
class StepOptions:
    """What steps need of a stream's options."""

    width: int
    height: int
    steps: int
    """Denoising steps of a frame."""
    keyframe_threshold: float
    control: MotionControl
    rate: float
    """Driving frames a second, as far as smoothing is concerned."""
    keyframes: KeyframePolicy


@dataclass(frozen=True)
class ReferenceState:
    """A portrait as the networks know it."""

    latents: Tensor
    """Clean latents, [1, c, h, w]."""
    embedding: Tensor
    """Image embedding, [1, 1, e]."""
    features: Features
    """What the denoising UNet attends to, without keyframes."""
    pose: HeadPose
    motion: Tensor
    """Motion tokens, [1, tokens, width]."""


@dataclass(frozen=True)
class StreamState:
    """Everything that the next step depends on, except for the driving frames and the noise."""

    options: StepOptions
    reference: ReferenceState
    latents: Tensor
    """Partly denoised latents of the frames under way, [12, c, h, w], oldest first."""
    features: Features
    """The reference's features and those of its keyframes."""
    bank: Tensor
    """Remembered motion, fp32 [n, tokens·width]; the first is the reference's."""
    keyframes: tuple[Tensor, ...] = ()
    """Clean latents of the keyframes since the reference came, [1, c, h, w] each."""
    step: int = 0
    """Index of the next step, from 0."""
    frames_in: int = 0
    first: HeadPose | None = None
    """The driver's head at the start, from which its movement is measured."""
    neutral: HeadPose | None = None
    """The driver's head at rest, from which relative motion is measured..."""
    neutral_tokens: Tensor | None = None
    """...and its motion tokens, [1, tokens, width]."""
    smoothed: Smoothed | None = None
    """The driver's smoothed pose."""
    lead_in: MotionChunk | None = None
    """The 12 frames that lead to the first driving frame; known once that has come."""
    history: MotionChunk | None = None
    """Motion of the last frames, at most 16: the end of an animation mirrors them."""
    motion: Tensor | None = None
    """Motion tokens of the last step's window, [16, tokens, width]."""
    pose_features: Tensor | None = None
    """Pose features of the last step's window, [16, c₀, h, w]."""
    last_box: Box | None = None
    """The last usable face box that keypoints gave."""
    pending: Driving | None = None
    """Frames that do not fill a chunk yet."""

    @classmethod
    def begin(cls, options: StepOptions, reference: ReferenceState, latents: Tensor) -> "StreamState":
        """The state before the first step."""
        return cls(options, reference, latents, reference.features, _bank(reference))

    def with_reference(self, reference: ReferenceState) -> "StreamState":
        """Continue with another reference and none of the keyframes."""
        return replace(self, reference=reference, features=reference.features, bank=_bank(reference), keyframes=())

    def with_pending(self, frames: Driving) -> "StreamState":
        """Driving frames queued.

        Raises:
            InputError: they are of another kind than those that wait.
        """
        match self.pending, frames:
            case None, _:
                pending = frames
            case (DrivingFrames() as waiting, DrivingFrames() as more):
                pending = waiting.join(more)
            case (DriverMotion() as waiting, DriverMotion() as more):
                pending = waiting.join(more)
            case _:
                raise InputError("pictures and motion cannot be mixed within a chunk of four frames")
        return replace(self, pending=pending if len(pending) else None, frames_in=self.frames_in + len(frames))

    @property
    def queued(self) -> int:
        """Driving frames that are waiting."""
        return 0 if self.pending is None else len(self.pending)

    def take_pending(self, count: int) -> tuple["StreamState", Driving]:
        """The oldest queued frames, `count` of them, and the state without them."""
        assert self.pending is not None
        taken, rest = self.pending[:count], self.pending[count:]
        return replace(self, pending=rest if len(rest) else None), taken

    def with_motion(self, chunk: MotionChunk) -> "StreamState":
        """The newest frames' motion added to the history, which keeps the last 16."""
        joined = chunk if self.history is None else self.history.join(chunk)
        return replace(self, history=joined[-WINDOW:])

    def ending(self, queued: int) -> tuple[int, MotionChunk]:
        """What pushes the last driving frame out when no more come.

        Args:
            queued: the last frames of the history that have entered no window yet.

        Returns:
            How many more frames come out than went in, and whole chunks: the queued frames, then the driver's last
            ones in reverse, which push the last driving frame through all slots.
        """
        assert self.history is not None  # at least one frame has been encoded
        surplus = -self.frames_in % CHUNK
        wanted = [*range(self.frames_in - queued, self.frames_in), *mirrored(self.frames_in, surplus + LEAD_IN)]
        before = self.frames_in - len(self.history)
        return surplus, self.history[[index - before for index in wanted]]

    def entering(self, chunk: MotionChunk) -> MotionChunk:
        """What is new to the window with this chunk: in the first step the lead-in comes before it."""
        return self.lead_in.join(chunk) if self.step == 0 and self.lead_in is not None else chunk

    def enter(self, tokens: Tensor, pose_features: Tensor) -> "StreamState":
        """Move the window on by four frames; 16 fill it in the first step."""
        if self.motion is not None and self.pose_features is not None:
            tokens = torch.cat((self.motion[CHUNK:], tokens))
            pose_features = torch.cat((self.pose_features[CHUNK:], pose_features))
        return replace(self, motion=tokens, pose_features=pose_features)


def _bank(reference: ReferenceState) -> Tensor:
    return reference.motion.float().flatten(1)


def mirrored(length: int, count: int) -> list[int]:
    """Indices of `count` frames that continue `length` frames by going back and forth; the end is not repeated."""
    period = max(2 * (length - 1), 1)
    places = [(length + i) % period for i in range(count)]
    return [min(place, period - place) if length > 1 else 0 for place in places]


KEPT_MOTION = {
    "first": HeadPose,
    "neutral": HeadPose,
    "smoothed": Smoothed,
    "lead_in": MotionChunk,
    "history": MotionChunk,
}
"""What a state has of motion, by name."""


def to_plain(state: StreamState) -> dict[str, Any]:
    """A state as dicts, lists and CPU tensors, which a file can hold.

    Features are left out: `from_plain` computes them again, from latents of a hundredth of their size.
    """
    left_out = ("options", "reference", "features")
    reference = {name: _plain(value) for name, value in vars(state.reference).items() if name not in left_out}
    animation = {name: _plain(value) for name, value in vars(state).items() if name not in left_out}
    return {"reference": reference, "animation": animation}


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {name: _plain(item) for name, item in vars(value).items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value.detach().cpu().clone() if isinstance(value, Tensor) else value


def from_plain(plain: dict[str, Any], options: StepOptions, networks: Networks) -> StreamState:
    """The inverse of `to_plain`, for networks with the same weights."""
    device = networks.device

    def moved(values: dict[str, Any]) -> dict[str, Any]:
        return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in values.items()}

    known = moved(plain["reference"])
    known["features"] = features = networks.encode_reference(known["latents"], known["embedding"])
    known["pose"] = HeadPose(**moved(known["pose"]))
    reference = ReferenceState(**known)
    values = moved(plain["animation"])
    values["keyframes"] = tuple(latents.to(device) for latents in values["keyframes"])
    for latents in values["keyframes"]:
        features = features.with_keyframe(networks.encode_reference(latents, reference.embedding))
    for name, kind in KEPT_MOTION.items():
        values[name] = None if values.get(name) is None else kind(**moved(values[name]))
    values["pending"] = _driving(values["pending"], device)
    values["last_box"] = None if values["last_box"] is None else tuple(values["last_box"])
    return StreamState(options=options, reference=reference, features=features, **values)


def _driving(plain: dict[str, Any] | None, device: torch.device) -> Driving | None:
    if plain is None:
        return None
    if "pose" not in plain:
        return DrivingFrames(**plain)
    return DriverMotion(HeadPose(**plain["pose"]), plain["tokens"], plain["cues"]).to(device)
