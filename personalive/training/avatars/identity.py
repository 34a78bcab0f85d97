"""Who a drawn person is: everything about a portrait that does not move.

All lengths are head units: the face is about 0.8 wide and 1.13 tall, the origin is the centre of the head, x points
right in the picture, y down and z at the viewer. Colours are linear mixes in [0, 1].
"""

import dataclasses
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

SKIN_TONES = (
    (0.98, 0.85, 0.75),
    (0.93, 0.76, 0.62),
    (0.84, 0.64, 0.48),
    (0.68, 0.48, 0.34),
    (0.52, 0.35, 0.24),
    (0.41, 0.27, 0.19),
)
HAIR_COLOURS = (
    (0.09, 0.07, 0.06), (0.24, 0.15, 0.09), (0.42, 0.27, 0.15), (0.62, 0.44, 0.22), (0.84, 0.70, 0.42),
    (0.52, 0.20, 0.10), (0.62, 0.62, 0.64), (0.88, 0.87, 0.84),
)  # fmt: skip
IRIS_COLOURS = ((0.30, 0.18, 0.09), (0.20, 0.36, 0.55), (0.24, 0.42, 0.25), (0.42, 0.32, 0.16), (0.35, 0.40, 0.45))

# shell width, shell height, shell depth (all beyond the skull), hairline at the front, end of the sides, end of the
# back, angle (radians from the front) at which the sides begin, curliness, bun
HAIR_STYLES = (
    (0.030, 0.050, 0.04, -0.37, -0.05, 0.28, 1.35, 0.0, 0.0),  # short
    (0.055, 0.090, 0.06, -0.33, 0.02, 0.32, 1.30, 0.0, 0.0),  # full and short
    (0.075, 0.080, 0.08, -0.27, 0.40, 0.45, 1.08, 0.0, 0.0),  # bob with a fringe
    (0.070, 0.075, 0.08, -0.36, 0.42, 0.50, 1.10, 0.0, 0.0),  # bob
    (0.080, 0.080, 0.08, -0.35, 0.95, 0.98, 1.12, 0.1, 0.0),  # long
    (0.035, 0.040, 0.05, -0.38, -0.02, 0.30, 1.30, 0.0, 1.0),  # bun
    (0.160, 0.190, 0.17, -0.33, 0.10, 0.38, 1.20, 1.0, 0.0),  # curls
    (0.018, 0.020, 0.02, -0.44, -0.10, 0.22, 1.50, 0.0, 0.0),  # cropped, high hairline
)
STYLE_COLUMNS = ("width", "height", "depth", "front", "side", "back", "angle", "curl", "bun")


@dataclass(frozen=True)
class Identity:
    """A batch of B identities; numbers are `[B]`, colours `[B, 3]`, `hair_style` `[B, 9]`."""

    skin: Tensor
    face_width: Tensor
    face_height: Tensor
    jaw: Tensor
    """How much the face narrows towards the chin, about 0.1 to 0.4."""
    eye_distance: Tensor
    """From the middle of the face to the middle of an eye."""
    eye_width: Tensor
    eye_height: Tensor
    eye_tilt: Tensor
    iris: Tensor
    brow_thickness: Tensor
    brow_height: Tensor
    brow_arch: Tensor
    nose_length: Tensor
    nose_width: Tensor
    mouth_width: Tensor
    lip_fullness: Tensor
    lip: Tensor
    hair: Tensor
    hair_style: Tensor
    parting: Tensor
    """How much higher the hairline is on one side; the sign says which."""
    beard: Tensor
    moustache: Tensor
    """Opacity of the hair on the chin and above the lip; 0: none."""
    glasses: Tensor
    """1 with glasses, 0 without."""
    glasses_shape: Tensor
    glasses_colour: Tensor
    shirt: Tensor
    shirt_accent: Tensor
    neckline: Tensor
    background: Tensor
    background_end: Tensor
    background_angle: Tensor
    light: Tensor
    """Direction to the light in the picture's space, unit length, `[B, 3]`."""
    ambient: Tensor

    def __len__(self) -> int:
        return int(self.skin.shape[0])

    def __getitem__(self, index: Tensor | slice | list[int]) -> "Identity":
        return Identity(**{field.name: getattr(self, field.name)[index] for field in dataclasses.fields(self)})

    def to(self, device: torch.device | str) -> "Identity":
        """The same identities on another device."""
        return Identity(**{field.name: getattr(self, field.name).to(device) for field in dataclasses.fields(self)})

    def repeat(self, times: int) -> "Identity":
        """Every identity `times` times in a row: `[B * times]`."""
        return Identity(
            **{field.name: getattr(self, field.name).repeat_interleave(times, 0) for field in dataclasses.fields(self)}
        )


def sample_identities(count: int, generator: Generator) -> Identity:
    """Draw `count` people; the same generator state gives the same people on every machine (CPU tensors)."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=generator) * (high - low) + low

    def pick(table: tuple[tuple[float, ...], ...]) -> Tensor:
        return torch.tensor(table)[torch.randint(len(table), (count,), generator=generator)]

    def chance(probability: float) -> Tensor:
        return (torch.rand(count, generator=generator) < probability).float()

    tone = torch.rand(count, 1, generator=generator) * (len(SKIN_TONES) - 1.001)
    tones = torch.tensor(SKIN_TONES)
    below = tone.long().squeeze(1)
    skin = tones[below] + (tones[below + 1] - tones[below]) * (tone - tone.floor())
    skin = (skin * uniform(0.97, 1.03, 3)).clamp(0, 1)
    hair = (pick(HAIR_COLOURS) * uniform(0.85, 1.15, 1) * uniform(0.94, 1.06, 3)).clamp(0, 1)
    style = pick(HAIR_STYLES)
    spread = torch.tensor((0.15, 0.15, 0.15, 0.0, 0.0, 0.0, 0.0, 0.3, 0.0))
    style = style * (1 + spread * uniform(-1, 1, len(STYLE_COLUMNS)))
    style = style + torch.tensor((0, 0, 0, 0.02, 0.03, 0.03, 0.05, 0, 0)) * uniform(-1, 1, len(STYLE_COLUMNS))
    bearded = chance(0.3) * (style[:, 4] < 0.3)  # long hair and a beard would hide most of the face
    background = uniform(0.15, 0.85, 1) + uniform(-0.22, 0.22, 3)
    background = background.clamp(0.04, 0.96)
    light = torch.stack((uniform(-0.55, 0.55), uniform(-0.6, -0.1), torch.ones(count)), 1)
    lip = skin * torch.tensor((0.86, 0.52, 0.52)) + torch.tensor((0.10, 0.02, 0.03)) * uniform(0, 1.6, 1)
    return Identity(
        skin=skin,
        face_width=uniform(0.375, 0.425),
        face_height=uniform(0.95, 1.05),
        jaw=uniform(0.12, 0.36),
        eye_distance=uniform(0.168, 0.184),
        eye_width=uniform(0.082, 0.095),
        eye_height=uniform(0.90, 1.15),
        eye_tilt=uniform(-0.10, 0.12),
        iris=(pick(IRIS_COLOURS) * uniform(0.8, 1.2, 1)).clamp(0, 1),
        brow_thickness=uniform(0.012, 0.022),
        brow_height=uniform(-0.012, 0.012),
        brow_arch=uniform(0.6, 1.4),
        nose_length=uniform(-0.012, 0.018),
        nose_width=uniform(0.85, 1.2),
        mouth_width=uniform(0.125, 0.150),
        lip_fullness=uniform(0.75, 1.3),
        lip=lip.clamp(0, 1),
        hair=hair,
        hair_style=style,
        parting=uniform(-1, 1) * chance(0.7),
        beard=bearded * uniform(0.55, 0.95),
        moustache=torch.maximum(bearded, chance(0.08) * (style[:, 4] < 0.3)) * uniform(0.5, 0.9),
        glasses=chance(0.25),
        glasses_shape=uniform(0, 1),
        glasses_colour=uniform(0.04, 0.35, 1) * uniform(0.5, 1.3, 3),
        shirt=(uniform(0.1, 0.85, 1) + uniform(-0.3, 0.3, 3)).clamp(0.05, 0.95),
        shirt_accent=(uniform(0.1, 0.85, 1) + uniform(-0.3, 0.3, 3)).clamp(0.05, 0.95),
        neckline=uniform(0, 1),
        background=background,
        background_end=(background + uniform(-0.22, 0.22, 1) + uniform(-0.1, 0.1, 3)).clamp(0.03, 0.97),
        background_angle=uniform(-3.14159, 3.14159),
        light=light / light.norm(dim=1, keepdim=True),
        ambient=uniform(0.48, 0.62),
    )
