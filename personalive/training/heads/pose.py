"""How a head moves: expressions from the signals of `Motion`, lids on eyeballs, the turn of head and neck, labels."""

from dataclasses import dataclass

import torch
from torch import Tensor

from personalive.training.avatars.geometry import rotation
from personalive.training.avatars.motion import Motion
from personalive.training.heads.identity import HeadIdentity
from personalive.training.heads.model import HeadModel
from personalive.training.heads.points import NAMES

NECK = (0.0, 0.30, -0.12)
"""What the head turns around, relative to which the shoulders stay."""
GAZE_X, GAZE_Y = 0.45, 0.32
"""Radians of an eye that looks to the side, and up or down."""
LANDMARKS = (
    "outer_left", "inner_left", "inner_right", "outer_right", "nose", "mouth_left", "mouth_right", "lip_upper",
    "lip_lower", "chin", "edge_left", "edge_right", "forehead", "between_brows",
)  # fmt: skip
"""In the order of avatars.face_landmarks."""
LID_GAP = 1.045
"""Distance of the lids' skin from the centre of the eyeball, in its radii."""


@dataclass(frozen=True)
class Posed:
    """B heads in the space of the picture: x and y in [-1, 1] before perspective, z towards the viewer."""

    rest: Tensor
    """Without expression, in head units, `[B, V, 3]`."""
    shown: Tensor
    """With expression, in head units, `[B, V, 3]`."""
    turned: Tensor
    """`[B, V, 3]`"""
    eyes: Tensor
    """Centres of the eyeballs in head units, `[B, 2, 3]`."""
    radii: Tensor
    """`[B, 2]`"""


def unit_weights(model: HeadModel, identity: HeadIdentity, motion: Motion) -> Tensor:
    """How strongly each expression unit works, `[B, U]`."""
    up, down = motion.brow.clamp(min=0), (-motion.brow).clamp(min=0)
    wide, narrow = motion.mouth_wide.clamp(min=0), (-motion.mouth_wide).clamp(min=0)
    glad, sad = motion.smile.clamp(min=0), (-motion.smile).clamp(min=0)
    low, high = motion.gaze_y.clamp(min=0), (-motion.gaze_y).clamp(min=0)
    awake = 1 - motion.blink
    weights = {
        "eyeBlink": motion.blink, "eyeSquint": 0.35 * glad * awake, "eyeWide": 0.5 * up * awake,
        "eyeLookDown": 0.8 * low * awake, "eyeLookUp": 0.8 * high * awake,
        "browInnerUp": up, "browOuterUp": up, "browDown": down,
        "jawOpen": 0.72 * motion.mouth_open, "mouthStretch": 0.7 * wide, "mouthFunnel": 0.45 * narrow,
        "mouthPucker": 0.75 * narrow * (1 - 0.4 * motion.mouth_open),
        "mouthSmile": 0.9 * glad, "cheekSquint": 0.5 * glad, "mouthFrown": sad, "mouthUpperUp": 0.25 * glad,
    }  # fmt: skip
    zero = torch.zeros_like(motion.brow)
    columns = [weights.get(name.removesuffix("Left").removesuffix("Right"), zero) for name in model.unit_names]
    gains = torch.stack(
        [
            torch.ones_like(zero) if name.startswith(("eyeBlink", "eyeLook")) else identity.gains[:, number]
            for number, name in enumerate(model.unit_names)
        ],
        dim=-1,
    )
    return torch.stack(columns, dim=-1) * gains


def pose_heads(model: HeadModel, identity: HeadIdentity, motion: Motion) -> Posed:
    """Shape, expression and pose of B people."""
    rest = rest_shape(model, identity)
    scale = torch.lerp(model.scales[identity.first], model.scales[identity.second], identity.mix)
    weights = unit_weights(model, identity, motion) * scale[:, None]
    shown = rest + (weights @ model.units.flatten(1)).unflatten(1, (-1, 3))
    centres, radii = [], []
    for eye, lid in zip(model.eyes, model.lids, strict=True):
        ball = rest[:, eye]
        centre = ball.mean(dim=1, keepdim=True)
        radius = (ball - centre).norm(dim=2).median(dim=1).values[:, None, None]
        away = shown[:, lid] - centre
        distance = away.norm(dim=2, keepdim=True).clamp(min=1e-4)
        # Lids slide over the eyeball instead of through it.
        pushed = centre + away / distance * torch.maximum(distance, radius * LID_GAP)
        shown = shown.index_copy(1, lid, torch.where(away[..., 2:] > 0, pushed, shown[:, lid]))
        centres.append(centre[:, 0])
        radii.append(radius[:, 0, 0])
    turned = turn(shown, model.head_weight, motion)
    return Posed(rest, shown, turned, torch.stack(centres, 1), torch.stack(radii, 1))


def rest_shape(model: HeadModel, identity: HeadIdentity) -> Tensor:
    """Without expression, head units, `[B, V, 3]`."""
    return torch.lerp(model.shapes[identity.first], model.shapes[identity.second], identity.mix[:, None, None])


def turn(points: Tensor, weight: Tensor, motion: Motion) -> Tensor:
    """Points in head units `[B, P, 3]` as the picture shows them; they follow the head by `weight` `[P]`.

    For the head itself this is k' = s·(k·Rᵀ) + t (docs/reference/model.md section 9.3).
    """
    matrix = rotation(motion).transpose(1, 2)
    shift = torch.stack((motion.translate_x, motion.translate_y, torch.zeros_like(motion.scale)), -1)[:, None]
    size = motion.scale[:, None, None]
    neck = points.new_tensor(NECK)
    still = points - neck + neck @ matrix[:, None]  # the shoulders go where the neck goes
    return torch.lerp(still.squeeze(1), points @ matrix, weight[:, None]) * size + shift


def camera(points: Tensor, identity: HeadIdentity, motion: Motion) -> Tensor:
    """Perspective: what is nearer is larger. The eyes' plane keeps its size. `[B, P, 3]`"""
    depth = points[..., 2:] / motion.scale[:, None, None]
    factor = 1 / (1 - (depth - 0.3) * identity.perspective[:, None, None])
    centre = torch.stack((motion.translate_x, motion.translate_y), -1)[:, None]
    return torch.cat(((points[..., :2] - centre) * factor + centre, points[..., 2:]), dim=-1)


def canonical_points(model: HeadModel, identity: HeadIdentity) -> Tensor:
    """The 21 points that the motion extractor finds, in head units, `[B, 21, 3]`: these do not move."""
    numbers = torch.tensor([model.points[name] for name in NAMES], device=model.device)
    return rest_shape(model, identity)[:, numbers]


def landmarks(model: HeadModel, posed: Posed, identity: HeadIdentity, motion: Motion) -> Tensor:
    """Named points in the picture, as avatars.face_landmarks has them, `[B, 14, 2]`."""
    numbers = torch.tensor([model.points[name] for name in LANDMARKS], device=model.device)
    return camera(posed.turned[:, numbers], identity, motion)[..., :2]


def gaze(motion: Motion) -> Tensor:
    """Where eyes look, unit vectors in head coordinates, `[B, 3]`."""
    x, y = GAZE_X * motion.gaze_x, GAZE_Y * motion.gaze_y
    return torch.stack((x.sin() * y.cos(), y.sin(), x.cos() * y.cos()), -1)
