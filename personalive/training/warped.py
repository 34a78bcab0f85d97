"""Photographs of real people that move: mediapipe's mesh of the face is turned in space and drawn with the photograph.

That gives the truth for pictures of people whom no training saw. Mouths open onto darkness, and lids close by the skin
above them. What is around the face follows it, the less the farther away it is.
"""

import itertools
import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from personalive.media.faces import load_mediapipe
from personalive.training.heads.raster import rasterise
from personalive.training.measure import MESH_POINTS
from personalive.types import RGBArray

YAW, PITCH = 15.0, 5.0
"""Degrees by which heads turn."""
FRAMES_PER_TURN, FRAMES_PER_WORD, FRAMES_PER_BLINK = 32, 12, 16
UPPER_LIPS = (191, 80, 81, 82, 13, 312, 311, 310, 415)
LOWER_LIPS = (95, 88, 178, 87, 14, 317, 402, 318, 324)
"""The rim of the mouth without its corners, from left to right in the picture."""
CORNERS = (78, 308)
LIDS = (
    ((246, 161, 160, 159, 158, 157, 173), (7, 163, 144, 145, 153, 154, 155)),
    ((466, 388, 387, 386, 385, 384, 398), (249, 390, 373, 374, 380, 381, 382)),
)
"""Upper and lower rims of both eyes."""
CHIN, FOREHEAD = 152, 10
JAW = 0.13
"""How far a fully open mouth moves the chin, relative to the height of the face."""
GRID = 49
REACH = 0.55
"""Where around the face nothing moves, relative to its height."""
DEEP = -3.0
"""Depth of what is behind the face."""
DARK = (70, 22, 20)
"""Colour of an opened mouth."""


@dataclass(frozen=True)
class Track:
    """What the head does, `[F]`: degrees, and 0 to 1."""

    yaw: npt.NDArray[np.float32]
    pitch: npt.NDArray[np.float32]
    mouth: npt.NDArray[np.float32]
    blink: npt.NDArray[np.float32]


def make_track(frames: int) -> Track:
    """Starts as the photograph is, then turns, talks and blinks."""
    time = np.arange(frames, dtype=np.float32)
    yaw = YAW * np.sin(2 * math.pi * time / FRAMES_PER_TURN)
    pitch = PITCH * np.sin(2 * math.pi * time / (1.7 * FRAMES_PER_TURN))
    mouth = 0.5 - 0.5 * np.cos(2 * math.pi * time / FRAMES_PER_WORD)
    phase = (time % FRAMES_PER_BLINK) - FRAMES_PER_BLINK / 2
    blink = np.clip(1.6 - 0.55 * np.abs(phase), 0, 1)
    return Track(*(values.astype(np.float32) for values in (yaw, pitch, mouth, blink)))


@dataclass(frozen=True)
class Moved:
    """A photograph and its mesh, from which frames are drawn."""

    photo: RGBArray
    """Square."""
    mesh: npt.NDArray[np.float64]
    """`[478, 3]` in pixels, as FaceReader reads it."""
    triangles: Tensor = field(default_factory=lambda: mesh_triangles())

    def frame(self, yaw: float, pitch: float, mouth: float, blink: float) -> RGBArray:
        """One frame; with all values 0, the photograph."""
        size = len(self.photo)
        source = torch.from_numpy(self.mesh[:MESH_POINTS]).float() * torch.tensor([2 / size, 2 / size, -2 / size])
        source = source - torch.tensor([1.0, 1.0, 0.0])
        shown = move_mesh(source, yaw, pitch, mouth, blink)
        points, places, faces = self._surface(source, shown)
        fine = 2 * size
        hits = rasterise(points[None], faces, fine, len(faces), torch.ones(len(faces), dtype=torch.bool), None)
        found = hits.interpolate(places[None], faces)
        picture = torch.from_numpy(self.photo.copy()).permute(2, 0, 1).float()[None]
        colours = F.grid_sample(picture, found[..., :2], mode="bicubic", padding_mode="border", align_corners=False)
        dark = found[..., 2][:, None].clamp(0, 1)
        colours = colours * (1 - dark) + dark * torch.tensor(DARK).view(1, 3, 1, 1)
        frame: RGBArray = F.avg_pool2d(colours, 2)[0].round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
        return frame

    def frames(self, track: Track) -> npt.NDArray[np.uint8]:
        """All frames, `[F, S, S, 3]`."""
        rows = zip(track.yaw, track.pitch, track.mouth, track.blink, strict=True)
        return np.stack([self.frame(*(float(value) for value in row)) for row in rows])

    def _surface(self, source: Tensor, shown: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Vertices, their places in the photograph and darkness `[P, 3]`, and triangles: background, mouth, face."""
        line = torch.linspace(-1, 1, GRID)
        grid = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1).reshape(-1, 2)
        moved = grid + background_motion(grid, source, shown)
        back = torch.cat((moved, torch.full((len(grid), 1), DEEP)), dim=1)
        index = torch.arange(GRID * GRID).view(GRID, GRID)
        a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, :-1], index[1:, 1:]
        quads = torch.cat((torch.stack((a, b, c), -1).reshape(-1, 3), torch.stack((b, d, c), -1).reshape(-1, 3)))
        mouth, of_mouth, mouth_faces = _mouth(source, shown)
        start, after = len(grid), len(grid) + len(mouth)
        flat = torch.zeros(len(grid), 1)
        places = torch.cat(
            (torch.cat((grid, flat), 1), of_mouth, torch.cat((source[:, :2], torch.zeros(len(source), 1)), dim=1))
        )
        return torch.cat((back, mouth, shown)), places, torch.cat((quads, mouth_faces + start, self.triangles + after))


def move_mesh(source: Tensor, yaw: float, pitch: float, mouth: float, blink: float) -> Tensor:
    """The mesh `[468, 3]` with another expression and turned around the middle of the head, z towards the viewer."""
    points = source.clone()
    tall = float((source[CHIN] - source[FOREHEAD]).norm())
    down = (source[CHIN] - source[FOREHEAD]) / tall
    along = ((source - source[FOREHEAD]) @ down) / tall
    lips = [float(along[list(rim)].mean()) for rim in (UPPER_LIPS, LOWER_LIPS)]
    # What is below the lower lip moves with the jaw; beside the mouth, from its corners on.
    middle = (lips[0] + lips[1]) / 2
    ramp = ((along - middle) / 0.10).clamp(0, 1)
    ramp[list(LOWER_LIPS)], ramp[list(UPPER_LIPS)] = 1.0, 0.0
    across = (source - source[[*CORNERS]].mean(dim=0))[:, 0].abs() / tall
    share = ramp * (1 - ((across - 0.10) / 0.30).clamp(0, 1))
    points = points + (mouth * JAW * tall) * share[:, None] * down
    for upper, lower in LIDS:
        points[list(upper)] = torch.lerp(points[list(upper)], points[list(lower)], blink)
    ear = source[[234, 454]].mean(dim=0)
    pivot = ear + torch.tensor([0.0, 0.0, -0.1 * tall])
    angles = torch.tensor([pitch, yaw]) * (math.pi / 180)
    cx, sx, cy, sy = angles[0].cos(), angles[0].sin(), angles[1].cos(), angles[1].sin()
    # y points down and z at the viewer: a positive yaw turns the nose to the right, a positive pitch upwards.
    turn_x = torch.stack((torch.tensor([1.0, 0, 0]), torch.stack((cx * 0, cx, -sx)), torch.stack((cx * 0, sx, cx))))
    turn_y = torch.stack((torch.stack((cy, cy * 0, sy)), torch.tensor([0, 1.0, 0]), torch.stack((-sy, cy * 0, cy))))
    return (points - pivot) @ (turn_y @ turn_x).T + pivot


def background_motion(grid: Tensor, source: Tensor, shown: Tensor) -> Tensor:
    """How places `[P, 2]` move that lie in or around the face, `[P, 2]`."""
    tall = float((source[CHIN] - source[FOREHEAD]).norm())
    far, nearest = torch.cdist(grid, source[:, :2]).topk(6, dim=1, largest=False)
    weight = 1 / (far + 1e-3) ** 2
    motion = (shown - source)[:, :2][nearest]
    mean = (motion * (weight / weight.sum(dim=1, keepdim=True))[..., None]).sum(dim=1)
    fade = (1 - far[:, :1] / (REACH * tall)).clamp(0, 1)
    edge = ((1 - grid.abs().amax(dim=1, keepdim=True)) / 0.1).clamp(0, 1)  # the picture's edges stay
    return mean * fade * fade * (3 - 2 * fade) * edge


def _mouth(source: Tensor, shown: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What shows between the lips: what showed before, hung from the upper lip, and darkness below it."""
    upper, lower = list(UPPER_LIPS), list(LOWER_LIPS)
    upper, lower = ([CORNERS[0], *rim, CORNERS[1]] for rim in (upper, lower))
    opening = source[lower] - source[upper]
    behind = torch.tensor([0.0, 0.0, -0.01])
    hung = shown[upper] + opening
    too_low = hung[:, 1] > shown[lower][:, 1]
    hung = torch.where(too_low[:, None], shown[lower], hung)
    rows = (shown[upper], hung, hung, shown[lower])
    points = torch.cat([row + behind for row in rows])
    count = len(upper)
    flat, dark = torch.zeros(count, 1), torch.ones(count, 1)
    of_rows = ((source[upper], flat), (source[lower], flat), (source[lower], dark), (source[lower], dark))
    places = torch.cat([torch.cat((place[:, :2], darkness), dim=1) for place, darkness in of_rows])
    faces = []
    for top in (0, 2 * count):
        a = torch.arange(count - 1) + top
        faces += [torch.stack((a, a + 1, a + count), -1), torch.stack((a + 1, a + count + 1, a + count), -1)]
    return points, places, torch.cat(faces)


def mesh_triangles() -> Tensor:
    """Triangles of mediapipe's mesh: three points of which each two are joined, `[T, 3]`; eyes and mouth are open."""
    edges = load_mediapipe().face_mesh.FACEMESH_TESSELATION
    beside: dict[int, set[int]] = {}
    for one, other in edges:
        beside.setdefault(one, set()).add(other)
        beside.setdefault(other, set()).add(one)
    found = {
        tuple(sorted((point, one, other)))
        for point, others in beside.items()
        for one, other in itertools.combinations(others, 2)
        if other in beside[one]
    }
    return torch.tensor(sorted(found))
