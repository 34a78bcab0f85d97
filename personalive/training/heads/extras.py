"""Hair, beards and glasses: meshes that are made for each person around a shape."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from personalive.training.heads.identity import HeadIdentity
from personalive.training.heads.model import AROUND, LEAVES, LOWEST_ANGLE, POLE, ROWS, HeadModel
from personalive.training.heads.pose import Posed

LAYERS, DOWN = 4, 26
"""Layers of hair, and rows of each."""
BEARD_LAYERS = 3
RIM_POINTS, RIM_SIDES = 28, 5
TEMPLES = 4
"""Points of the bows that run to the ears."""


@dataclass(frozen=True)
class Extras:
    """Vertices in head units beyond those of the head, and what is known of each."""

    points: Tensor
    """`[B, P, 3]`"""
    strands: Tensor
    """Where on which strand: three coordinates of the pattern, the way along it, the layer (0 to 1), `[B, P, 5]`."""


@dataclass(frozen=True)
class ExtraFaces:
    """Triangles of the extras, counted from their own first vertex, in the order glasses, hair, beard."""

    glasses: Tensor
    hair: Tensor
    beard: Tensor
    beard_vertices: Tensor
    """Vertices of the head that beards grow on."""


def hair_faces(device: torch.device) -> Tensor:
    """Triangles of all layers of hair, `[*, 3]`."""
    layer, row, column = torch.meshgrid(
        torch.arange(LAYERS), torch.arange(DOWN - 1), torch.arange(AROUND), indexing="ij"
    )
    after = (column + 1) % AROUND
    base = layer * DOWN * AROUND + row * AROUND
    a, b = base + column, base + after
    c, d = a + AROUND, b + AROUND
    quads = torch.stack((torch.stack((a, b, c), -1), torch.stack((b, d, c), -1)), dim=-2)
    return quads.reshape(-1, 3).to(device)


def tube_faces(points: int, sides: int, closed: bool) -> Tensor:
    """Triangles of a tube along `points` points."""
    last = points if closed else points - 1
    along, around = torch.meshgrid(torch.arange(last), torch.arange(sides), indexing="ij")
    after, beside = (along + 1) % points, (around + 1) % sides
    a, b, c, d = along * sides + around, along * sides + beside, after * sides + around, after * sides + beside
    return torch.stack((torch.stack((a, b, c), -1), torch.stack((b, d, c), -1)), dim=-2).reshape(-1, 3)


def extra_faces(model: HeadModel) -> ExtraFaces:
    """All triangles; they are the same for everybody."""
    device, start, glasses = model.device, 0, []
    for points, closed in ((RIM_POINTS, True), (RIM_POINTS, True), (3, False), (TEMPLES, False), (TEMPLES, False)):
        glasses.append(tube_faces(points, RIM_SIDES, closed) + start)
        start += points * RIM_SIDES
    hair = hair_faces(device) + start
    start += LAYERS * DOWN * AROUND
    corners = model.mean[model.faces]
    x, y, z = corners.mean(dim=1).unbind(-1)
    grown = (model.part == 0) & (y > 0.1) & (y < 0.75) & (z > -0.15) & (x.abs() < 0.5)
    # Nothing grows inside the mouth or the nose.
    grown &= (model.masks[model.faces][..., 3].amax(dim=1) < 0.5) & (
        model.masks[model.faces][..., 4].amin(dim=1) > 0.02
    )
    faces = model.faces[grown]
    vertices = torch.unique(faces)
    place = torch.zeros(len(model.mean), dtype=torch.long, device=device)
    place[vertices] = torch.arange(len(vertices), device=device)
    beard = torch.cat([place[faces] + start + layer * len(vertices) for layer in range(BEARD_LAYERS)])
    return ExtraFaces(torch.cat(glasses).to(device), hair, beard, vertices)


def make_extras(model: HeadModel, faces: ExtraFaces, identity: HeadIdentity, posed: Posed, normals: Tensor) -> Extras:
    """Glasses, hair and beards of B people.

    Args:
        normals: of the heads' vertices, outwards, in head coordinates, `[B, V, 3]`.
    """
    glasses = make_glasses(model, identity, posed)
    hair, strands = make_hair(model, identity, posed)
    grown = posed.shown[:, faces.beard_vertices]
    outwards = normals[:, faces.beard_vertices] + torch.tensor((0.0, 0.7, 0.0), device=model.device)
    layers = torch.linspace(0.25, 1, BEARD_LAYERS, device=model.device)
    length = (0.012 + 0.06 * identity.beard_length)[:, None, None]
    beard = torch.cat([grown + layer * length * outwards for layer in layers], dim=1)
    pattern = torch.cat(
        [model.mean[faces.beard_vertices] * torch.tensor((1, 0.6, 1), device=model.device)] * len(layers)
    )
    level = layers.repeat_interleave(len(faces.beard_vertices))
    of_beard = torch.cat((pattern, torch.zeros_like(level)[:, None], level[:, None]), dim=1)
    strands = torch.cat(
        (glasses.new_zeros(len(hair), glasses.shape[1], 5), strands, of_beard.expand(len(hair), -1, -1)), 1
    )
    return Extras(torch.cat((glasses, hair, beard), dim=1), strands)


def tube(line: Tensor, thickness: Tensor) -> Tensor:
    """Rings around the points of lines `[B, N, 3]`, `[B, N * RIM_SIDES, 3]`."""
    along = F.normalize(torch.roll(line, -1, 1) - torch.roll(line, 1, 1), dim=-1)
    first = F.normalize(torch.cross(along, along.new_tensor((0.3, 0.9, 0.3)).expand_as(along), dim=-1), dim=-1)
    second = torch.cross(along, first, dim=-1)
    angle = torch.arange(RIM_SIDES, device=line.device) * (2 * math.pi / RIM_SIDES)
    ring = angle.cos()[:, None] * first[:, :, None] + angle.sin()[:, None] * second[:, :, None]
    return (line[:, :, None] + thickness[:, None, None, None] * ring).flatten(1, 2)


def make_glasses(model: HeadModel, identity: HeadIdentity, posed: Posed) -> Tensor:
    """Two rims, the bridge between them and both bows, `[B, P, 3]`; who wears none has them all in one point."""
    wide, high, thick, square = identity.rim.unbind(1)
    angle = torch.arange(RIM_POINTS, device=model.device) * (2 * math.pi / RIM_POINTS)
    # A superellipse, between an ellipse (2) and a rectangle (5).
    cosine, sine = angle.cos()[None], angle.sin()[None]
    radius = (cosine.abs() ** square[:, None] + sine.abs() ** square[:, None]) ** (-1 / square[:, None])
    front = posed.rest[:, [model.points["between_brows"], model.points["bridge"]], 2].amax(dim=1)
    parts, inner, outer = [], [], []
    for side, sign in ((0, -1), (1, 1)):
        centre = posed.eyes[:, side]
        x = centre[:, :1] + sign * 0.015 + wide[:, None] * radius * cosine
        y = centre[:, 1:2] + 0.02 + high[:, None] * radius * sine
        bent = 0.5 * (x * x)
        line = torch.stack((x, y, (front + 0.01)[:, None] - bent), -1)
        parts.append(tube(line, thick))
        inner.append(line[:, RIM_POINTS // 2 if sign > 0 else 0])
        outer.append(line[:, 0 if sign > 0 else RIM_POINTS // 2])
    middle = (inner[0] + inner[1]) / 2 + model.mean.new_tensor((0, -0.03, 0.01))
    parts.append(tube(torch.stack((inner[0], middle, inner[1]), 1), thick))
    for side, sign, name in ((0, -1, "left"), (1, 1, "right")):
        ear = posed.rest[:, model.points[f"edge_{name}"]] + model.mean.new_tensor((0.05 * sign, -0.02, -0.05))
        share = torch.linspace(0, 1, TEMPLES, device=model.device)[:, None]
        line = torch.lerp(outer[side][:, None], ear[:, None], share)
        hinge = model.mean.new_tensor((0.04 * sign, 0, 0)) * (share * (1 - share) * 4)
        parts.append(tube(line + hinge, thick))
    glasses = torch.cat(parts, dim=1)
    return torch.where(identity.glasses[:, None, None] > 0.5, glasses, glasses[:, :1])


def make_hair(model: HeadModel, identity: HeadIdentity, posed: Posed) -> tuple[Tensor, Tensor]:
    """Layers of hair that run over the head and then hang, `[B, P, 3]`, and their strands `[B, P, 5]`."""
    device, count = model.device, len(identity)
    surface = (posed.rest[:, model.scalp] * model.scalp_weight[..., None]).sum(dim=2)
    surface = surface.unflatten(1, (ROWS, AROUND))
    surface = _smooth(surface)
    azimuth = torch.linspace(-math.pi, math.pi, AROUND + 1, device=device)[:-1]
    front, side, back, thickness, begins = identity.hair_style.unbind(1)
    limit, extra = hairline(identity, azimuth), _lengths(azimuth, front, side, back, begins)
    end = limit + extra  # radians from the crown, `[B, AROUND]`
    share = torch.linspace(0, 1, DOWN, device=device)
    angle = share[:, None] * end[:, None]  # [B, DOWN, AROUND]
    leaves = torch.where(azimuth.abs() < 0.9, LEAVES + 0.15, LEAVES).expand(count, 1, AROUND)
    on_head = torch.minimum(angle, leaves)
    hangs = (angle - leaves).clamp(min=0)
    points = _sample(surface, on_head)
    pole = surface.new_tensor(POLE)
    outwards = F.normalize(points - pole, dim=-1)
    # Hair starts flat at its edges, and is thickest above.
    fade = (share * 6).clamp(max=1)[:, None] * 0.3 + 0.7
    rise = ((end[:, None] - angle) / 0.35).clamp(0, 1)
    longer = (extra[:, None] / 0.2).clamp(0, 1)
    profile = fade * torch.lerp(rise.sqrt(), torch.ones_like(rise), longer)
    down = surface.new_tensor((0.0, 0.62, 0.0))
    wave = torch.sin(9 * angle + 3 * azimuth + identity.seed[:, :1, None] * 6) * identity.curl[:, None, None]
    layers = []
    turned = F.normalize(surface.new_tensor((1.0, 0, 1.0)) * outwards, dim=-1)
    lumps = _lumps(identity, azimuth, angle)
    for layer in torch.linspace(0.15, 1, LAYERS, device=device):
        lift = (thickness[:, None, None] * profile * (0.35 + 0.65 * layer) * (1 + 0.45 * lumps))[..., None]
        hanging = down * hangs[..., None] + turned * (0.05 * layer + 0.04 * wave[..., None]) * hangs[..., None].clamp(
            max=0.5
        )
        layers.append((points + outwards * lift + hanging).flatten(1, 2))
    hair = torch.cat(layers, dim=1)
    hair = torch.where(identity.bald[:, None, None] > 0.5, hair[:, :1], hair)
    return hair, _strands(identity, azimuth, on_head, share, count)


def _lengths(azimuth: Tensor, front: Tensor, side: Tensor, back: Tensor, begins: Tensor) -> Tensor:
    """Length beyond the hairline for every column, `[B, AROUND]`."""
    away = azimuth.abs()[None]

    def step(start: Tensor) -> Tensor:
        return ((away - start[:, None]) / 0.25).clamp(0, 1)

    towards_side, towards_back = step(begins), step(begins + 0.9)
    length = torch.lerp(front[:, None], side[:, None], towards_side)
    return torch.lerp(length, back[:, None], towards_back)


def hairline(identity: HeadIdentity, azimuth: Tensor) -> Tensor:
    """How far down hair grows, radians from the crown, `[B, AROUND]`."""
    away = azimuth.abs()[None]
    recession = identity.hairline[:, None]
    front = 0.93 - recession * (0.5 + 0.5 * torch.exp(-(((away - 0.55) / 0.3) ** 2)))
    line = torch.lerp(front.expand(len(recession), -1), torch.full_like(away, 1.62), ((away - 0.75) / 0.35).clamp(0, 1))
    behind = ((away - 1.75) / 0.5).clamp(0, 1)
    return torch.lerp(line, torch.full_like(away, 2.25), behind)


def _lumps(identity: HeadIdentity, azimuth: Tensor, angle: Tensor) -> Tensor:
    """Locks: bumps over the surface, about -1 to 1."""
    phase = identity.seed * (2 * math.pi)
    a, b, c = (phase[:, i, None, None] for i in range(3))
    turns = (identity.seed[:, 1:2] * 4 + 3).floor()[:, :, None]
    slow = torch.sin(turns * azimuth + a + 2 * angle) + torch.sin((turns + 4) * azimuth + b - 3 * angle)
    curls = torch.sin(13 * azimuth + c) * torch.sin(11 * angle + a) + torch.sin(21 * azimuth + a) * torch.sin(
        17 * angle + b
    )
    return 0.4 * slow + identity.curl[:, None, None] * curls


def _smooth(surface: Tensor) -> Tensor:
    """The scalp without ears and creases, `[B, ROWS, AROUND, 3]`."""
    grid = surface.permute(0, 3, 1, 2)
    for _ in range(2):
        grid = F.pad(F.pad(grid, (1, 1, 0, 0), mode="circular"), (0, 0, 1, 1), mode="replicate")
        grid = F.avg_pool2d(grid, 3, 1)
    return grid.permute(0, 2, 3, 1)


def _sample(surface: Tensor, angle: Tensor) -> Tensor:
    """Points of the surface `[B, ROWS, AROUND, 3]` at angles from the crown `[B, DOWN, AROUND]`."""
    place = (angle * ((ROWS - 1) / LOWEST_ANGLE)).clamp(0, ROWS - 1.001)
    low = place.long()
    index = low[..., None].expand(-1, -1, -1, 3)
    return torch.lerp(surface.gather(1, index), surface.gather(1, index + 1), (place - low)[..., None])


def _strands(identity: HeadIdentity, azimuth: Tensor, angle: Tensor, share: Tensor, count: int) -> Tensor:
    """Coordinates of the pattern: around the whorl, so that strands run away from it, and slowly along."""
    directions = torch.stack((angle.sin() * azimuth.sin(), -angle.cos(), angle.sin() * azimuth.cos()), dim=-1).flatten(
        1, 2
    )
    axis = identity.whorl[:, None]
    first = F.normalize(torch.cross(axis, axis.new_tensor((0.0, 0.1, 1.0)).expand_as(axis), dim=-1), dim=-1)
    second = torch.cross(axis, first, dim=-1)
    x, y = (directions * first).sum(-1), (directions * second).sum(-1)
    around = F.normalize(torch.stack((x, y), dim=-1), dim=-1) * identity.strand[:, None, None]
    row = share[:, None].expand(-1, AROUND).flatten().expand(count, -1)
    curl = identity.curl[:, None]
    swirl = torch.stack((torch.sin(23 * row), torch.cos(19 * row)), -1) * 0.05 * curl[..., None]
    one = torch.cat((around + swirl, (0.05 + 0.2 * curl * row)[..., None], row[..., None]), dim=-1)
    layers = torch.linspace(0, 1, LAYERS, device=azimuth.device)
    full = [torch.cat((one, layer.expand(count, one.shape[1], 1)), dim=-1) for layer in layers]
    return torch.cat(full, dim=1)
