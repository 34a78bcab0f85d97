"""The animated crop, put back into the picture that it was cut from.

The crop's colours are matched to the picture's where they meet, and it fades in from there. Nothing is seen of the seam
because the fade lies where the head never comes: between the crop's rim and the reach of a head that turns.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from PIL import Image

from personalive.media.images import resize
from personalive.media.portrait import Portrait, Transform
from personalive.types import RGBArray

FloatArray = npt.NDArray[np.float32]

BESIDE, ABOVE, BELOW = 0.5, 0.5, 0.25
"""How far a head with its hair and ears reaches beyond the face's box, in sides of it, while it turns and moves."""
LEAST_FADE, MOST_FADE = 0.05, 0.25
"""Narrowest and widest fade along a side of the crop, as a fraction of its width or height."""
UNKNOWN_FADE = 0.08
"""The same if it is not known where the face is."""
BORDER = 0.005
"""How near to the picture's border a side of the crop is at it, as a fraction of the crop's width."""
CELL = 8
"""Pixels of the model's picture for one of the colour difference's."""
LIKE = 24.0
"""Levels by which colours may differ for being the same thing; other differences are movements."""
REACH = 0.08
"""How far around the rim colours are matched, as a fraction of the crop."""
PRIOR = 0.02
"""Weight of no difference: what is far from the rim keeps its colours."""


class PasteBack:
    """Puts the frames of an animation into the whole portrait."""

    def __init__(self, portrait: Portrait, shape: tuple[int, int]) -> None:
        """Prepare.

        Args:
            portrait: with the whole picture.
            shape: width and height of the frames.
        """
        assert portrait.whole is not None
        self._whole = portrait.whole
        self.size = portrait.whole.shape[1], portrait.whole.shape[0]
        """Width and height of the whole picture."""
        self._still = resize(portrait.image, *shape).astype(np.float32)
        height, width = portrait.image.shape[:2]
        rows, columns = np.mgrid[0 : shape[1], 0 : shape[0]].astype(np.float32) + 0.5
        fades = _fades(portrait)
        self._rim = 4 * (mask := soft_mask(columns / shape[0], rows / shape[1], fades)) * (1 - mask)
        self._spread = [_kernel(side // CELL) for side in (shape[1], shape[0])]

        corners = portrait.place @ np.array([[0, width, 0, width], [0, 0, height, height], [1, 1, 1, 1]])
        limit = np.array(self.size)
        left, top = np.clip(np.floor(corners[:2].min(axis=1)), 0, limit).astype(int)
        right, bottom = np.clip(np.ceil(corners[:2].max(axis=1)), 0, limit).astype(int)
        self._area = slice(top, bottom), slice(left, right)
        # Frames are first scaled to the crop's size in the picture, which smooths them where they get smaller.
        self._size = tuple(
            max(1, round(n * np.linalg.norm(portrait.place[:2, i]))) for i, n in enumerate((width, height))
        )
        to_crop = np.linalg.inv(portrait.place)
        to_frame = np.diag([self._size[0] / width, self._size[1] / height, 1.0]) @ to_crop
        to_frame[:, 2] += to_frame[:, 0] * left + to_frame[:, 1] * top
        self._coefficients = tuple(to_frame[:2].ravel().tolist())
        rows, columns = np.mgrid[0 : bottom - top, 0 : right - left].astype(np.float32) + 0.5
        x, y = (to_frame[i, 0] * columns + to_frame[i, 1] * rows + to_frame[i, 2] for i in range(2))
        self._mask = soft_mask(x / self._size[0], y / self._size[1], fades)[..., None]

    def paste(self, frames: RGBArray) -> Iterator[RGBArray]:
        """[n, h, w, 3] → n times [1, height, width, 3]: the whole picture, one frame at a time."""
        for frame in frames:
            matched = np.clip(frame + self._difference(frame) + 0.5, 0, 255).astype(np.uint8)
            scaled = Image.fromarray(resize(matched, *self._size))
            rows, columns = self._mask.shape[:2]
            placed = scaled.transform(
                (columns, rows), Image.Transform.AFFINE, self._coefficients, Image.Resampling.BICUBIC
            )
            result = self._whole.copy()
            under = result[self._area]
            under[:] = under + self._mask * (np.asarray(placed, np.float32) - under) + 0.5
            yield result[None]

    def _difference(self, frame: RGBArray) -> FloatArray:
        """By how much the picture's colours differ from the frame's at the rim, smoothly continued on both sides."""
        levels = self._still - frame
        same = self._rim * np.exp(-((np.abs(levels).max(axis=2) / LIKE) ** 2))
        down, across = self._spread
        weights = down @ _cells(same) @ across.T
        found = [down @ _cells(same * levels[..., k]) @ across.T / (weights + PRIOR) for k in range(3)]
        size = frame.shape[1], frame.shape[0]
        channels = [Image.fromarray(each.astype(np.float32)).resize(size, Image.Resampling.BICUBIC) for each in found]
        return np.stack([np.asarray(channel) for channel in channels], axis=2)


def soft_mask(x: FloatArray, y: FloatArray, fades: tuple[float, float, float, float]) -> FloatArray:
    """How much of the crop is seen at a place: 1 inside, 0 at the rim and outside.

    Args:
        x: from the crop's left side (0) to its right one (1).
        y: likewise from the top.
        fades: widths of the way from 0 to 1 at the left, top, right and bottom side; 0: the side has none.
    """
    mask = ((x >= 0) & (x <= 1) & (y >= 0) & (y <= 1)).astype(np.float32)
    for distance, fade in zip((x, y, 1 - x, 1 - y), fades, strict=True):
        if fade:
            part = np.clip(distance / fade, 0, 1)
            mask *= part * part * (3 - 2 * part)
    return mask


def _fades(portrait: Portrait) -> tuple[float, float, float, float]:
    """Widths of the fade at the left, top, right and bottom side, in widths and heights of the crop."""
    assert portrait.whole is not None
    height, width = portrait.image.shape[:2]
    room = (UNKNOWN_FADE,) * 4
    if portrait.box is not None:
        left, top, right, bottom = portrait.box
        side = max(right - left, bottom - top)
        reach = left - BESIDE * side, top - ABOVE * side, right + BESIDE * side, bottom + BELOW * side
        room = reach[0] / width, reach[1] / height, 1 - reach[2] / width, 1 - reach[3] / height
    limits = portrait.whole.shape[1], portrait.whole.shape[0]
    ends = (((0, 0), (0, height)), ((0, 0), (width, 0)), ((width, 0), (width, height)), ((0, height), (width, height)))
    return tuple(
        0.0 if _is_at_border(portrait.place, *side, limits) else float(np.clip(space, LEAST_FADE, MOST_FADE))
        for space, side in zip(room, ends, strict=True)
    )


def _is_at_border(place: Transform, start: tuple[int, int], end: tuple[int, int], limits: tuple[int, int]) -> bool:
    """Whether a side of the crop lies along the picture's border or beyond it, so that there is nothing to fade to."""
    share = np.linspace(0, 1, 9)
    points = place[:2, :2] @ (np.outer(start, 1 - share) + np.outer(end, share)) + place[:2, 2:]
    near = BORDER * np.linalg.norm(points[:, -1] - points[:, 0])
    inside = (points > near) & (points < np.array(limits)[:, None] - near)
    return not inside.all(axis=0).any()


def _cells(values: FloatArray) -> FloatArray:
    """Means of squares of `CELL` pixels."""
    rows, columns = values.shape
    means: FloatArray = values.reshape(rows // CELL, CELL, columns // CELL, CELL).mean(axis=(1, 3))
    return means


def _kernel(cells: int) -> FloatArray:
    """The matrix that spreads values along a side: a Gaussian, whose rows sum to 1."""
    places = np.arange(cells, dtype=np.float32)
    weights = np.exp(-(((places[:, None] - places) / (REACH * cells)) ** 2) / 2)
    kernel: FloatArray = weights / weights.sum(axis=1, keepdims=True)
    return kernel
