"""What is drawn on the head's surface: eyes, brows, nose, mouth, beard. All functions of points in head coordinates."""

from dataclasses import dataclass

import torch
from torch import Tensor

from personalive.training.avatars.geometry import (
    BROW_Y,
    EYE_Y,
    MOUTH_Y,
    NOSE_Y,
    bell,
    lower_jaw,
    mouth_stretch,
    smoothstep,
)
from personalive.training.avatars.identity import Identity
from personalive.training.avatars.motion import Motion


@dataclass(frozen=True)
class Canvas:
    """Points of the face that pixels show, and what all features need; identity and motion are broadcast."""

    x: Tensor
    y: Tensor
    z: Tensor
    front: Tensor
    """1 on the face, 0 on the back of the head, `[B, S, S]`."""
    pixel: Tensor
    identity: Identity
    motion: Motion

    def edge(self, distance: Tensor, soft: float = 1.0) -> Tensor:
        """Coverage of pixels by a shape from the distance to its outline (negative inside)."""
        return (0.5 - distance / (self.pixel * (1 + soft))).clamp(0, 1) * self.front


def blend(below: Tensor, colour: Tensor, coverage: Tensor) -> Tensor:
    """`colour` `[B, 3, ...]` over `below` `[B, 3, S, S]` where `coverage` `[B, S, S]` is 1."""
    return below + (colour - below) * coverage[:, None]


def _constant(like: Tensor, red: float, green: float, blue: float) -> Tensor:
    return torch.stack([torch.full_like(like[:1, 0, :1, :1], value) for value in (red, green, blue)], 1)


def paint_skin(canvas: Canvas) -> Tensor:
    """Skin with cheeks, sockets and folds, `[B, 3, S, S]`."""
    identity, motion, side = canvas.identity, canvas.motion, canvas.x.abs()
    skin = identity.skin.expand(-1, -1, *canvas.x.shape[1:])
    cheek = 0.22 * bell((side - 0.21) / 0.09) * bell((canvas.y - 0.14) / 0.08) * canvas.front
    skin = blend(skin, identity.skin * 0.55 + identity.lip * 0.5, cheek)
    socket = 0.16 * bell((side - identity.eye_distance) / 0.10) * bell((canvas.y - EYE_Y + 0.01) / 0.055)
    fold = 0.025 + 0.10 * motion.smile.clamp(min=0)
    arc = side - 0.115 - 0.45 * (canvas.y - 0.17) - 0.02 * motion.smile
    fold = fold * bell(arc / 0.018) * bell((canvas.y - 0.22) / 0.06)
    chin = 0.10 * bell(canvas.x / 0.08) * bell((lower_jaw(canvas.y, motion.mouth_open) - 0.385) / 0.022)
    return skin * (1 - ((socket + fold + chin) * canvas.front)[:, None])


def paint_eyes(canvas: Canvas, below: Tensor) -> Tensor:
    """Both eyes with lids, lashes, iris and light."""
    identity, motion = canvas.identity, canvas.motion
    side = canvas.x.abs() - identity.eye_distance
    across = side / identity.eye_width
    up = canvas.y - EYE_Y + identity.eye_tilt * side
    arch = (1 - across * across).clamp(min=-0.4)
    size = 0.045 * identity.eye_height
    upper_open = -size * (1 - 0.16 * motion.gaze_y)
    lower_open = 0.024 * identity.eye_height * (1 - 0.20 * motion.smile.clamp(min=0))
    meeting = lower_open * 0.8
    upper = (upper_open + (meeting - upper_open) * motion.blink) * arch
    lower = (lower_open + (meeting - lower_open) * motion.blink) * arch
    crease = upper_open * arch * (1 - 0.35 * motion.blink) - 0.022
    reach = smoothstep((1.12 - across.abs()) / 0.15)
    inside = bell((across.abs() - 0.2).clamp(min=0) / 0.8) * reach
    lid = canvas.edge(torch.maximum(crease - up, up - upper)) * (arch > -0.3)
    picture = blend(below, below * 0.90, lid * inside)
    picture = blend(picture, below * 0.62, 0.6 * bell((up - crease) / 0.007) * inside * canvas.front)
    opening = canvas.edge(torch.maximum(upper - up, up - lower), 0.6)
    shade = 0.94 - 0.35 * bell((up - upper) / 0.016)
    white = _constant(below, 0.96, 0.95, 0.94) * shade[:, None]
    picture = blend(picture, white, opening)
    gaze = torch.sign(canvas.x) * motion.gaze_x * 0.026
    radius = torch.sqrt((side - gaze) ** 2 + (up - motion.gaze_y * 0.012 + 0.006) ** 2)
    iris = canvas.edge(radius - 0.0335, 0.6) * opening
    ring = smoothstep((radius - 0.018) / 0.016)
    picture = blend(picture, identity.iris * (1.15 - 0.65 * ring)[:, None], iris)
    picture = blend(picture, _constant(below, 0.03, 0.03, 0.03), canvas.edge(radius - 0.0145, 0.6) * opening)
    middle = torch.sign(canvas.x) * (identity.eye_distance + gaze) - 0.011
    gleam = torch.sqrt((canvas.x - middle) ** 2 + (up + 0.014) ** 2)
    picture = blend(picture, _constant(below, 1.0, 1.0, 1.0), canvas.edge(gleam - 0.007) * opening * 0.9)
    lash = _constant(below, 0.10, 0.07, 0.06)
    thick = 0.0075 + 0.003 * across.clamp(0, 1)
    picture = blend(picture, lash, canvas.edge((up - upper).abs() - thick) * reach * 0.92)
    return blend(picture, below * 0.55, canvas.edge((up - lower).abs() - 0.004) * reach * 0.55)


def paint_brows(canvas: Canvas, below: Tensor) -> Tensor:
    """Both eyebrows."""
    identity, motion = canvas.identity, canvas.motion
    side = canvas.x.abs()
    along = (side - 0.175) / 0.115
    middle = BROW_Y - identity.brow_height - 0.032 * motion.brow - 0.026 * identity.brow_arch * (1 - along * along)
    middle = middle + 0.010 * (motion.brow < 0) * motion.brow * along
    thick = identity.brow_thickness * (1 - 0.45 * along.clamp(min=0))
    coverage = canvas.edge(torch.maximum((canvas.y - middle).abs() - thick, (along.abs() - 1) * 0.115), 2.0)
    return blend(below, identity.hair * 0.62, coverage * 0.88)


def paint_nose(canvas: Canvas, below: Tensor) -> Tensor:
    """Nostrils, wings and the light on the tip; the ridge itself is relief."""
    identity = canvas.identity
    tip = NOSE_Y + identity.nose_length
    side = canvas.x.abs() / identity.nose_width
    nostril = bell((side - 0.034) / 0.017) * bell((canvas.y - tip - 0.034) / 0.010)
    wing = bell((torch.sqrt((side - 0.052) ** 2 + (canvas.y - tip - 0.012) ** 2) - 0.034) / 0.008) * (side > 0.05)
    under = bell(side / 0.07) * bell((canvas.y - tip - 0.050) / 0.016)
    dark = (0.72 * nostril + 0.26 * wing + 0.20 * under).clamp(0, 0.85)
    light = 0.10 * bell(side / 0.022) * bell((canvas.y - tip + 0.012) / 0.022)
    return below * (1 - (dark * canvas.front)[:, None]) + (light * canvas.front)[:, None]


def paint_beard(canvas: Canvas, below: Tensor) -> Tensor:
    """Beard and moustache, where there are any."""
    identity, side = canvas.identity, canvas.x.abs()
    y = lower_jaw(canvas.y, canvas.motion.mouth_open)
    line = 0.375 - 0.32 * smoothstep((side - 0.10) / 0.26)
    beard = smoothstep((y - line) / 0.05) * smoothstep((canvas.z + 0.12) / 0.1) * identity.beard
    curve = MOUTH_Y - 0.052 + 1.3 * canvas.x * canvas.x - 0.015 * canvas.motion.smile
    upper = smoothstep((0.030 - (canvas.y - curve).abs()) / 0.018) * smoothstep((0.15 - side) / 0.03)
    cover = torch.maximum(beard, upper * identity.moustache) * canvas.front
    grain = 0.92 + 0.08 * torch.sin(canvas.x * 190 + 3 * torch.sin(y * 90))
    return blend(below, identity.hair * 0.85 * grain[:, None], cover)


def paint_mouth(canvas: Canvas, below: Tensor) -> Tensor:
    """Lips, teeth and tongue."""
    identity, motion = canvas.identity, canvas.motion
    width = identity.mouth_width * mouth_stretch(motion)
    across = canvas.x / width
    arch = (1 - across * across).clamp(min=0)
    curve = MOUTH_Y - 0.045 * motion.smile * (across * across).clamp(max=1.4)
    full = 1 + 0.25 * (-motion.mouth_wide).clamp(min=0)
    opening = 0.15 * motion.mouth_open
    upper = curve - 0.18 * opening * arch.sqrt()
    lower = curve + 0.82 * opening * arch.sqrt()
    bow = 1 - 0.30 * bell(canvas.x / 0.016) + 0.10 * bell((canvas.x.abs() - 0.035) / 0.02)
    top = upper - 0.030 * identity.lip_fullness * full * arch * bow
    bottom = lower + 0.040 * identity.lip_fullness * full * arch.sqrt() * (1 - 0.15 * motion.smile.clamp(min=0))
    ends = (across.abs() - 1) * width
    lips = canvas.edge(torch.maximum(torch.maximum(top - canvas.y, canvas.y - bottom), ends))
    tone = 1 - 0.16 * smoothstep((lower - canvas.y) / 0.02) + 0.10 * bell((canvas.y - (lower + bottom) / 2) / 0.012)
    picture = blend(below, identity.lip * tone[:, None], lips * 0.95)
    inside = canvas.edge(torch.maximum(torch.maximum(upper - canvas.y, canvas.y - lower), ends), 0.5)
    inside = inside * smoothstep(opening / 0.012)
    picture = blend(picture, _constant(below, 0.20, 0.05, 0.06), inside)
    tongue = bell(canvas.x / (width * 0.65)) * smoothstep((canvas.y - lower + 0.045) / 0.03)
    picture = blend(picture, _constant(below, 0.66, 0.26, 0.27), inside * tongue * 0.85)
    teeth = canvas.edge(canvas.y - upper - 0.030 * arch.sqrt()) * smoothstep((opening - 0.015) / 0.02)
    teeth = inside * teeth * smoothstep((0.86 - across.abs()) / 0.12)
    picture = blend(picture, _constant(below, 0.95, 0.94, 0.91), teeth)
    closed = 1 - smoothstep((opening - 0.008) / 0.02)
    line = canvas.edge(torch.maximum((canvas.y - curve).abs() - 0.005, ends - 0.006))
    return blend(picture, identity.lip * 0.38, line * closed * 0.9)
