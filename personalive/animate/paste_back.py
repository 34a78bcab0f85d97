"""The animated crop, put back into the picture that it was cut from.

Only what moves is put there. What that is shows against a frame in which the model draws the portrait at rest: a model
does not draw shoulders and background quite as they are, but much the same in every frame, so these stay the picture's
own. Where that frame shows something else than the picture, beside the head, the model is not believed when it moves
either. Colours are matched to the picture's around the crop's rim, and towards the rim the crop fades out.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from PIL import Image

from personalive.engine.advance import advance
from personalive.engine.control import MotionControl
from personalive.engine.stream import Stream
from personalive.media.images import resize
from personalive.media.portrait import Portrait
from personalive.media.transform import Transform
from personalive.types import Box, RGBArray

FloatArray = npt.NDArray[np.float32]

BESIDE, ABOVE, BELOW = 0.5, 0.5, 0.25
"""How far a head with its hair and ears reaches beyond the face's box, in sides of it, while it turns and moves."""
LEAST_FADE, MOST_FADE = 0.05, 0.12
"""Narrowest and widest fade along a side of the crop, as a fraction of its width or height."""
UNKNOWN_FADE = 0.08
"""The same if it is not known where the face is."""
BORDER = 0.005
"""How near to the picture's border a side of the crop is at it, as a fraction of the crop's width."""
CELL = 8
"""Pixels of the model's picture for one at which colours and movement are compared."""
LIKE = 24.0
"""Levels by which colours may differ for being the same thing; other differences are movements."""
REACH = 0.08
"""How far around the rim colours are matched, as a fraction of the crop."""
PRIOR = 0.02
"""Weight of no difference: what is far from the rim keeps its colours."""
RESTS, MOVES = 3.0, 8.0
"""Mean levels by which a cell differs from the portrait at rest: up to the first it does not move."""
AROUND = 1.0
"""How far movement is felt, in cells."""
EDGE = 0.2
"""Over how much of a side of the face's box a head's surroundings begin to be what the model must draw rightly."""
FACE = 0.5
"""Radius of what is always animated, in sides of the face's box around its middle."""


class PasteBack:
    """Puts the frames of an animation into the whole portrait."""

    def __init__(self, portrait: Portrait, rest: RGBArray) -> None:
        """Prepare.

        Args:
            portrait: with the whole picture.
            rest: a frame in which the model draws it at rest, uint8 [h, w, 3], as large as those of the animation.
        """
        assert portrait.whole is not None
        self._whole = portrait.whole
        self.size = portrait.whole.shape[1], portrait.whole.shape[0]
        """Width and height of the whole picture."""
        shape = rest.shape[1], rest.shape[0]
        self._still = resize(portrait.image, *shape).astype(np.float32)
        fades = _fades(portrait)
        x, y = _places(shape)
        mask = soft_mask(x / shape[0], y / shape[1], fades)
        self._rim = 4 * mask * (1 - mask)
        self._near = [_kernel(side // CELL, AROUND) for side in reversed(shape)]
        self._far = [_kernel(side // CELL, REACH * side // CELL) for side in reversed(shape)]
        self._face = _face(portrait, shape)
        self._rest = rest + self._difference(rest)
        self._believed = np.maximum(self._likeness(), _head(portrait, shape))

        height, width = portrait.image.shape[:2]
        corners = portrait.place @ np.array([[0, width, 0, width], [0, 0, height, height], [1, 1, 1, 1]])
        left, top = np.clip(np.floor(corners[:2].min(axis=1)), 0, self.size).astype(int)
        right, bottom = np.clip(np.ceil(corners[:2].max(axis=1)), 0, self.size).astype(int)
        self._area = slice(top, bottom), slice(left, right)
        # Frames are first scaled to the crop's size in the picture, which smooths them where they get smaller.
        lengths = np.linalg.norm(portrait.place[:2, :2], axis=0) * (width, height)
        self._scaled = max(1, round(lengths[0])), max(1, round(lengths[1]))
        to_frame = np.diag([self._scaled[0] / width, self._scaled[1] / height, 1.0]) @ np.linalg.inv(portrait.place)
        to_frame[:, 2] = to_frame @ [left, top, 1]
        self._coefficients = tuple(to_frame[:2].ravel().tolist())
        x, y = _places((right - left, bottom - top))
        x, y = (to_frame[i, 0] * x + to_frame[i, 1] * y + to_frame[i, 2] for i in range(2))
        self._mask = soft_mask(x / self._scaled[0], y / self._scaled[1], fades)

    def paste(self, frames: RGBArray) -> Iterator[RGBArray]:
        """[n, h, w, 3] → n times [1, height, width, 3]: the whole picture, one frame at a time."""
        for frame in frames:
            matched = frame + self._difference(frame)
            mask = self._mask * self._placed(self._moving(matched))
            shown = self._placed(np.clip(matched + 0.5, 0, 255).astype(np.uint8))
            result = self._whole.copy()
            under = result[self._area]
            under[:] = under + mask[..., None] * (shown - under) + 0.5
            yield result[None]

    def _placed(self, image: "RGBArray | FloatArray") -> FloatArray:
        """A picture of the frame's size, colours or one value a pixel, where the crop is in the whole one."""
        scaled = Image.fromarray(image).resize(self._scaled, Image.Resampling.LANCZOS)
        rows, columns = self._mask.shape
        affine, bicubic = Image.Transform.AFFINE, Image.Resampling.BICUBIC
        placed = np.asarray(scaled.transform((columns, rows), affine, self._coefficients, bicubic), np.float32)
        return placed if placed.ndim == 3 else np.clip(placed, 0, 1)

    def _moving(self, matched: FloatArray) -> FloatArray:
        """From 0, where the frame is as at rest or not believed, to 1, where something moves; always 1 in the face."""
        levels = np.abs(matched - self._rest).max(axis=2)
        down, across = self._near
        moving = np.clip((down @ _cells(levels) @ across.T - RESTS) / (MOVES - RESTS), 0, 1)
        return np.maximum(_whole_size(moving, levels.shape) * self._believed, self._face)

    def _likeness(self) -> FloatArray:
        """From 0, where the model draws something else than the picture shows, to 1, where it draws the same."""
        levels = self._rest - self._still
        down, across = self._near
        apart = np.max([np.abs(down @ _cells(levels[..., channel]) @ across.T) for channel in range(3)], axis=0)
        return np.clip(_whole_size(np.exp(-((apart / LIKE) ** 2)), levels.shape[:2]), 0, 1)

    def _difference(self, frame: RGBArray) -> FloatArray:
        """By how much the picture's colours differ from the frame's at the rim, smoothly continued on both sides."""
        levels = self._still - frame
        same = self._rim * np.exp(-((np.abs(levels).max(axis=2) / LIKE) ** 2))
        down, across = self._far
        weights = down @ _cells(same) @ across.T + PRIOR
        found = [down @ _cells(same * levels[..., channel]) @ across.T / weights for channel in range(3)]
        return np.stack([_whole_size(each, same.shape) for each in found], axis=2)


def at_rest(stream: Stream, portrait: Portrait) -> RGBArray:
    """A frame in which the model draws a portrait as it is, uint8 [h, w, 3].

    Args:
        stream: with the portrait, and nothing pushed. It is used up.
    """
    stream.control = MotionControl(motion_strength=0.0)
    driving = stream.preprocessor.driving([portrait.image], None if portrait.box is None else [portrait.box])
    advance([stream], [driving], stretch=True)
    *_, last = stream.drain()
    frame: RGBArray = last[-1]
    return frame


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
        reach = _reach(portrait.box)
        room = reach[0] / width, reach[1] / height, 1 - reach[2] / width, 1 - reach[3] / height
    limits = portrait.whole.shape[1], portrait.whole.shape[0]
    ends = (((0, 0), (0, height)), ((0, 0), (width, 0)), ((width, 0), (width, height)), ((0, height), (width, height)))
    left_fade, top_fade, right_fade, bottom_fade = (
        0.0 if _is_at_border(portrait.place, *side, limits) else float(np.clip(space, LEAST_FADE, MOST_FADE))
        for space, side in zip(room, ends, strict=True)
    )
    return left_fade, top_fade, right_fade, bottom_fade


def _reach(box: Box) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of where a head with its hair and ears may be, in pixels of the crop."""
    left, top, right, bottom = box
    side = max(right - left, bottom - top)
    return left - BESIDE * side, top - ABOVE * side, right + BESIDE * side, bottom + BELOW * side


def _is_at_border(place: Transform, start: tuple[int, int], end: tuple[int, int], limits: tuple[int, int]) -> bool:
    """Whether a side of the crop lies along the picture's border or beyond it, so that there is nothing to fade to."""
    share = np.linspace(0, 1, 9)
    points = place[:2, :2] @ (np.outer(start, 1 - share) + np.outer(end, share)) + place[:2, 2:]
    near = BORDER * np.linalg.norm(points[:, -1] - points[:, 0])
    inside = (points > near) & (points < np.array(limits)[:, None] - near)
    return not inside.all(axis=0).any()


def _head(portrait: Portrait, shape: tuple[int, int]) -> FloatArray:
    """1 where a head with its hair and ears may be, with a soft rim; 0 where it is not known."""
    x, y = _places(shape)
    if portrait.box is None:
        return np.zeros_like(x)
    left, top, right, bottom = _reach(portrait.box)
    edge = EDGE * max(portrait.box[2] - portrait.box[0], portrait.box[3] - portrait.box[1])
    x, y = x * portrait.image.shape[1] / shape[0], y * portrait.image.shape[0] / shape[1]
    beyond = np.maximum(np.maximum(left - x, x - right), np.maximum(top - y, y - bottom))
    head: FloatArray = np.clip(1 - beyond / edge, 0, 1)
    return head


def _face(portrait: Portrait, shape: tuple[int, int]) -> FloatArray:
    """1 in a circle around the face, with a soft rim; 0 where it is not known."""
    x, y = _places(shape)
    if portrait.box is None:
        return np.zeros_like(x)
    left, top, right, bottom = portrait.box
    height, width = portrait.image.shape[:2]
    radius = FACE * max(right - left, bottom - top)
    away = np.hypot(x * width / shape[0] - (left + right) / 2, y * height / shape[1] - (top + bottom) / 2) / radius
    circle: FloatArray = np.clip(4 * (1 - away), 0, 1)
    return circle


def _places(size: tuple[int, int]) -> tuple[FloatArray, FloatArray]:
    """x and y of every pixel's centre in a picture of this width and height, [h, w] each."""
    y, x = np.mgrid[0 : size[1], 0 : size[0]].astype(np.float32) + 0.5
    return x, y


def _cells(values: FloatArray) -> FloatArray:
    """Means of squares of `CELL` pixels."""
    rows, columns = values.shape
    means: FloatArray = values.reshape(rows // CELL, CELL, columns // CELL, CELL).mean(axis=(1, 3))
    return means


def _whole_size(cells: FloatArray, shape: tuple[int, ...]) -> FloatArray:
    """The way back, interpolated."""
    image = Image.fromarray(cells.astype(np.float32)).resize((shape[1], shape[0]), Image.Resampling.BICUBIC)
    return np.asarray(image)


def _kernel(cells: int, reach: float) -> FloatArray:
    """The matrix that spreads values along a side: a Gaussian, whose rows sum to 1."""
    places = np.arange(cells, dtype=np.float32)
    weights = np.exp(-(((places[:, None] - places) / reach) ** 2) / 2)
    kernel: FloatArray = weights / weights.sum(axis=1, keepdims=True)
    return kernel
