"""Named points of the mesh, and the size and place of heads: the same as those of drawn people.

All lengths are head units (avatars/identity.py): x points right in the picture, y down, z at the viewer.
"""

from typing import Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
EYE_LINE, EYE_TO_CHIN, EYE_DEPTH = -0.055, 0.60, 0.36
"""Height of the eyes, distance to the chin, and how far eyeballs' centres are in front of the head's centre."""
NAMES = (
    "crown", "eye_left", "eye_right", "mouth_left", "mouth_right", "side_left", "side_right", "brow_left",
    "brow_right", "jaw_left", "jaw_right", "bridge", "nose", "cheek_left", "cheek_right", "chin", "lips",
    "temple_left", "temple_right", "back", "forehead",
)  # fmt: skip
"""The 21 canonical points, in the order of avatars/geometry.py."""
PLACES = {
    "side_left": (-0.40, 0.0, 0.0), "brow_left": (-0.19, -0.150, 0.45), "jaw_left": (-0.32, 0.30, 0.1),
    "cheek_left": (-0.24, 0.12, 0.40), "temple_left": (-0.30, -0.30, 0.2), "bridge": (0, -0.055, 0.48),
    "forehead": (0, -0.335, 0.45), "back": (0, 0.0, -0.70), "between_brows": (0, -0.15, 0.50),
    "edge_left": (-0.43, -0.055, 0.0),
}  # fmt: skip
"""Where points are that have no other definition; the nearest vertex is taken."""


class Selected(Protocol):
    """Faces and their parts."""

    @property
    def faces(self) -> npt.NDArray[np.int64]:
        """Corners of each face."""

    @property
    def part(self) -> npt.NDArray[np.uint8]:
        """The part that each face belongs to."""


def normalise(shape: Array, eyes: list[npt.NDArray[np.int64]], chin: int) -> tuple[Array, float]:
    """A shape in decimetres, y up, as head units with eyes and chin in their place; and units per decimetre."""
    centre = np.mean([shape[eye].mean(axis=0) for eye in eyes], axis=0)
    scale = EYE_TO_CHIN / float(centre[1] - shape[chin, 1])
    moved = (shape - centre) * scale * np.array([1, -1, 1])
    return (moved + np.array([0, EYE_LINE, EYE_DEPTH])).astype(np.float32), scale


def find_points(
    base: Array,
    lips: npt.NDArray[np.bool_],
    jaw_open: Array,
    mesh: Selected,
    eyes: list[npt.NDArray[np.int64]],
) -> dict[str, int]:
    """Numbers of the vertices of all named points, canonical ones first.

    Args:
        base: the base mesh, decimetres, y up.
        lips: vertices of the lips.
        jaw_open: offsets of the unit that opens the mouth.
        mesh: faces and their parts.
        eyes: vertices of the left and of the right eyeball.
    """
    skin = np.unique(mesh.faces[mesh.part == 0])
    middle = skin[np.abs(base[skin, 0]) < 0.03]
    front = middle[(base[middle, 2] > 0.9) & (base[middle, 1] > 6.0)]
    below = front[base[front, 1] < 6.45]
    chin = int(below[np.argmax(base[below, 2] - base[below, 1])])
    placed, _ = normalise(base, eyes, chin)
    mouth = skin[lips[skin]]
    rim = mouth[np.abs(base[mouth, 0]) < 0.03]
    moved = np.linalg.norm(jaw_open, axis=1)
    half = (moved[rim].max() + moved[rim].min()) / 2
    upper, lower = rim[moved[rim] < half], rim[moved[rim] >= half]
    outer = {"upper": upper[base[upper, 2] > base[upper, 2].max() - 0.12]}
    outer["lower"] = lower[base[lower, 2] > base[lower, 2].max() - 0.12]
    found = {
        "crown": int(skin[np.argmin(placed[skin, 1])]),
        "nose": int(front[np.argmax(base[front, 2])]),
        "chin": chin,
        "mouth_left": int(mouth[np.argmin(base[mouth, 0])]),
        "mouth_right": int(mouth[np.argmax(base[mouth, 0])]),
        "lips": int(outer["upper"][np.argmin(base[outer["upper"], 1])]),
        "lip_upper": int(outer["upper"][np.argmin(base[outer["upper"], 1])]),
        "lip_lower": int(outer["lower"][np.argmax(base[outer["lower"], 1])]),
    }
    for side, eye in zip(("left", "right"), eyes, strict=True):
        found[f"eye_{side}"] = int(eye[np.argmax(base[eye, 2])])
    for name, place in PLACES.items():
        found[name] = _nearest(placed, skin, place)
        if name.endswith("_left"):
            mirrored = (-place[0], *place[1:])
            found[name.removesuffix("left") + "right"] = _nearest(placed, skin, mirrored)
    centres = {side: placed[eye].mean(axis=0) for side, eye in zip(("left", "right"), eyes, strict=True)}
    for side, sign in (("left", -1), ("right", 1)):
        x, y, z = centres[side]
        for corner, out, back in (("outer", 0.095, 0.02), ("inner", -0.085, 0.06)):
            found[f"{corner}_{side}"] = _nearest(placed, skin, (x + sign * out, y, z + back))
    return {name: found[name] for name in NAMES} | {name: at for name, at in found.items() if name not in NAMES}


def _nearest(placed: Array, skin: npt.NDArray[np.int64], place: tuple[float, ...]) -> int:
    return int(skin[np.argmin(((placed[skin] - np.array(place)) ** 2).sum(axis=1))])
