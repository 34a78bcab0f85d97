"""Draws identities and motions as pictures, any number at a time, on the CPU or a GPU."""

import torch
from torch import Tensor

from personalive.training.avatars.geometry import (
    EYE_Y,
    FACE_FRONT,
    Rays,
    bell,
    cast_rays,
    lower_jaw,
    meet_ellipsoid,
    meet_head,
    smoothstep,
    spread,
    surface_normal,
)
from personalive.training.avatars.identity import STYLE_COLUMNS, Identity
from personalive.training.avatars.motion import Motion
from personalive.training.avatars.paint import (
    Canvas,
    blend,
    paint_beard,
    paint_brows,
    paint_eyes,
    paint_mouth,
    paint_nose,
    paint_skin,
)


@torch.no_grad()
def render(identity: Identity, motion: Motion, size: int = 256) -> Tensor:
    """Draw B portraits.

    Args:
        identity: B people.
        motion: B poses, on the same device.
        size: width and height in pixels.

    Returns:
        `[B, 3, size, size]` in [-1, 1].
    """
    rays = cast_rays(motion, size)
    who, how = spread(identity), spread(motion)
    picture = _background(rays, who, size)
    hair = _Hair(rays, who)
    depth, distance = meet_head(rays, who, how.mouth_open)
    picture = blend(picture, who.hair * 0.62 * hair.grain(hair.far)[:, None], hair.behind())
    picture = _bun(rays, who, picture)
    picture = _body(rays, who, picture)
    picture = _ears(rays, who, picture)
    picture = blend(picture, _face(rays, who, how, depth), (1.2 - distance / rays.pixel).clamp(0, 1))
    picture = _ears(rays, who, picture, depth)
    picture = blend(picture, hair.colour(), hair.before())
    picture = _glasses(rays, who, picture)
    return picture.clamp(0, 1) * 2 - 1


def _lit(colour: Tensor, normal: tuple[Tensor, Tensor, Tensor], who: Identity, shine: float = 0.0) -> Tensor:
    """A colour under the identity's light."""
    light = who.light
    facing = (normal[0] * light[:, 0] + normal[1] * light[:, 1] + normal[2] * light[:, 2]).clamp(min=0)
    bright = who.ambient + (1.12 - who.ambient) * facing
    gleam = shine * facing**24
    return colour * bright[:, None] + gleam[:, None]


def _background(rays: Rays, who: Identity, size: int) -> Tensor:
    line = (torch.arange(size, device=rays.x.device) + 0.5) * (2 / size) - 1
    along = who.background_angle.cos() * line[None, None, :] + who.background_angle.sin() * line[None, :, None]
    mix = smoothstep((along + 1.2) / 2.4)[:, None]
    return who.background + (who.background_end - who.background) * mix


def _ellipsoid_normal(
    rays: Rays, depth: Tensor, centre: tuple[Tensor | float, ...], radii: tuple[Tensor | float, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    """Unit normal of an ellipsoid in the picture's space."""
    local = [(p - m) / (r * r) for p, m, r in zip(rays.at(depth), centre, radii, strict=True)]
    length = torch.sqrt(sum((n * n for n in local), torch.full_like(depth, 1e-9)))
    local = [n / length for n in local]
    x, y, z = (
        sum((rays.turn[:, i, j, None, None] * local[j] for j in range(3)), torch.zeros_like(depth)) for i in range(3)
    )
    return x, y, z


class _Hair:
    """Hair is a shell around the skull, half an ellipsoid and below it a cylinder, cut along a hairline."""

    def __init__(self, rays: Rays, who: Identity) -> None:
        self.rays, self.who = rays, who
        self.style = {name: who.hair_style[:, i] for i, name in enumerate(STYLE_COLUMNS)}
        width = who.face_width + self.style["width"]
        top = 0.62 * who.face_height + self.style["height"]
        depth = 0.46 + self.style["depth"]
        self.centre = (0.0, -0.01, -0.05)
        self.radii = (width, top, depth)
        near, far, gap = meet_ellipsoid(rays, self.centre, self.radii)
        low = 1e3 * torch.ones_like(top)
        near_low, far_low, gap_low = meet_ellipsoid(rays, self.centre, (width, low, depth))
        self.near = torch.where(rays.at(near_low)[1] > self.centre[1], near_low, near)
        self.far = torch.where(rays.at(far_low)[1] > self.centre[1], far_low, far)
        curls = self._curls()
        self.gap_near = torch.where(rays.at(near_low)[1] > self.centre[1], gap_low, gap) + curls
        self.gap_far = torch.where(rays.at(far_low)[1] > self.centre[1], gap_low, gap) + curls

    def _curls(self) -> Tensor:
        angle = torch.atan2(self.rays.y, self.rays.x)
        return self.style["curl"] * 0.022 * (torch.sin(angle * 17) + 0.6 * torch.sin(angle * 29 + 1))

    def _mask(self, depth: Tensor, gap: Tensor) -> Tensor:
        x, y, z = self.rays.at(depth)
        angle = torch.atan2(x, z + 0.05)
        wide = angle.abs()
        part = self.who.parting * torch.sin(angle * 1.5) * 0.07
        front = self.style["front"] + part + 0.035 * wide * wide
        side = smoothstep((wide - self.style["angle"]) / 0.22)
        back = smoothstep((wide - 1.75) / 0.5)
        end = front + (self.style["side"] - front) * side
        end = end + (self.style["back"] - end) * back
        end = end + 0.008 * torch.sin(angle * 23 + 1)
        cut = (0.5 - (y - end) / (self.rays.pixel * 3)).clamp(0, 1)
        return cut * (0.5 - gap / (self.rays.pixel * 2)).clamp(0, 1)

    def before(self) -> Tensor:
        """Coverage of what hangs in front of the head."""
        return self._mask(self.near, self.gap_near)

    def behind(self) -> Tensor:
        """Coverage of what shows behind head and neck."""
        return self._mask(self.far, self.gap_far)

    def grain(self, depth: Tensor) -> Tensor:
        """Strands: a little darker and lighter along the hair."""
        x, y, z = self.rays.at(depth)
        angle = torch.atan2(x, z + 0.05)
        wave = torch.sin(angle * 34 + 2 * torch.sin(y * 9)) + 0.5 * torch.sin(angle * 71 + y * 6)
        curl = torch.sin(x * 60 + 2 * torch.sin(y * 40)) * torch.sin(y * 55)
        return 1 + 0.055 * wave + 0.12 * self.style["curl"] * curl

    def colour(self) -> Tensor:
        """Hair, lit, `[B, 3, S, S]`."""
        normal = _ellipsoid_normal(self.rays, self.near, self.centre, self.radii)
        ring = 0.22 * bell((normal[1] + 0.55) / 0.16) * (1 - 0.7 * self.style["curl"])
        hair = self.who.hair * (self.grain(self.near) * (1 + ring))[:, None]
        return _lit(hair, normal, self.who)


def _bun(rays: Rays, who: Identity, picture: Tensor) -> Tensor:
    bun = who.hair_style[:, STYLE_COLUMNS.index("bun")]
    centre, radii = (0.0, -0.66, -0.16), (0.17, 0.15, 0.17)
    near, _, gap = meet_ellipsoid(rays, centre, radii)
    colour = _lit(who.hair, _ellipsoid_normal(rays, near, centre, radii), who)
    return blend(picture, colour, (0.5 - gap / rays.pixel).clamp(0, 1) * bun.clamp(0, 1))


def _body(rays: Rays, who: Identity, picture: Tensor) -> Tensor:
    """Shoulders stay upright under the head; the neck joins them."""
    edge = rays.pixel * 1.5
    x, y = rays.x, rays.y
    shoulder = (torch.sqrt((x / 1.0) ** 2 + ((y - 1.46) / 0.78) ** 2) - 1) * 0.7
    cover = (0.5 - shoulder / edge).clamp(0, 1)
    normal = (x, torch.full_like(x, -0.55), (1 - x * x).clamp(min=0.05).sqrt())
    accent = smoothstep((torch.sin((y + 0.3 * x.abs()) * 24) - 0.2) / 0.3) * (who.neckline > 0.75) * 0.8
    cloth = _lit(blend(who.shirt.expand(-1, -1, *x.shape[1:]), who.shirt_accent, accent), normal, who)
    picture = blend(picture, cloth, cover)
    turn = rays.turn
    top_x = 0.38 * turn[:, 0, 1, None, None] - 0.16 * turn[:, 0, 2, None, None]
    top_y = 0.38 * turn[:, 1, 1, None, None] - 0.16 * turn[:, 1, 2, None, None]
    along = ((y - top_y) / (0.86 - top_y)).clamp(0, 1)
    half = who.face_width * (0.54 + 0.12 * along * along)
    across = (x - top_x * (1 - along)) / half
    neckline = (x.abs() ** 1.8 * 0.9 - (0.92 + 0.10 * who.neckline - y) * 0.75) * 0.7
    column = torch.maximum((across.abs() - 1) * half, y - 0.84)
    chest = torch.minimum(torch.maximum(neckline, shoulder), column)
    normal = (across.clamp(-1, 1), torch.full_like(x, -0.1), (1 - across.clamp(-1, 1) ** 2 * 0.9).sqrt())
    shadow = 1 - 0.30 * bell((y - top_y - 0.12) / 0.14)
    flesh = _lit(who.skin * shadow[:, None] * 0.97, normal, who)
    picture = blend(picture, who.shirt_accent * 0.8, (0.5 - (neckline.abs() - 0.018) / edge).clamp(0, 1) * cover)
    return blend(picture, flesh, (0.5 - chest / edge).clamp(0, 1) * (y > top_y - 0.1))


def _ears(rays: Rays, who: Identity, picture: Tensor, depth: Tensor | None = None) -> Tensor:
    """Both ears: first behind the head, then, with the head's depth, those parts that are in front of it."""
    for side in (-1.0, 1.0):
        centre = (side * (who.face_width + 0.002), 0.03, -0.07)
        radii = (0.042, 0.100, 0.060)
        near, _, gap = meet_ellipsoid(rays, centre, radii)
        cover = (0.5 - gap / rays.pixel).clamp(0, 1)
        if depth is not None:
            cover = cover * smoothstep((near - depth) / 0.01)
        _, y, z = rays.at(near)
        inner = bell((torch.sqrt(((y - 0.03) / 0.6) ** 2 + (z + 0.05) ** 2) - 0.02) / 0.03)
        skin = who.skin * (0.97 - 0.28 * inner)[:, None]
        picture = blend(picture, _lit(skin, _ellipsoid_normal(rays, near, centre, radii), who), cover)
    return picture


def _face(rays: Rays, who: Identity, how: Motion, depth: Tensor) -> Tensor:
    x, y, z = rays.at(depth)
    canvas = Canvas(x, y, z, smoothstep((z - 0.02) / 0.08), rays.pixel, who, how)
    skin = paint_nose(canvas, paint_skin(canvas))
    skin = paint_beard(canvas, skin)
    normal = surface_normal(depth, rays.pixel)
    lit = _lit(skin, normal, who, shine=0.05)
    below = lower_jaw(y, how.mouth_open)
    lit = lit * (1 - 0.18 * smoothstep((below - 0.40) / 0.18))[:, None]
    light = (lit / skin.clamp(min=0.02)).mean(1, keepdim=True).clamp(0.55, 1.15)
    picture = paint_mouth(canvas, lit / light)
    picture = paint_eyes(canvas, picture)
    return paint_brows(canvas, picture) * light


def _glasses(rays: Rays, who: Identity, picture: Tensor) -> Tensor:
    """A frame on a plane in front of the eyes, and its temples along the sides of the head."""
    depth = (FACE_FRONT + 0.045 - rays.origin[2]) / rays.direction[2]
    x, y, _ = rays.at(depth)
    side = x.abs() - who.eye_distance * 1.03
    up = y - EYE_Y - 0.012
    power = 2.2 + 2.5 * who.glasses_shape
    wide, tall = 0.125, 0.085 + 0.02 * (1 - who.glasses_shape)
    ring = ((side.abs() / wide) ** power + (up.abs() / tall) ** power + 1e-9) ** (1 / power)
    distance = ((ring - 1) * tall).abs() - 0.009
    bridge = torch.maximum((up + 0.030 - 0.4 * x * x).abs() - 0.008, x.abs() - 0.055)
    hinge = torch.maximum((up + 0.03).abs() - 0.010, (side - 0.145).abs() - 0.028)
    frame = torch.minimum(torch.minimum(distance, bridge), hinge)
    lens = (0.5 - (ring - 1) * tall / rays.pixel).clamp(0, 1) * 0.06
    picture = picture + (1 - picture) * (lens * who.glasses)[:, None]
    return blend(picture, who.glasses_colour, (0.5 - frame / (rays.pixel * 1.3)).clamp(0, 1) * who.glasses)
