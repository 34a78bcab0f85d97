"""What heads are made of: skin, eyes, teeth, hair, clothes. Everything is a function of the place on the mean head."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from personalive.training.heads.identity import HeadIdentity
from personalive.training.heads.light import Surface
from personalive.training.heads.model import HeadModel
from personalive.training.heads.noise import smooth_noise

GLASSES, HAIR, BEARD = 7, 8, 9
"""Parts beyond bake.PARTS."""
IRIS, LIMBUS = 0.44, 0.06
"""Half the angle of the iris seen from the eyeball's centre, radians, and the width of its dark edge."""
SCALP_Y = -0.36


@dataclass(frozen=True)
class Seen:
    """What is known of each pixel, `[B, H, W, ...]`."""

    part: Tensor
    """-1 is the background."""
    place: Tensor
    """In the space of the picture."""
    normal: Tensor
    strand: Tensor
    mean: Tensor
    """The place on the mean head."""
    masks: Tensor
    """See HeadModel.masks."""
    eyes: Tensor
    """Centres in the space of the picture, `[B, 2, 3]`."""
    gaze: Tensor
    """In the space of the picture, `[B, 3]`."""
    radii: Tensor
    """`[B, 2]`"""


def mix(one: Tensor, other: Tensor, share: Tensor) -> Tensor:
    """From colours `one` to `other` by `share` `[B, H, W]`."""
    return one + (other - one) * share[..., None]


def spread(value: Tensor) -> Tensor:
    """`[B]` → `[B, 1, 1]`, `[B, 3]` → `[B, 1, 1, 3]`."""
    return value[:, None, None]


def ramp(value: Tensor, low: float, high: float) -> Tensor:
    """0 below `low`, 1 above `high`, smooth between."""
    share = ((value - low) / (high - low)).clamp(0, 1)
    return share * share * (3 - 2 * share)


def linear(colour: Tensor) -> Tensor:
    """From the colours of a screen to amounts of light."""
    return colour.clamp(min=0) ** 2.2


def paint(model: HeadModel, volume: Tensor, identity: HeadIdentity, seen: Seen) -> Surface:
    """Colour, shine and fine relief of all pixels."""
    part = seen.part
    colour, shine, normal = _skin(model, volume, identity, seen)
    inside = seen.masks[..., 3] * (part == 0)
    colour = mix(colour, linear(colour.new_tensor((0.35, 0.10, 0.10))).expand_as(colour), inside)
    depth = torch.ones_like(inside)
    mouth = (part >= 3) & (part <= 5)
    teeth = spread(linear(identity.teeth)).expand_as(colour)
    tongue = linear(colour.new_tensor((0.70, 0.30, 0.30))).expand_as(colour)
    colour = torch.where(
        ((part == 3) | (part == 4))[..., None], teeth, torch.where((part == 5)[..., None], tongue, colour)
    )
    # The deeper in the mouth, the darker.
    lips = seen.mean[..., 2]
    depth = torch.where(mouth | (inside > 0.5), ramp(lips, 0.25, 0.52) * 0.9 + 0.06, depth)
    shine = torch.where(mouth, 0.5, shine)
    eye_colour, eye_normal, eye_shade = _eyes(volume, identity, seen)
    is_eye = (part == 1) | (part == 2)
    colour = torch.where(is_eye[..., None], eye_colour, colour)
    normal = torch.where(is_eye[..., None], eye_normal, normal)
    shine = torch.where(is_eye, 2.2, shine)
    depth = torch.where(is_eye, eye_shade, depth)
    colour, normal, shine, depth = _fibres(volume, identity, seen, (colour, normal, shine, depth))
    is_rim = part == GLASSES
    colour = torch.where(is_rim[..., None], spread(linear(identity.rim_colour)).expand_as(colour), colour)
    return Surface(colour, normal, torch.where(is_rim, 1.0, shine), depth)


def _skin(model: HeadModel, volume: Tensor, identity: HeadIdentity, seen: Seen) -> tuple[Tensor, Tensor, Tensor]:
    x, y, z = seen.mean.unbind(-1)
    side = x.abs()
    lips, lids, ears, _, _ = seen.masks.unbind(-1)
    base = seen.mean + spread(identity.seed)
    coarse = smooth_noise(volume, base * 0.5)[..., 1]
    middle, fine = smooth_noise(volume, base * 1.7).unbind(-1), smooth_noise(volume, base * 0.9)[..., 0]
    tone = spread(linear(identity.skin))
    colour = tone * (1 + spread(identity.patchy) * (0.07 * coarse + 0.06 * middle[1] + 0.05 * middle[0]))[..., None]
    flush = torch.exp(-(((side - 0.22) / 0.12) ** 2) - ((y - 0.14) / 0.10) ** 2)
    flush = flush + 0.8 * torch.exp(-((side / 0.08) ** 2) - ((y - 0.13) / 0.06) ** 2) * ramp(z, 0.4, 0.6) + 0.6 * ears
    blood = colour.new_tensor((1.05, 0.72, 0.70))
    colour = colour * (1 + (blood - 1) * (spread(identity.redness) * flush * (1 + 0.3 * coarse))[..., None])
    around_eyes = torch.exp(-(((side - 0.21) / 0.11) ** 2) - ((y + 0.04) / 0.06) ** 2)
    colour = colour * (1 - 0.25 * spread(identity.wrinkles) * around_eyes)[..., None]
    dots = ramp(middle[0], 1.3, 2.0) * spread(identity.freckles) * ramp(0.35 - (y - 0.05).abs(), 0, 0.2)
    colour = mix(colour, colour * colour.new_tensor((0.62, 0.45, 0.35)), dots)
    above = lids * ramp(-y, 0.0, 0.08)
    colour = mix(colour, spread(linear(identity.shadow)).expand_as(colour), above * spread(identity.shadow_share))
    shaven = _beard_region(seen) * (0.6 * identity.beard + 0.25 * identity.moustache).clamp(0, 0.7)[:, None, None]
    colour = mix(
        colour,
        colour * 0.45 + 0.3 * spread(linear(identity.beard_colour)),
        shaven * (0.75 + 0.2 * middle[0]).clamp(0, 1),
    )
    colour = mix(colour, spread(linear(identity.lips)) * (1 + 0.12 * middle[0])[..., None], ramp(lips, 0.25, 0.75))
    colour = mix(colour, spread(linear(identity.brow)).expand_as(colour), _brows(identity, seen, middle[0]))
    texture = look_up(model.textures[identity.skin_texture], torch.stack((x * 1.6, y * 1.6), -1))
    colour = mix(colour, linear(texture), spread(identity.skin_texture_share) * (1 - ramp(lips, 0.25, 0.75)))
    scalp = ramp(-y, -SCALP_Y, -SCALP_Y + 0.08) * ramp(-z, -0.42, -0.2) * spread(1 - identity.bald)
    colour = mix(colour, spread(linear(identity.hair)).expand_as(colour), 0.5 * scalp)
    bump = spread(identity.wrinkles) * 0.10 + 0.03
    relief = torch.stack((middle[0] + fine, middle[1] + coarse, fine), -1) * bump[..., None]
    normal = F.normalize(seen.normal + 0.6 * relief, dim=-1)
    shine = (0.08 + 0.5 * spread(identity.shine)) * (1 + 1.2 * ramp(lips, 0.25, 0.75))
    dressed = _collar(identity, seen, coarse)
    cloth = look_up(model.textures[identity.clothes_texture], torch.stack((x * 0.8, y * 0.8), -1))
    cloth = mix(
        spread(linear(identity.clothes)).expand_as(colour), linear(cloth), spread(identity.clothes_share).expand_as(x)
    )
    cloth = cloth * (1 + 0.10 * coarse + 0.05 * fine)[..., None]
    colour, shine = mix(colour, cloth, dressed), shine * (1 - 0.9 * dressed)
    return colour, shine, normal


def _collar(identity: HeadIdentity, seen: Seen, noise: Tensor) -> Tensor:
    """Where clothes are: below a line that is lower at the front."""
    x, y, z = seen.mean.unbind(-1)
    line = (
        spread(identity.collar)
        + 0.25 * ramp(z, -0.1, 0.3) * torch.exp(-((x / 0.3) ** 2))
        - 0.1 * ramp(x.abs(), 0.3, 0.8)
    )
    return ramp(y - line + 0.004 * noise, 0.0, 0.015)


def _brows(identity: HeadIdentity, seen: Seen, noise: Tensor) -> Tensor:
    x, y, z = seen.mean.unbind(-1)
    side = x.abs()
    arch = -0.165 - 0.035 * torch.exp(-(((side - 0.25) / 0.09) ** 2)) + 0.05 * ramp(side, 0.28, 0.40)
    tall = 0.032 * spread(identity.brow_height) * (1 - 0.6 * ramp(side, 0.2, 0.38))
    inside = (
        torch.exp(-(((y - arch) / tall) ** 2))
        * ramp(side, 0.06, 0.11)
        * (1 - ramp(side, 0.33, 0.39))
        * ramp(z, 0.1, 0.2)
    )
    return (inside * (0.9 + 0.35 * noise) * spread(identity.brow_weight)).clamp(0, 1)


def _beard_region(seen: Seen) -> Tensor:
    x, y, z = seen.mean.unbind(-1)
    side = x.abs()
    chin = ramp(y - 0.34 + 0.55 * side, 0.0, 0.16)
    upper = ramp(y, 0.17, 0.21) * (1 - ramp(side, 0.14, 0.22))
    return (
        torch.maximum(chin, upper)
        * (1 - ramp(y, 0.56, 0.74))
        * ramp(z, -0.1, 0.05)
        * (1 - ramp(seen.masks[..., 0], 0.1, 0.4))
    )


def _eyes(volume: Tensor, identity: HeadIdentity, seen: Seen) -> tuple[Tensor, Tensor, Tensor]:
    """Colour, normal and how much light reaches them."""
    left = (seen.part == 1)[..., None]
    centre = torch.where(left, spread(seen.eyes[:, 0]), spread(seen.eyes[:, 1]))
    radius = torch.where(left[..., 0], spread(seen.radii[:, 0]), spread(seen.radii[:, 1]))
    outwards = F.normalize(seen.place - centre, dim=-1)
    gaze = spread(seen.gaze).expand_as(outwards)
    angle = torch.acos((outwards * gaze).sum(-1).clamp(-0.999, 0.999))
    iris = IRIS * spread(identity.iris_size)
    across = outwards - gaze * (outwards * gaze).sum(-1, keepdim=True)
    fibres = smooth_noise(volume, F.normalize(across, dim=-1) * 0.35 + spread(identity.seed))[..., 0]
    share = angle / iris
    colour = spread(linear(identity.iris)) * (0.75 + 0.5 * share + 0.22 * fibres)[..., None]
    colour = colour * (1 - 0.75 * ramp(share, 0.80, 1.0))[..., None]
    colour = colour * ramp(share, 0.0, 1.0).add(1).mul(0.7)[..., None]
    pupil = 1 - ramp(share - spread(identity.pupil), -0.04, 0.06)
    colour = mix(colour, torch.full_like(colour, 0.005), pupil)
    white = spread(linear(identity.sclera)) * (1 - 0.06 * fibres.abs())[..., None]
    white = white * (1 - 0.25 * ramp(angle, 0.7, 1.3)[..., None] * (1 - white.new_tensor((1.0, 0.75, 0.72))))
    colour = mix(colour, white, ramp(angle - iris, -LIMBUS / 2, LIMBUS / 2))
    # The upper lid and its lashes shade the eyeball.
    height = (seen.place[..., 1] - centre[..., 1]) / radius
    light = 0.35 + 0.65 * ramp(height, -0.55, 0.1)
    return colour, outwards, light * (1 - 0.5 * ramp(angle, 0.8, 1.25))


def _fibres(volume: Tensor, identity: HeadIdentity, seen: Seen, under: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Hair, beards and lashes, over what is painted already."""
    colour, normal, shine, depth = under
    part, strand = seen.part, seen.strand
    is_hair, is_beard, is_lash = part == HAIR, part == BEARD, part == 6
    noise = smooth_noise(volume, strand[..., :3] * 0.9 + spread(identity.seed))
    fine, coarse = noise.unbind(-1)
    along, level = strand[..., 3], strand[..., 4]
    hair = mix(
        spread(linear(identity.hair)).expand_as(colour),
        spread(linear(identity.hair_tips)).expand_as(colour),
        ramp(along, 0.2, 1.0),
    )
    hair = hair * (1 + 0.17 * fine + 0.15 * coarse).clamp(0.3, 2)[..., None]
    beard = spread(linear(identity.beard_colour)) * (0.9 + 0.3 * fine).clamp(0.3, 2)[..., None]
    colour = torch.where(is_hair[..., None], hair, torch.where(is_beard[..., None], beard, colour))
    lash = linear(colour.new_tensor((0.06, 0.05, 0.045))).expand_as(colour)
    colour = torch.where(is_lash[..., None], lash, colour)
    fibre = is_hair | is_beard | is_lash
    outwards = torch.where(seen.normal[..., 2:] < 0, -seen.normal, seen.normal)
    bent = F.normalize(outwards + 0.25 * torch.stack((fine, 0.3 * coarse, 0 * fine), -1), dim=-1)
    normal = torch.where(fibre[..., None], bent, normal)
    shine = torch.where(is_hair, (0.16 * (1 + 0.6 * fine)).clamp(min=0), torch.where(fibre, 0.03, shine))
    return colour, normal, shine, torch.where(is_hair | is_beard, 0.45 + 0.55 * level, depth)


def backdrop(model: HeadModel, volume: Tensor, identity: HeadIdentity, like: Tensor) -> Tensor:
    """What is behind people, as amounts of light, `[B, H, W, 3]`."""
    count, height, width = like.shape[:3]
    y = torch.linspace(-1, 1, height, device=like.device)[None, :, None].expand(count, -1, width)
    x = torch.linspace(-1, 1, width, device=like.device)[None, None, :].expand(count, height, -1)
    slope = (identity.seed * 2 - 1)[:, :, None, None]
    share = (0.5 + 0.5 * (slope[:, 0] * x + slope[:, 1] * y)).clamp(0, 1)
    plain = mix(
        spread(linear(identity.background)).expand(-1, height, width, -1),
        spread(linear(identity.background_end)).expand(-1, height, width, -1),
        share,
    )
    cloud = smooth_noise(volume, torch.stack((x * 0.15, y * 0.15, 0 * x), -1) + spread(identity.seed))[..., 1]
    plain = plain * (1 + 0.15 * cloud)[..., None]
    left, top, side = (identity.background_place[:, i, None, None] for i in range(3))
    picture = look_up(model.textures[identity.background_texture], torch.stack((left + side * x, top + side * y), -1))
    return mix(plain, linear(picture), spread(identity.background_share).expand_as(x))


def look_up(textures: Tensor, place: Tensor) -> Tensor:
    """Colours `[B, H, W, 3]` of pictures `[B, 3, s, s]` at places `[B, H, W, 2]`, mirrored beyond [-1, 1]."""
    found = F.grid_sample(textures, place, padding_mode="reflection", align_corners=False)
    return found.permute(0, 2, 3, 1)
