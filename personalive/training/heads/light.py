"""Light, cast shadows, and the camera."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from personalive.training.heads.identity import HeadIdentity
from personalive.training.heads.noise import smooth_noise
from personalive.training.heads.raster import Hits, rasterise

if TYPE_CHECKING:
    from personalive.training.heads.materials import Seen

SHADOW_SIDE = 160
REACH = 1.9
"""Half the side of what the light sees, in units of the picture."""
BIAS = 0.03
KERNEL = 8
"""Pixels of a side of the blocks of compression."""


@dataclass(frozen=True)
class Surface:
    """What light meets, `[B, H, W, ...]`."""

    colour: Tensor
    """Share of the light that is reflected."""
    normal: Tensor
    shine: Tensor
    open: Tensor
    """How much of the light around reaches it, 0 to 1."""


def light_frame(direction: Tensor) -> Tensor:
    """Rows: right, down and towards the light, `[B, 3, 3]`."""
    down = direction.new_tensor((0.0, 1.0, 0.02)).expand_as(direction)
    right = F.normalize(torch.linalg.cross(down, direction), dim=-1)
    return torch.stack((right, torch.linalg.cross(direction, right), direction), dim=1)


def shadows(points: Tensor, faces: Tensor, two_sided: Tensor, identity: HeadIdentity, hits: Hits) -> Tensor:
    """How much of the key light reaches each pixel, 0 to 1, `[B, H, W]`."""
    frame = light_frame(identity.key_direction).transpose(1, 2)
    lit = points @ frame / REACH
    seen = rasterise(lit, faces, SHADOW_SIDE, len(faces), two_sided, None)
    depth = seen.interpolate(lit[..., 2:], faces)[..., 0]
    depth = torch.where(seen.triangle < 0, -10.0, depth)
    place = hits.interpolate(lit, faces)
    total = torch.zeros_like(place[..., 0])
    offsets = (-1.2, 0.0, 1.2)
    for x in offsets:
        for y in offsets:
            shift = place.new_tensor((x, y)) * (2 / SHADOW_SIDE)
            nearest = F.grid_sample(
                depth[:, None], place[..., :2] + shift, mode="nearest", padding_mode="border", align_corners=False
            )[:, 0]
            total += (nearest <= place[..., 2] + BIAS).float()
    return total / len(offsets) ** 2


def shade(identity: HeadIdentity, seen: "Seen", surface: Surface, shadow: Tensor) -> Tensor:
    """Amounts of light that leave the surface, `[B, H, W, 3]`."""
    normal = surface.normal
    x, y, _ = normal.unbind(-1)
    up = (0.5 - 0.5 * y)[..., None]
    around = identity.ground[:, None, None] * (1 - up) + identity.sky[:, None, None] * up
    around = (around - x[..., None] * identity.side_light[:, None, None]).clamp(min=0.02)
    direction = identity.key_direction[:, None, None]
    facing = (normal * direction).sum(-1)
    # Light enters skin and leaves it beside: a soft edge, reddish.
    wrap = facing.new_tensor((0.28, 0.14, 0.10))
    soft = ((facing[..., None] + wrap) / (1 + wrap)).clamp(min=0)
    lit = 1 - identity.hardness[:, None, None] * (1 - shadow)
    key = identity.key[:, None, None]
    half = F.normalize(direction + direction.new_tensor((0, 0, 1)), dim=-1)
    glance = (normal * half).sum(-1).clamp(min=0)
    power = torch.where(surface.shine > 1.5, 120.0, 18.0)
    gloss = surface.shine * 0.12 * glance**power * torch.where(surface.shine > 1.5, 5.0, 1.0) * lit
    grazing = 0.05 * (1 - normal[..., 2].clamp(0, 1)) ** 3 * surface.shine.clamp(max=1)
    reflected = gloss[..., None] * key + grazing[..., None] * around
    near = ambient_occlusion(seen)
    return (
        surface.colour
        * (around * (surface.open * near)[..., None] + soft * lit[..., None] * key * surface.open[..., None])
        + reflected
    )


def ambient_occlusion(seen: "Seen") -> Tensor:
    """Creases get less light: places that lie deeper than what surrounds them in the picture, `[B, H, W]`."""
    depth = torch.where(seen.part < 0, -0.6, seen.place[..., 2])[:, None]
    total = torch.zeros_like(depth)
    side = depth.shape[-1]
    for share, reach in ((0.02, 0.05), (0.06, 0.15)):
        width = max(3, int(side * share) // 2 * 2 + 1)
        padded = F.pad(depth, (width // 2,) * 4, mode="replicate")
        blurred = F.avg_pool2d(F.avg_pool2d(padded, width, 1), width, 1, width // 2, count_include_pad=False)
        total = total + ((blurred - depth) / reach).clamp(0, 1)
    return (1 - 0.55 * total[:, 0]).clamp(min=0.2)


def develop(light: Tensor, volume: Tensor, identity: HeadIdentity, size: int) -> Tensor:
    """From light `[B, 3, H, W]` to a photograph `[B, 3, size, size]` in [-1, 1]."""

    def each(value: Tensor) -> Tensor:
        return value.view(len(value), -1, 1, 1)

    light = F.interpolate(light, (size, size), mode="area")
    light = torch.lerp(light, F.avg_pool2d(F.pad(light, (1,) * 4, mode="replicate"), 3, 1), each(0.7 * identity.blur))
    light = light * each(identity.exposure) * each(identity.balance)
    light = light * (1 + 0.1 * light) / (1 + 0.35 * light) * 1.15  # bright parts come together, as on film
    picture = light.clamp(min=0) ** (1 / 2.2)
    grey = picture.mean(dim=1, keepdim=True)
    picture = grey + (picture - grey) * each(identity.colourfulness)
    picture = ((picture - 0.5) * each(identity.contrast) + 0.5).clamp(0, 1)
    line = torch.arange(size, device=light.device) / 64 * 0.999
    y, x = torch.meshgrid(line, line, indexing="ij")
    places = torch.stack((x, y, 0 * x), -1) + identity.seed[:, None, None]
    grain = smooth_noise(volume, places)[..., 0][:, None]
    picture = compress(picture + each(identity.grain) * grain, identity.compression)
    return picture.clamp(0, 1) * 2 - 1


def compress(picture: Tensor, amount: Tensor) -> Tensor:
    """Lose what a codec loses: high frequencies of blocks of 8 x 8 are rounded, `amount` `[B]`."""
    size = picture.shape[-1]
    if size % KERNEL:
        return picture
    step = torch.arange(KERNEL, device=picture.device, dtype=picture.dtype)
    basis = torch.cos(math.pi / KERNEL * (step[None] + 0.5) * step[:, None]) * math.sqrt(2 / KERNEL)
    basis[0] /= math.sqrt(2)
    blocks = picture.unflatten(3, (-1, KERNEL)).unflatten(2, (-1, KERNEL)).transpose(3, 4)
    waves = basis @ blocks @ basis.T
    coarse = (0.01 + 0.025 * (step[:, None] + step[None])) * amount[:, None, None, None, None, None]
    coarse = coarse.clamp(min=1e-4)
    again: Tensor = basis.T @ ((waves / coarse).round() * coarse) @ basis
    return again.transpose(3, 4).flatten(4, 5).flatten(2, 3)
