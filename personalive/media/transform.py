"""Where a part of a picture is in the whole, however it was cut, scaled and turned."""

import math
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Transform: TypeAlias = npt.NDArray[np.float64]
"""A matrix [3, 3] from places (x, y, 1) in a picture to those in another, in pixels; the first pixel is around ½, ½."""


def moved(x: float, y: float) -> Transform:
    """From a part of a picture that begins at `x`, `y` to the picture."""
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])


def scaled(size: tuple[int, int], other: tuple[int, int]) -> Transform:
    """From a picture of a width and height to its copy of another."""
    return np.diag([other[0] / size[0], other[1] / size[1], 1.0])


def turned_back(size: tuple[int, int], degrees: float) -> Transform:
    """From a picture that was turned counter-clockwise about its middle to the picture before.

    Args:
        size: width and height before. A turn by an odd number of quarters exchanges them; others keep them.
        degrees: by which it was turned.
    """
    width, height = size
    middle = moved(width / 2, height / 2)
    after = moved(-height / 2, -width / 2) if degrees % 180 == 90 else moved(-width / 2, -height / 2)
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    back: Transform = middle @ np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]]) @ after
    return back
