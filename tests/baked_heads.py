"""A file as `heads.bake` writes it, without MakeHuman's shapes: balls with eyes, lids and a mouth."""

from pathlib import Path

import numpy as np

from personalive.training.heads.points import EYE_DEPTH, EYE_LINE, NAMES
from personalive.training.heads.pose import LANDMARKS

RINGS, SECTORS = 24, 32
UNITS = (
    "eyeBlinkLeft", "eyeBlinkRight", "jawOpen", "mouthSmileLeft", "mouthSmileRight", "browInnerUp", "mouthPucker",
    "mouthStretchLeft", "mouthStretchRight",
)  # fmt: skip
PLACES = {
    "nose": (0, 0.1, 0.6), "chin": (0, 0.54, 0.2), "mouth_left": (-0.15, 0.28, 0.5), "mouth_right": (0.15, 0.28, 0.5),
    "lip_upper": (0, 0.27, 0.55), "lip_lower": (0, 0.3, 0.55), "between_brows": (0, -0.15, 0.55),
    "bridge": (0, -0.055, 0.55), "forehead": (0, -0.3, 0.5),
    "edge_left": (-0.45, -0.05, 0), "edge_right": (0.45, -0.05, 0), "crown": (0, -0.6, 0), "back": (0, 0, -0.6),
}  # fmt: skip


def ball(centre, radius, rings, sectors):
    """Vertices and triangles that face outwards, y down."""
    polar = np.linspace(0, np.pi, rings)[:, None]
    azimuth = np.linspace(0, 2 * np.pi, sectors, endpoint=False)[None]
    points = np.stack(
        (np.sin(polar) * np.sin(azimuth), -np.cos(polar) + 0 * azimuth, np.sin(polar) * np.cos(azimuth)), -1
    ).reshape(-1, 3)
    row, column = np.meshgrid(np.arange(rings - 1), np.arange(sectors), indexing="ij")
    a, b = row * sectors + column, row * sectors + (column + 1) % sectors
    c, d = a + sectors, b + sectors
    faces = np.concatenate((np.stack((a, c, b), -1).reshape(-1, 3), np.stack((b, c, d), -1).reshape(-1, 3)))
    return np.array(centre) + np.array(radius) * points, faces


def bake_balls(path: Path) -> None:
    """Write three heads."""
    parts = [ball((0, 0, 0), (0.45, 0.6, 0.55), RINGS, SECTORS)]
    parts += [ball((x, EYE_LINE, EYE_DEPTH + 0.1), 0.09, 8, 12) for x in (-0.18, 0.18)]
    vertices = np.concatenate([points for points, _ in parts])
    starts = np.cumsum([0, *(len(points) for points, _ in parts)])
    faces = np.concatenate([triangles + start for (_, triangles), start in zip(parts, starts, strict=False)])
    part = np.concatenate([np.full(len(triangles), number) for number, (_, triangles) in enumerate(parts)])
    skin = vertices[: starts[1]]

    def near(place, width):
        return np.exp(-((skin - np.array(place)) ** 2).sum(axis=1) / width**2)

    units = np.zeros((len(UNITS), len(vertices), 3))
    for number, name in enumerate(UNITS):
        side = -0.18 if name.endswith("Left") else 0.18
        place = (
            (side, EYE_LINE, 0.5)
            if "Blink" in name
            else (0, -0.15, 0.5)
            if "brow" in name
            else (side * 0.8, 0.35, 0.45)
        )
        # A lid comes forward over the eye; everything else moves down.
        units[number, : starts[1]] = near(place, 0.15)[:, None] * ((0, 0, 0.25) if "Blink" in name else (0, 0.15, 0))
    masks = np.zeros((len(vertices), 5))
    masks[: starts[1], 0] = near((0, 0.28, 0.5), 0.1)
    masks[: starts[1], 4] = 1
    points = dict.fromkeys(dict.fromkeys((*NAMES, *LANDMARKS)), (0.0, 0.0, 0.5))
    for eye, sign in (("left", -1), ("right", 1)):
        points |= {f"outer_{eye}": (sign * 0.27, -0.055, 0.4), f"inner_{eye}": (sign * 0.1, -0.055, 0.5)}
        points |= {f"eye_{eye}": (sign * 0.18, -0.055, 0.5)}
    points |= PLACES
    numbers = [int(np.argmin(((skin - np.array(place)) ** 2).sum(axis=1))) for place in points.values()]
    random = np.random.default_rng(0)
    np.savez(
        path,
        shapes=np.stack([vertices * size for size in (0.95, 1.0, 1.05)]).astype(np.float16),
        scales=np.ones(3, np.float32), mean=vertices.astype(np.float32), units=units.astype(np.float16),
        unit_names=np.array(UNITS), faces=faces.astype(np.int16), part=part.astype(np.uint8),
        masks=(masks * 255).astype(np.uint8), head_weight=np.ones(len(vertices), np.float16),
        points=np.array(numbers, np.int32), point_names=np.array(list(points)),
        textures=random.integers(0, 255, (2, 16, 16, 3), dtype=np.uint8), texture_names=np.array(["a", "b"]),
    )  # fmt: skip
