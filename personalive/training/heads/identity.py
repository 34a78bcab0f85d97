"""Who a head in space is and how it is photographed: everything about a picture that does not move.

Most people are plausible. Some are not, in one or more respects: skin of any colour or made of brick, blue hair. A
model that has seen these has to copy what its reference shows.
"""

import dataclasses
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from personalive.training.avatars.identity import HAIR_COLOURS, IRIS_COLOURS

SKIN_TONES = (
    (0.95, 0.80, 0.72), (0.92, 0.74, 0.63), (0.86, 0.66, 0.53), (0.78, 0.57, 0.43), (0.66, 0.45, 0.33),
    (0.52, 0.34, 0.25), (0.40, 0.26, 0.19), (0.30, 0.19, 0.15),
)  # fmt: skip
ABSURD = 0.12
"""Probability of each absurd trait."""
# front, side and back length beyond the hairline (radians from the crown), thickness, azimuth at which the sides begin
HAIR_STYLES = (
    (0.00, 0.00, 0.00, 0.035, 1.1),  # cropped
    (0.00, 0.05, 0.05, 0.08, 1.1),  # short
    (0.12, 0.10, 0.10, 0.12, 1.1),  # short, full, a little into the forehead
    (0.30, 0.60, 0.60, 0.12, 0.9),  # bob with a fringe
    (0.00, 0.55, 0.60, 0.12, 0.85),  # bob
    (0.00, 1.30, 1.30, 0.11, 0.85),  # long
    (0.32, 1.20, 1.30, 0.12, 0.85),  # long with a fringe
    (0.02, 0.15, 0.15, 0.26, 1.0),  # curls
    (0.00, 0.00, 1.20, 0.07, 1.3),  # combed back, long behind
)  # fmt: skip


@dataclass(frozen=True)
class HeadIdentity:
    """A batch of B people; numbers are `[B]`, colours `[B, 3]`, and everything in [0, 1] unless it says otherwise."""

    first: Tensor
    second: Tensor
    """Baked shapes, int64."""
    mix: Tensor
    """Share of the second one."""
    gains: Tensor
    """How strongly each expression unit works, `[B, U]`: faces are not symmetric."""
    skin: Tensor
    patchy: Tensor
    redness: Tensor
    freckles: Tensor
    wrinkles: Tensor
    shine: Tensor
    skin_texture: Tensor
    """Number of a picture, int64."""
    skin_texture_share: Tensor
    lips: Tensor
    brow: Tensor
    brow_weight: Tensor
    brow_height: Tensor
    shadow: Tensor
    """Colour of make-up on the eyelids."""
    shadow_share: Tensor
    iris: Tensor
    iris_size: Tensor
    pupil: Tensor
    sclera: Tensor
    teeth: Tensor
    hair: Tensor
    hair_tips: Tensor
    hair_style: Tensor
    """`[B, 5]`, see HAIR_STYLES."""
    hairline: Tensor
    """How far it has receded, radians, about -0.1 to 0.6."""
    whorl: Tensor
    """Direction of the point from which hair runs, `[B, 3]`."""
    curl: Tensor
    strand: Tensor
    """How often strands repeat around the head."""
    bald: Tensor
    beard: Tensor
    """Density."""
    beard_length: Tensor
    moustache: Tensor
    beard_colour: Tensor
    glasses: Tensor
    """0 or 1."""
    rim: Tensor
    """Half width, half height, thickness, squareness of the rims, `[B, 4]`."""
    rim_colour: Tensor
    clothes: Tensor
    clothes_texture: Tensor
    clothes_share: Tensor
    collar: Tensor
    """Height, head units."""
    background: Tensor
    background_end: Tensor
    background_texture: Tensor
    background_share: Tensor
    background_place: Tensor
    """Cut out of the picture: left, top, side in [-1, 1] units, `[B, 3]`."""
    sky: Tensor
    ground: Tensor
    """Light from above and from below, `[B, 3]`."""
    side_light: Tensor
    """Light from the left minus that from the right, `[B, 3]`."""
    key: Tensor
    key_direction: Tensor
    """To the light, unit length, `[B, 3]`."""
    hardness: Tensor
    perspective: Tensor
    """1 / distance of the camera in head units, 0 to 0.12."""
    exposure: Tensor
    contrast: Tensor
    colourfulness: Tensor
    balance: Tensor
    blur: Tensor
    grain: Tensor
    compression: Tensor
    seed: Tensor
    """Of the pattern of noise, `[B, 3]`."""

    def __getitem__(self, index: object) -> "HeadIdentity":
        return HeadIdentity(**{name: value[index] for name, value in vars(self).items()})

    def __len__(self) -> int:
        return len(self.mix)

    def to(self, device: torch.device | str) -> "HeadIdentity":
        """The same people on another device."""
        return HeadIdentity(**{name: value.to(device) for name, value in vars(self).items()})

    def repeat(self, frames: int) -> "HeadIdentity":
        """Each person `frames` times in a row."""
        return HeadIdentity(**{name: value.repeat_interleave(frames, 0) for name, value in vars(self).items()})

    def replace(self, **values: Tensor) -> "HeadIdentity":
        """A copy with some fields changed."""
        return dataclasses.replace(self, **values)


class Dice:
    """Random numbers for `count` people."""

    def __init__(self, count: int, generator: Generator) -> None:
        self.count, self.generator = count, generator

    def uniform(self, low: float, high: float, width: int | None = None) -> Tensor:
        """`[B]` or `[B, width]`."""
        shape = (self.count,) if width is None else (self.count, width)
        return torch.rand(shape, generator=self.generator) * (high - low) + low

    def normal(self, spread: float, width: int | None = None) -> Tensor:
        """`[B]` or `[B, width]`, mean 0."""
        return torch.randn((self.count,) if width is None else (self.count, width), generator=self.generator) * spread

    def chance(self, probability: float) -> Tensor:
        """Bool `[B]`."""
        return torch.rand(self.count, generator=self.generator) < probability

    def index(self, count: int) -> Tensor:
        """int64 `[B]`."""
        return torch.randint(count, (self.count,), generator=self.generator)

    def between(self, palette: tuple[tuple[float, ...], ...], spread: float) -> Tensor:
        """Colours between neighbours of a palette, with noise, `[B, 3]`."""
        colours = torch.tensor(palette)
        place = self.uniform(0, len(colours) - 1.001)
        low = place.long()
        mixed = torch.lerp(colours[low], colours[low + 1], (place - low)[:, None])
        return (mixed * (1 + self.normal(spread, 3))).clamp(0.02, 0.98)

    def of(self, palette: tuple[tuple[float, ...], ...], spread: float) -> Tensor:
        """Colours of a palette with noise, `[B, 3]`."""
        return (torch.tensor(palette)[self.index(len(palette))] * (1 + self.normal(spread, 3))).clamp(0.02, 0.98)

    def either(self, probability: float, one: Tensor, other: Tensor) -> Tensor:
        """`one` with some probability, per person."""
        chosen = self.chance(probability)
        return torch.where(chosen.view(-1, *[1] * (one.ndim - 1)), one, other)


def muted(dice: Dice) -> Tensor:
    """Colours of walls, seldom strong ones, `[B, 3]`."""
    colour = dice.uniform(0, 1, 3)
    return torch.lerp(colour.mean(-1, keepdim=True).expand_as(colour), colour, dice.uniform(0, 1)[:, None] ** 1.5)


def sample_heads(
    count: int, generator: Generator, shapes: int, units: int, textures: int, plausible: bool = False
) -> HeadIdentity:
    """`count` people out of `shapes` baked ones; with `plausible`, nothing is absurd."""
    dice, absurd = Dice(count, generator), 0.0 if plausible else ABSURD
    any_colour = dice.uniform(0.03, 0.95, 3)
    skin = dice.either(absurd, any_colour, dice.between(SKIN_TONES, 0.035))
    natural = dice.either(0.12, dice.of(HAIR_COLOURS[6:], 0.03), dice.of(HAIR_COLOURS[:6], 0.08))
    hair = dice.either(absurd, dice.uniform(0.03, 0.95, 3), natural)
    zero = torch.zeros(count)
    style = torch.tensor(HAIR_STYLES)[dice.index(len(HAIR_STYLES))]
    style = style * (1 + dice.normal(0.12, 5)) + torch.cat((dice.normal(0.03, 3).abs(), torch.zeros(count, 2)), 1)
    curly = (style[:, 3] > 0.2).float()
    whorl = torch.stack((dice.normal(0.35), -torch.ones(count), dice.uniform(-0.7, 0.35)), -1)
    whorl = torch.nn.functional.normalize(whorl, dim=-1)
    bearded = dice.chance(0.4)
    pale = skin.mean(-1, keepdim=True)
    rosy = torch.tensor((0.78, 0.42, 0.40))
    lips = torch.lerp(skin * torch.tensor((0.92, 0.70, 0.70)), rosy * (0.35 + pale), dice.uniform(0, 0.45)[:, None])
    lips = dice.either(0.1, torch.tensor((0.65, 0.10, 0.15)) + dice.normal(0.12, 3), lips).clamp(0.03, 0.95)
    side = dice.uniform(-1, 1)
    key_direction = torch.stack((side, dice.uniform(-0.9, 0.25), dice.uniform(0.25, 1.0)), -1)
    grey = dice.uniform(0, 1)[:, None]
    sky = (0.55 * torch.lerp(torch.ones(count, 3), dice.uniform(0.65, 1.0, 3), 0.6 * grey)) * dice.uniform(0.7, 1.5)[
        :, None
    ]
    textured = dice.chance(0.45)
    rim = torch.stack(
        (dice.uniform(0.15, 0.19), dice.uniform(0.10, 0.16), dice.uniform(0.006, 0.017), dice.uniform(2, 5)), -1
    )
    return HeadIdentity(
        first=dice.index(shapes), second=dice.index(shapes), mix=dice.uniform(0, 1),
        gains=(1 + dice.normal(0.15, units)).clamp(0.5, 1.5),
        skin=skin, patchy=dice.uniform(0, 1), redness=dice.uniform(0, 1),
        freckles=dice.either(0.2, dice.uniform(0, 1), zero), wrinkles=dice.uniform(0, 1) ** 2,
        shine=dice.uniform(0, 1) ** 1.5,
        skin_texture=dice.index(textures), skin_texture_share=dice.either(absurd, dice.uniform(0.2, 0.8), zero),
        lips=lips,
        brow=torch.lerp(hair, torch.tensor((0.08, 0.06, 0.05)).expand(count, 3), dice.uniform(0.2, 0.9)[:, None]),
        brow_weight=dice.uniform(0.5, 1.3), brow_height=dice.uniform(0.7, 1.4),
        shadow=dice.uniform(0, 0.8, 3), shadow_share=dice.either(0.15, dice.uniform(0.1, 0.6), zero),
        iris=dice.either(absurd, dice.uniform(0, 1, 3), dice.of(IRIS_COLOURS, 0.12)),
        iris_size=dice.uniform(0.9, 1.12), pupil=dice.uniform(0.3, 0.55),
        sclera=(torch.tensor((0.88, 0.86, 0.84)) + dice.normal(0.03, 3)).clamp(0.5, 1),
        teeth=(torch.tensor((0.90, 0.86, 0.78)) + dice.normal(0.04, 3)).clamp(0.4, 1),
        hair=hair, hair_tips=(hair * dice.uniform(0.7, 1.5)[:, None] + dice.normal(0.03, 3)).clamp(0.02, 0.98),
        hair_style=style, hairline=dice.either(0.25, dice.uniform(0, 0.55), dice.normal(0.05)), whorl=whorl,
        curl=torch.where(curly > 0, dice.uniform(0.5, 1), dice.uniform(0, 0.5) ** 2), strand=dice.uniform(0.6, 1.8),
        bald=dice.chance(0.08).float(),
        beard=torch.where(bearded, dice.uniform(0.2, 1), zero), beard_length=dice.uniform(0, 1) ** 2,
        moustache=torch.where(bearded, dice.uniform(0.3, 1.3), zero),
        beard_colour=(hair * dice.uniform(0.6, 1.1)[:, None]).clamp(0.02, 0.95),
        glasses=dice.chance(0.2).float(), rim=rim,
        rim_colour=dice.either(0.6, dice.uniform(0.02, 0.12)[:, None].expand(count, 3), dice.uniform(0.05, 0.8, 3)),
        clothes=dice.uniform(0.03, 0.9, 3), clothes_texture=dice.index(textures),
        clothes_share=dice.either(0.4, dice.uniform(0.2, 0.9), zero), collar=dice.uniform(0.75, 1.1),
        background=muted(dice), background_end=muted(dice),
        background_texture=dice.index(textures), background_share=torch.where(textured, dice.uniform(0.3, 1), zero),
        background_place=torch.stack((dice.uniform(-0.4, 0.4), dice.uniform(-0.4, 0.4), dice.uniform(0.3, 0.6)), -1),
        sky=sky, ground=sky * dice.uniform(0.2, 0.9)[:, None] * dice.uniform(0.8, 1.1, 3),
        side_light=dice.normal(0.12, 1) * torch.ones(3) + dice.normal(0.04, 3),
        key=dice.uniform(0.2, 1.3)[:, None] * torch.lerp(torch.ones(count, 3), dice.uniform(0.75, 1.1, 3), grey),
        key_direction=torch.nn.functional.normalize(key_direction, dim=-1), hardness=dice.uniform(0.2, 1),
        perspective=dice.uniform(0.02, 0.12),
        exposure=dice.uniform(0.85, 1.4), contrast=dice.uniform(0.85, 1.2),
        colourfulness=dice.either(0.06, zero, dice.uniform(0.7, 1.2)), balance=1 + dice.normal(0.04, 3),
        blur=dice.uniform(0, 1) ** 2, grain=dice.uniform(0, 1) ** 2 * 0.02,
        compression=dice.either(0.5, dice.uniform(0, 1), zero), seed=dice.uniform(0, 1, 3),
    )  # fmt: skip
