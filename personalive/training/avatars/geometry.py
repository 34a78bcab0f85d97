"""The drawn head as one thing in space: poses, rays, the face's surface and the labels that follow from them.

A pixel's ray meets the head at a point in head coordinates (identity.py), and everything that is drawn on the head is a
function of that point. So outline, hair, ears and features turn together.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from personalive.training.avatars.identity import Identity
from personalive.training.avatars.motion import Motion

EYE_Y, BROW_Y, NOSE_Y, MOUTH_Y, CHIN_Y, CROWN_Y = -0.055, -0.150, 0.150, 0.290, 0.545, -0.620
FACE_FRONT, FACE_BACK = 0.43, 0.50
"""How far the skull reaches towards the viewer and away from the viewer."""
JAW_DROP = 0.10
"""How far a fully open mouth moves the chin."""
MARCH_STEPS = 10

Record = TypeVar("Record", Identity, Motion)


def spread(record: Record) -> Record:
    """Numbers `[B]` as `[B, 1, 1]` and colours `[B, C]` as `[B, C, 1, 1]`, to be mixed with pictures."""
    values = {}
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        values[field.name] = value.reshape(*value.shape, 1, 1)
    return type(record)(**values)


def smoothstep(value: Tensor) -> Tensor:
    """0 below 0, 1 above 1, smooth between."""
    value = value.clamp(0, 1)
    return value * value * (3 - 2 * value)


def bell(value: Tensor) -> Tensor:
    """1 at 0, and about 0 beyond 2."""
    return torch.exp(-value * value)


def rotation(motion: Motion) -> Tensor:
    """R = Rz(roll)·Ry(yaw)·Rx(pitch) of docs/reference/model.md section 9.2, `[B, 3, 3]`."""
    pitch, yaw, roll = (angle * (math.pi / 180) for angle in (motion.pitch, motion.yaw, motion.roll))
    cx, sx, cy, sy, cz, sz = pitch.cos(), pitch.sin(), yaw.cos(), yaw.sin(), roll.cos(), roll.sin()
    rows = (
        (cz * cy, cz * sy * sx - sz * cx, cz * sy * cx + sz * sx),
        (sz * cy, sz * sy * sx + cz * cx, sz * sy * cx - cz * sx),
        (-sy, cy * sx, cy * cx),
    )
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def project(points: Tensor, motion: Motion) -> Tensor:
    """Head coordinates `[B, P, 3]` to the picture: k' = s·(k·Rᵀ) + t, x and y in [-1, 1], `[B, P, 3]`."""
    turned = points @ rotation(motion).transpose(1, 2) * motion.scale[:, None, None]
    shift = torch.stack((motion.translate_x, motion.translate_y, torch.zeros_like(motion.scale)), -1)
    return turned + shift[:, None]


def face_landmarks(identity: Identity, motion: Motion) -> Tensor:
    """Named points that move with the expression too, in the picture, `[B, 14, 2]`, x and y in [-1, 1].

    Order: outer and inner corner of the left eye, inner and outer of the right (left and right in the picture), nose
    tip, left and right mouth corner, middle of the upper and of the lower inner lip, lower end of the chin, left and
    right edge of the face at the height of the eyes, forehead, middle of the brows. Their extent is that of mediapipe's
    mesh, to about 2 % of the picture.
    """
    tall, half = identity.face_height, identity.face_width
    inner, outer = identity.eye_distance - identity.eye_width, identity.eye_distance + identity.eye_width
    width = identity.mouth_width * mouth_stretch(motion)
    corner = MOUTH_Y - 0.045 * motion.smile
    opening = 0.15 * motion.mouth_open
    zero = torch.zeros_like(tall)

    def point(x: Tensor, y: Tensor | float, z: Tensor | float) -> Tensor:
        return torch.stack((x, zero + y, zero + z), -1)

    points = (
        point(-outer, EYE_Y, 0.33), point(-inner, EYE_Y, 0.40), point(inner, EYE_Y, 0.40), point(outer, EYE_Y, 0.33),
        point(zero, NOSE_Y + identity.nose_length, FACE_FRONT + 0.10),
        point(-width, corner, 0.35), point(width, corner, 0.35),
        point(zero, MOUTH_Y - 0.18 * opening, 0.39), point(zero, MOUTH_Y + 0.82 * opening, 0.38),
        point(zero, 0.475 * tall + JAW_DROP * motion.mouth_open, 0.20),
        point(-half, EYE_Y, 0.0), point(half, EYE_Y, 0.0),
        point(zero, -0.335 * tall, 0.38), point(zero, BROW_Y, 0.43),
    )  # fmt: skip
    return project(torch.stack(points, 1), motion)[..., :2]


def canonical_keypoints(identity: Identity) -> Tensor:
    """The 21 points that the motion extractor finds, in head coordinates, `[B, 21, 3]`: these do not move.

    Those that are drawn into the raster (docs/reference/streaming.md section 4) are 1 and 2 the eyes, 3 and 4 the
    corners of the mouth, 12 the nose tip, 15 the chin, 20 the forehead.
    """
    tall, half, zero = identity.face_height, identity.face_width, torch.zeros_like(identity.face_width)
    eye, mouth, nose = identity.eye_distance, identity.mouth_width, NOSE_Y + identity.nose_length

    def point(x: Tensor, y: Tensor | float, z: float) -> Tensor:
        return torch.stack((x, zero + y, zero + z), -1)

    points = (
        point(zero, CROWN_Y * tall, 0.0),
        point(-eye, EYE_Y, 0.38), point(eye, EYE_Y, 0.38),
        point(-mouth, MOUTH_Y, 0.36), point(mouth, MOUTH_Y, 0.36),
        point(-half, 0.0, 0.0), point(half, 0.0, 0.0),
        point(-eye, BROW_Y, 0.37), point(eye, BROW_Y, 0.37),
        point(-0.8 * half, 0.30, 0.1), point(0.8 * half, 0.30, 0.1),
        point(zero, EYE_Y, FACE_FRONT), point(zero, nose, FACE_FRONT + 0.10),
        point(-0.6 * half, 0.12, 0.32), point(0.6 * half, 0.12, 0.32),
        point(zero, CHIN_Y * tall, 0.12), point(zero, MOUTH_Y, 0.40),
        point(-0.7 * half, -0.30, 0.2), point(0.7 * half, -0.30, 0.2),
        point(zero, 0.0, -FACE_BACK), point(zero, -0.32 * tall, 0.38),
    )  # fmt: skip
    return torch.stack(points, 1)


def mouth_stretch(motion: Motion) -> Tensor:
    """Width of the mouth relative to rest."""
    round_mouth = (-motion.mouth_wide).clamp(min=0)
    wide_mouth = motion.mouth_wide.clamp(min=0)
    return 1 + 0.20 * wide_mouth - 0.30 * round_mouth + 0.12 * motion.smile - 0.08 * motion.mouth_open


@dataclass(frozen=True)
class Rays:
    """One ray for every pixel, in head coordinates; depth is measured along `direction`, towards the viewer."""

    x: Tensor
    y: Tensor
    """The pixel relative to the head's position, in head units, not turned, `[B, S, S]`."""
    origin: tuple[Tensor, Tensor, Tensor]
    direction: tuple[Tensor, Tensor, Tensor]
    pixel: Tensor
    """Size of a pixel in head units, `[B, 1, 1]`."""
    turn: Tensor
    """`[B, 3, 3]` head to picture."""

    def at(self, depth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Points in head coordinates, each `[B, S, S]`."""
        (ox, oy, oz), (dx, dy, dz) = self.origin, self.direction
        return ox + depth * dx, oy + depth * dy, oz + depth * dz


def cast_rays(motion: Motion, size: int) -> Rays:
    """Parallel rays through the centre of every pixel of a `size` x `size` picture."""
    device = motion.yaw.device
    line = (torch.arange(size, device=device, dtype=torch.float32) + 0.5) * (2 / size) - 1
    scale = motion.scale[:, None, None]
    x = ((line[None, None, :] - motion.translate_x[:, None, None]) / scale).expand(-1, size, -1)
    y = ((line[None, :, None] - motion.translate_y[:, None, None]) / scale).expand(-1, -1, size)
    turn = rotation(motion)
    cell = [[turn[:, i, j, None, None] for j in range(3)] for i in range(3)]
    ox, oy, oz = (cell[0][j] * x + cell[1][j] * y for j in range(3))
    dx, dy, dz = cell[2]
    return Rays(x, y, (ox, oy, oz), (dx, dy, dz), 2 / size / scale, turn)


def meet_ellipsoid(
    rays: Rays, centre: tuple[Tensor | float, ...], radii: tuple[Tensor | float, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    """Where rays enter and leave an ellipsoid, and by how much they miss it.

    Returns:
        (near depth, far depth, distance): distance in head units from the outline, negative inside. A ray that misses
        has both depths at its closest approach. An infinite radius makes a cylinder.
    """
    a = b = torch.zeros_like(rays.x)
    c = a - 1
    slope = []
    for o, d, m, r in zip(rays.origin, rays.direction, centre, radii, strict=True):
        u, v = (o - m) / r, d / r
        a, b, c = a + v * v, b + u * v, c + u * u
        slope.append((u, v, r))
    middle = -b / a
    least = (c + b * middle).clamp(min=-1)  # squared scaled distance at the closest approach, minus 1
    half = ((-least).clamp(min=0) / a).sqrt()
    scaled = (least + 1).clamp(min=1e-6).sqrt()
    gradient = sum((((u + middle * v) / r) ** 2 for u, v, r in slope), torch.zeros_like(scaled)).clamp(min=1e-6).sqrt()
    return middle + half, middle - half, scaled * (scaled - 1) / gradient


def lower_jaw(y: Tensor, mouth_open: Tensor) -> Tensor:
    """Height of a point in the face at rest: an open mouth moves what is below the lips down."""
    drop = JAW_DROP * mouth_open
    return y - drop * smoothstep((y - 0.26) / 0.24)


def relief(x: Tensor, y: Tensor, identity: Identity) -> Tensor:
    """How much the face stands out from the smooth skull, in head units; `identity` is broadcast, y is at rest."""
    side = x.abs()
    tip = NOSE_Y + identity.nose_length
    rise = ((y + 0.09) / (tip + 0.09)).clamp(0, 1)
    ridge = (0.015 + 0.095 * rise * rise.sqrt()) * smoothstep((y + 0.16) / 0.12) * smoothstep((tip + 0.055 - y) / 0.06)
    nose = ridge * bell(x / (identity.nose_width * (0.034 + 0.026 * rise)))
    wings = 0.035 * bell((side - 0.052 * identity.nose_width) / 0.026) * bell((y - tip - 0.005) / 0.030)
    sockets = -0.030 * bell((side - identity.eye_distance) / 0.085) * bell((y - EYE_Y) / 0.050)
    eyeballs = 0.014 * bell((side - identity.eye_distance) / 0.055) * bell((y - EYE_Y) / 0.032)
    brows = 0.014 * bell((side - 0.15) / 0.13) * bell((y - BROW_Y) / 0.045)
    lips = 0.020 * bell(x / 0.11) * bell((y - MOUTH_Y) / 0.050)
    chin = 0.030 * bell(x / 0.10) * bell((y - 0.44) / 0.07)
    cheeks = 0.020 * bell((side - 0.22) / 0.10) * bell((y - 0.10) / 0.09)
    return nose + wings + sockets + eyeballs + brows + lips + chin + cheeks


def skull_distance(point: tuple[Tensor, Tensor, Tensor], identity: Identity, mouth_open: Tensor) -> Tensor:
    """Signed distance, about right near the surface, of points from the head; `identity` is broadcast."""
    x, y, z = point
    y = lower_jaw(y, mouth_open)
    a = identity.face_width * (1 - identity.jaw * smoothstep((y - 0.02) / 0.58))
    b = torch.where(y < 0, -CROWN_Y * identity.face_height, CHIN_Y * identity.face_height)
    c = torch.where(z > 0, FACE_FRONT, FACE_BACK)
    u, v, w = x / a, y / b, z / c
    scaled = (u * u + v * v + w * w).clamp(min=1e-6).sqrt()
    gradient = ((u / a) ** 2 + (v / b) ** 2 + (w / c) ** 2).clamp(min=1e-6).sqrt()
    return scaled * (scaled - 1) / gradient - relief(x, y, identity) * smoothstep(z / 0.2)


def meet_head(rays: Rays, identity: Identity, mouth_open: Tensor) -> tuple[Tensor, Tensor]:
    """Where rays meet the face: depth, and distance from the outline (negative or about 0 inside), `[B, S, S]`."""
    low = (CHIN_Y * identity.face_height + JAW_DROP * mouth_open - CROWN_Y * identity.face_height) / 2
    middle = CHIN_Y * identity.face_height + JAW_DROP * mouth_open - low
    # The hull starts in front of the nose, so that a turned nose hides the cheek behind it.
    near, far, _ = meet_ellipsoid(rays, (0.0, middle, 0.0), (identity.face_width * 1.02, low * 1.02, FACE_FRONT + 0.16))
    closest = (near + far) / 2
    depth, distance = near, torch.full_like(near, 1e3)
    for _ in range(MARCH_STEPS):
        gap = skull_distance(rays.at(depth), identity, mouth_open)
        distance = torch.minimum(distance, gap)
        depth = torch.maximum(depth - 0.85 * gap, closest)
    return depth, distance


def surface_normal(depth: Tensor, pixel: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Unit normals in the picture's space from the depth of neighbouring pixels, each `[B, S, S]`."""
    across = torch.nn.functional.pad((depth[:, :, 2:] - depth[:, :, :-2]) / 2, (1, 1)) / pixel
    down = torch.nn.functional.pad((depth[:, 2:] - depth[:, :-2]) / 2, (0, 0, 1, 1)) / pixel
    nx, ny = -across.clamp(-3, 3), -down.clamp(-3, 3)
    length = (nx * nx + ny * ny + 1).sqrt()
    return nx / length, ny / length, 1 / length
