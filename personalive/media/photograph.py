"""Whether a portrait is a photograph or was drawn, by how its face is coloured and textured.

`python -m benchmarks.decisions.photographs` counts how often this is right.
"""

import numpy as np
from PIL import Image

from personalive.media.crop import cut, within
from personalive.types import Box, RGBArray

SIDE = 56
"""Pixels to which a face is scaled down: a camera's noise and a codec's blocks are averaged away, pores, wrinkles and
hair are not."""
TEXTURED = 1.5
"""Texture (see `texture`) from which a face was photographed."""
MIDDLE = 0.28, 0.2, 0.72, 0.68
"""Where the face is in a portrait that was cropped around it: left, top, right, bottom as parts of its sides."""


def is_photograph(image: RGBArray, face: Box | None) -> bool:
    """Whether a face was photographed rather than drawn; False also for one of fewer than `SIDE` pixels, which is hard
    to tell.

    Args:
        image: the portrait, uint8 [h, w, 3].
        face: the face in it; None: where a crop around the face has it.
    """
    height, width = image.shape[:2]
    if face is None:
        left, top, right, bottom = MIDDLE
        face = int(left * width), int(top * height), int(right * width), int(bottom * height)
    shown = cut(image, within(face, (0, 0, width, height)))
    return min(shown.shape[:2]) >= SIDE and texture(shown) >= TEXTURED


def texture(face: RGBArray) -> float:
    """How much a face's brightness varies where it varies least, in levels.

    Drawn colours run smoothly, and change at lines; skin changes everywhere. So of the Laplacian's absolute values, the
    lower quartile is large, and the median too when compared with the mean, which lines determine.

    Args:
        face: uint8 [h, w, 3] with `SIDE` pixels or more each way.
    """
    small = Image.fromarray(face).resize((SIDE, SIDE), Image.Resampling.BOX)
    grey = np.asarray(small, np.float32) @ np.array((0.299, 0.587, 0.114), np.float32)
    inner = grey[1:-1, 1:-1] * 4 - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]
    changes = np.abs(inner)
    quartile, median = np.quantile(changes, (0.25, 0.5))
    return float(quartile * median / max(float(changes.mean()), 1e-6))
