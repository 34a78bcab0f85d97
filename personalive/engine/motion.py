"""How heads move: from the extractor's scores to the poses that a portrait takes, as pure functions in fp32.

Sources: docs/reference/model.md section 9. Half precision cannot hold a pixel, so everything here is fp32 whatever the
model's dtype.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from personalive.config import LEAD_IN
from personalive.engine.cues import Cue, cue_of, join_rows
from personalive.models.motion_extractor import MotionHeads
from personalive.types import PosePart

DEGREES_PER_BIN, FIRST_BIN = 3.0, -97.5
TRANSLATION_SCALE = 0.5
"""How much of the driver's movement across the picture the portrait follows."""
MAX_GROWTH = 2.0
"""How many times larger or smaller a portrait's head may become with the driver's."""
ANGLES: tuple[PosePart, ...] = ("pitch", "yaw", "roll")


@dataclass(frozen=True)
class HeadPose:
    """Where n heads are and how they are turned; everything fp32."""

    angles: Tensor
    """Pitch, yaw and roll in degrees, [n, 3]."""
    translation: Tensor
    """[n, 3] in units of half an image; the third is not used."""
    scale: Tensor
    """[n, 1]"""
    canonical: Tensor
    """Keypoints of the unturned head, [n, 21, 3]."""

    def __getitem__(self, frames: slice) -> "HeadPose":
        return HeadPose(*(getattr(self, field.name)[frames] for field in fields(self)))

    def join(self, later: "HeadPose") -> "HeadPose":
        """These heads, then `later`."""
        return HeadPose(*(torch.cat((getattr(self, f.name), getattr(later, f.name))) for f in fields(self)))


def degrees(scores: Tensor) -> Tensor:
    """Scores of angle bins [n, bins] → expected angle in degrees [n], in fp32."""
    bins = torch.arange(scores.shape[-1], dtype=torch.float32, device=scores.device)
    return DEGREES_PER_BIN * (scores.float().softmax(dim=-1) * bins).sum(dim=-1) + FIRST_BIN


def head_pose(heads: MotionHeads) -> HeadPose:
    """The extractor's output as quantities."""
    angles = torch.stack([degrees(scores) for scores in (heads.pitch, heads.yaw, heads.roll)], dim=-1)
    canonical = heads.keypoints.float().unflatten(-1, (-1, 3))
    return HeadPose(angles, heads.translation.float(), heads.scale.float(), canonical)


def rotation(angles: Tensor) -> Tensor:
    """Pitch, yaw and roll in degrees [n, 3] → Rz(roll)·Ry(yaw)·Rx(pitch), [n, 3, 3]."""
    (cx, cy, cz), (sx, sy, sz) = (f(angles * (math.pi / 180)).unbind(-1) for f in (torch.cos, torch.sin))
    one, zero = torch.ones_like(cx), torch.zeros_like(cx)
    about_x = torch.stack((one, zero, zero, zero, cx, -sx, zero, sx, cx), dim=-1)
    about_y = torch.stack((cy, zero, sy, zero, one, zero, -sy, zero, cy), dim=-1)
    about_z = torch.stack((cz, -sz, zero, sz, cz, zero, zero, zero, one), dim=-1)
    x, y, z = (matrix.unflatten(-1, (3, 3)) for matrix in (about_x, about_y, about_z))
    matrix: Tensor = z @ y @ x
    return matrix


def project(pose: HeadPose) -> Tensor:
    """Keypoints [n, 21, 3] in the picture; x and y are nominally in [-1, 1]. The third translation is not used."""
    turned = pose.canonical @ rotation(pose.angles).transpose(1, 2)
    points = turned * pose.scale[:, None]
    shift = torch.cat((pose.translation[:, :2], torch.zeros_like(pose.translation[:, 2:])), dim=-1)
    return points + shift[:, None]


def retarget(
    reference: HeadPose,
    driving: HeadPose,
    first: HeadPose,
    strength: float = 1.0,
    *,
    neutral: HeadPose | None = None,
    keep: Collection[PosePart] = (),
) -> HeadPose:
    """The reference's head, moved as the driver moves (docs/reference/model.md section 9.3).

    Args:
        reference: one head, which determines shape and scale.
        driving: n heads, which determine the rotation, and the movement since `first`.
        first: the driver's head from which movement is measured.
        strength: 1 follows the driver, 0 stays at the reference's pose; values between and beyond mix the two.
        neutral: the driver's head at rest, for relative motion: the reference's turns by as much as the driver's has
            turned since, and grows as the driver's has grown since `first`.
        keep: parts of the pose that stay the reference's.
    """
    angles, scale = driving.angles, reference.scale.expand_as(driving.scale)
    if neutral is not None:
        angles = reference.angles + (driving.angles - neutral.angles)
        if "scale" not in keep:
            scale = scale * (driving.scale / first.scale).clamp(1 / MAX_GROWTH, MAX_GROWTH) ** strength
    angles = torch.lerp(reference.angles, angles, strength)
    kept = [part in keep for part in ANGLES]
    if any(kept):
        angles = torch.where(torch.tensor(kept, device=angles.device), reference.angles, angles)
    moved = (driving.translation - first.translation) * TRANSLATION_SCALE + reference.translation
    return HeadPose(
        angles,
        torch.lerp(reference.translation, moved, 0.0 if "translation" in keep else strength),
        scale,
        reference.canonical.expand_as(driving.canonical),
    )


def lead_in_weights(device: torch.device) -> Tensor:
    """Weights of the first driving frame in the 12 frames that lead to it: 0, 1/12, … 11/12."""
    return torch.linspace(0, 1, LEAD_IN + 1, dtype=torch.float32, device=device)[:-1]


def lead_in(reference: HeadPose, first: HeadPose) -> HeadPose:
    """The 12 poses that lead from the reference to the first retargeted one."""
    weights = lead_in_weights(first.angles.device)[:, None]
    return HeadPose(
        torch.lerp(reference.angles, first.angles, weights),
        torch.lerp(reference.translation, first.translation, weights),
        torch.lerp(reference.scale, first.scale, weights),
        reference.canonical.expand(LEAD_IN, -1, -1),
    )


@dataclass(frozen=True)
class DriverMotion:
    """The driver's own motion in n frames, all that the networks take from its pictures. It can be sliced, joined."""

    pose: HeadPose
    tokens: Tensor
    """Motion tokens, [n, tokens, width]."""
    cues: Tensor | None = None
    """How each frame's motion is used, fp32 [n, 3]: the fields of `Cue`. None: all are `cues.PLAIN`."""

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, frames: slice) -> "DriverMotion":
        return DriverMotion(self.pose[frames], self.tokens[frames], None if self.cues is None else self.cues[frames])

    def join(self, later: "DriverMotion") -> "DriverMotion":
        """This motion, then `later`."""
        cues = join_rows(self.cues, len(self), later.cues, len(later))
        return DriverMotion(self.pose.join(later.pose), torch.cat((self.tokens, later.tokens)), cues)

    def cue(self, frame: int) -> Cue:
        """How a frame's motion is used."""
        return cue_of(self.cues, frame)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> "DriverMotion":
        """The same on another device, the tokens in another precision; cues stay on the host."""
        pose = HeadPose(*(getattr(self.pose, field.name).to(device) for field in fields(self.pose)))
        return DriverMotion(pose, self.tokens.to(device, dtype), self.cues)


@dataclass(frozen=True)
class MotionChunk:
    """The motion of n frames, retargeted to the portrait."""

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

    def eased(self, before: "MotionChunk", rest: "MotionChunk", cues: Sequence[Cue]) -> "MotionChunk":
        """These frames, each moved as far as its cue says from the frame before, and from there towards `rest`.

        Args:
            before: motion of one frame, the last before these.
            rest: the portrait's own motion, of one frame.
            cues: one for each frame.
        """
        moved = before
        frames = []
        for index, cue in enumerate(cues):
            moved = moved.towards(self[index : index + 1], cue.weight).towards(rest, cue.neutral)
            frames.append(moved)
        return MotionChunk(
            torch.cat([frame.keypoints for frame in frames]), torch.cat([frame.tokens for frame in frames])
        )

    def towards(self, other: "MotionChunk", share: float) -> "MotionChunk":
        """Interpolate from this motion (0) to another (1)."""
        if share in (0.0, 1.0):
            return other if share else self
        return MotionChunk(
            torch.lerp(self.keypoints, other.keypoints, share), torch.lerp(self.tokens, other.tokens, share)
        )

    def stretched(self, before: "MotionChunk | None", count: int) -> "MotionChunk":
        """`count` frames, no fewer than these, that lead from the end of `before` through these in equal steps."""
        path = (self[:1] if before is None else before[-1:]).join(self)
        places = [len(self) * (step + 1) / count for step in range(count)]
        starts = [math.ceil(place) - 1 for place in places]  # of the step from one frame to the next

        def between(values: Tensor) -> Tensor:
            pairs = zip(starts, places, strict=True)
            return torch.stack([torch.lerp(values[start], values[start + 1], place - start) for start, place in pairs])

        return MotionChunk(between(path.keypoints), between(path.tokens))
