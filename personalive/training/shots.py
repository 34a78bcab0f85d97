"""Pictures with what training knows about them, and the face crops that the motion encoder sees.

Crops repeat what inference does (docs/reference/streaming.md sections 3.1 and 5) for whole batches on the GPU.
Boxes are jittered, so that the motion encoder does not depend on the kind of box, nor on its errors.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from personalive.engine.motion import HeadPose
from personalive.media.faces import MESH_MARGIN
from personalive.types import RGBArray

JITTER = 0.05
"""Standard deviation of a box's position and size, relative to its side."""
POSE_DEGREES, POSE_SHIFT = 0.5, 0.004
"""Standard deviation of the motion extractor's errors: in angles, and in everything else."""


@dataclass(frozen=True)
class Shots:
    """`f` pictures of each of `n` people."""

    images: Tensor
    """`[n, f, 3, S, S]` in [-1, 1]."""
    boxes: Tensor
    """Face boxes in pixels, `[n, f, 4]`: left, top, right, bottom."""
    pose: HeadPose | None
    """The `n·f` heads, people-major; None: unknown, ask the motion extractor."""
    focus: Tensor | None
    """Places that must look right (eyes, mouth), `[n, f, p, 2]`, x and y in [-1, 1]; None: unknown."""
    expression: Tensor | None = None
    """What eyes, brows and lips do, `[n, f, e]`, about -1 to 1; None: unknown."""

    def take(self, people: Tensor) -> "Shots":
        """The shots of some people, by index."""
        count = self.images.shape[1]
        heads = (people[:, None] * count + torch.arange(count, device=people.device)).flatten()
        return Shots(
            self.images[people],
            self.boxes[people],
            None if self.pose is None else take_heads(self.pose, heads),
            None if self.focus is None else self.focus[people],
            None if self.expression is None else self.expression[people],
        )


def to_bytes(images: Tensor) -> Tensor:
    """Pictures in [-1, 1] as uint8, in the same shape."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def to_pixels(images: Tensor) -> RGBArray:
    """`[..., 3, S, S]` in [-1, 1] → pictures as files hold them, uint8 `[..., S, S, 3]`."""
    array: RGBArray = to_bytes(images).movedim(-3, -1).cpu().numpy()
    return array


def take_heads(pose: HeadPose, heads: Tensor) -> HeadPose:
    """Some of the heads, by index."""
    return HeadPose(pose.angles[heads], pose.translation[heads], pose.scale[heads], pose.canonical[heads])


def mesh_boxes(landmarks: Tensor, size: int) -> Tensor:
    """Boxes `[..., 4]` in pixels around landmarks `[..., p, 2]` in [-1, 1], as a face mesh would find them."""
    places = (landmarks * 0.5 + 0.5) * size
    low, high = places.amin(dim=-2), places.amax(dim=-2)
    half = (high - low).amax(dim=-1, keepdim=True) * (MESH_MARGIN / 2)
    return torch.cat(((low + high) / 2 - half, (low + high) / 2 + half), dim=-1)


def jitter_boxes(boxes: Tensor, generator: Generator) -> Tensor:
    """Boxes `[..., 4]` moved and scaled a little at random."""
    side = (boxes[..., 2:3] - boxes[..., 0:1]) * JITTER
    noise = torch.randn((*boxes.shape[:-1], 3), generator=generator, device=boxes.device) * side
    grow = noise[..., 2:]
    shift = noise[..., :2]
    return torch.cat((boxes[..., :2] + shift - grow, boxes[..., 2:] + shift + grow), dim=-1)


def crop_faces(images: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Cut boxes `[n, 4]` out of images `[n, 3, S, S]` and resize them to `[n, 3, size, size]`."""
    limit = images.shape[-1] - 1
    left, top, right, bottom = boxes.clamp(0, limit).trunc().unbind(-1)
    right, bottom = torch.maximum(right, left + 8), torch.maximum(bottom, top + 8)
    fine = 2 * size  # twice the size, then averaged: no aliasing
    line = (torch.arange(fine, device=images.device) + 0.5) / fine
    x = left[:, None] + line * (right - left)[:, None]
    y = top[:, None] + line * (bottom - top)[:, None]
    grid = torch.stack((x[:, None, :].expand(-1, fine, -1), y[:, :, None].expand(-1, -1, fine)), dim=-1)
    grid = grid * (2 / images.shape[-1]) - 1
    return F.avg_pool2d(F.grid_sample(images, grid.to(images.dtype), align_corners=False, padding_mode="border"), 2)


def focus_map(shots: Shots, shape: Sequence[int], strength: float) -> Tensor:
    """`weight_map` of all shots `[n·f, 1, h, w]`; 1 everywhere if it is unknown what matters."""
    if shots.focus is None:
        return torch.ones(len(shots.images.flatten(0, 1)), 1, *shape, device=shots.images.device)
    return weight_map(shots.focus.flatten(0, 1), shape, strength)


def weight_map(focus: Tensor, shape: Sequence[int], strength: float) -> Tensor:
    """Weights `[n, 1, h, w]` of a loss: 1, and up to 1 + strength near the points `[n, p, 2]`; normalised to mean 1."""
    h, w = shape
    y = (torch.arange(h, device=focus.device) + 0.5) * (2 / h) - 1
    x = (torch.arange(w, device=focus.device) + 0.5) * (2 / w) - 1
    far = (x - focus[..., 0, None, None]) ** 2 + (y[:, None] - focus[..., 1, None, None]) ** 2
    weight = 1 + strength * torch.exp(-far / 0.02).amax(dim=1)
    return (weight / weight.mean(dim=(1, 2), keepdim=True))[:, None]


def roughen(images: Tensor, generator: Generator) -> Tensor:
    """Small changes of brightness and noise, like a camera's and a codec's: the shape stays the same."""
    shape = (len(images), 1, 1, 1)
    device = images.device
    gain = 1 + 0.06 * torch.randn(shape, generator=generator, device=device)
    lift = 0.04 * torch.randn((len(images), 3, 1, 1), generator=generator, device=device)
    grain = 0.02 * torch.randn(images.shape, generator=generator, device=device)
    return (images * gain + lift + grain).clamp(-1, 1)


def jitter_pose(pose: HeadPose, generator: Generator) -> HeadPose:
    """Heads with errors as the motion extractor makes them."""

    def noise(like: Tensor, amount: float) -> Tensor:
        return like + amount * torch.randn(like.shape, generator=generator, device=like.device)

    return replace(
        pose,
        angles=noise(pose.angles, POSE_DEGREES),
        translation=noise(pose.translation, POSE_SHIFT),
        scale=noise(pose.scale, POSE_SHIFT),
        canonical=noise(pose.canonical, POSE_SHIFT / 2),
    )
