"""Head pose and keypoints: from the extractor's heads to rasters and face boxes, as pure functions in fp32.

Sources: docs/reference/model.md section 9, docs/reference/streaming.md sections 4 and 5. Half precision
cannot hold a pixel, so everything here is fp32 whatever the model's dtype.
"""

import math
from dataclasses import dataclass, fields
from functools import lru_cache

import torch
from torch import Tensor

from personalive.config import RAMP
from personalive.models.motion_extractor import MotionHeads
from personalive.types import Box

DRAWN = (1, 2, 3, 4, 12, 15, 20)
"""Keypoints that are drawn, and that face boxes are made of."""
COLOURS = ((255, 0, 0), (255, 255, 0), (0, 255, 0), (0, 255, 255), (0, 0, 255), (255, 0, 255), (255, 0, 85))
DISC_RADIUS = 4
"""In pixels, at every image size."""
DEGREES_PER_BIN, FIRST_BIN = 3.0, -97.5
TRANSLATION_SCALE = 0.5
"""How much of the driver's movement across the picture is taken over."""
BOX_SCALE, BOX_BEFORE, BOX_AFTER = 1.7, 0.95, 1.05


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


def retarget(reference: HeadPose, driving: HeadPose, first: HeadPose, strength: float | Tensor = 1.0) -> HeadPose:
    """The reference's head, moved as the driver moves (docs/reference/model.md section 9.3).

    Args:
        reference: one head. It gives shape and scale.
        driving: n heads. They give the rotation as it is, and their movement since `first`.
        first: the driver's head when the animation began.
        strength: 1 follows the driver, 0 stays at the reference's pose; in between and beyond is a mixture.
    """
    moved = (driving.translation - first.translation) * TRANSLATION_SCALE + reference.translation
    return HeadPose(
        torch.lerp(reference.angles, driving.angles, strength),
        torch.lerp(reference.translation, moved, strength),
        reference.scale.expand_as(driving.scale),
        reference.canonical.expand_as(driving.canonical),
    )


def ramp_weights(device: torch.device) -> Tensor:
    """Weights of the first driving frame in the 12 frames that lead to it: 0, 1/12, … 11/12."""
    return torch.linspace(0, 1, RAMP + 1, dtype=torch.float32, device=device)[:-1]


def ramp(reference: HeadPose, first: HeadPose) -> HeadPose:
    """The 12 poses that lead from the reference to the first retargeted one."""
    weights = ramp_weights(first.angles.device)[:, None]
    return HeadPose(
        torch.lerp(reference.angles, first.angles, weights),
        torch.lerp(reference.translation, first.translation, weights),
        reference.scale.expand(RAMP, -1),
        reference.canonical.expand(RAMP, -1, -1),
    )


def pixels(keypoints: Tensor, width: int, height: int) -> Tensor:
    """Drawn keypoints as whole pixels, int64 [n, 7, 2]: truncated toward zero, also where they are off the canvas."""
    # Neither an index nor a size is copied to the device: a GPU would have to finish everything else first.
    drawn = torch.stack([keypoints[:, index, :2] for index in DRAWN], dim=1).float() * 0.5 + 0.5
    return torch.stack((drawn[..., 0] * width, drawn[..., 1] * height), dim=-1).trunc().long()


def draw(keypoints: Tensor, width: int, height: int) -> Tensor:
    """Raster [n, 3, height, width] in [0, 1], fp32: a coloured disc for each drawn keypoint.

    Discs that overlap add up, and the sum is clamped to 1.
    """
    device = keypoints.device
    x, y = pixels(keypoints, width, height).unbind(-1)
    dx = torch.arange(width, device=device) - x[..., None]
    dy = torch.arange(height, device=device) - y[..., None]
    inside = dx[:, :, None, :] ** 2 + dy[:, :, :, None] ** 2 <= DISC_RADIUS**2  # [n, 7, height, width]
    return torch.einsum("nkhw,kc->nchw", inside.float(), _colours(device)).clamp(max=1)


@lru_cache(maxsize=8)
def _colours(device: torch.device) -> Tensor:
    """[7, 3] in [0, 1]. Do not write to it."""
    with torch.inference_mode(False):
        return torch.tensor(COLOURS, dtype=torch.float32, device=device) / 255


def face_boxes(keypoints: Tensor, width: int, height: int) -> list[Box]:
    """A box around the face of each keypoint set, clamped to the picture (docs/reference/streaming.md section 5).

    A box may be empty where the keypoints are off the picture: see `usable`.
    """
    points = pixels(keypoints, width, height).float()
    centre, top = points.mean(dim=1), points[:, :, 1].amin(dim=1)
    half = (centre[:, 1] - top) * BOX_SCALE  # half of the side
    limit = torch.tensor((width - 1, height - 1), dtype=torch.float32, device=keypoints.device)
    before = torch.minimum((centre - BOX_BEFORE * half[:, None]).clamp(min=0), limit)
    after = torch.minimum((centre + BOX_AFTER * half[:, None]).clamp(min=0), limit)
    corners = torch.cat((before, after), dim=-1).trunc().long().tolist()
    return [(left, upper, right, lower) for left, upper, right, lower in corners]


def usable(box: Box, least: int = 8) -> bool:
    """Whether a box is at least `least` pixels wide and high."""
    return box[2] - box[0] >= least and box[3] - box[1] >= least
