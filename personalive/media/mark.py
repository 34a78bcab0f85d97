"""A mark that viewers see: a short text in a corner of every frame."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from personalive.types import RGBArray

TEXT = "AI-generated"
HEIGHT, LEAST_HEIGHT = 0.035, 10
"""Of the text: part of the frame's shorter side, and pixels."""
PLATE = 0.5
"""How much darker the ground under the text is, so that it can be read on any."""


class VisibleMark:
    """Draws the mark into frames of one size."""

    def __init__(self, width: int, height: int) -> None:
        """Draw the text once."""
        size = max(LEAST_HEIGHT, round(HEIGHT * min(width, height)))
        font = ImageFont.load_default(size)
        left, top, right, bottom = (round(edge) for edge in font.getbbox(TEXT))
        pad = size // 2
        plate = Image.new("L", (right - left + 2 * pad, bottom - top + 2 * pad))
        ImageDraw.Draw(plate).text((pad - left, pad - top), TEXT, fill=255, font=font)
        text = np.asarray(plate, np.float32)[: height - pad, : width - pad, None] / 255
        rows, columns = text.shape[:2]
        self._place = np.s_[:, height - pad - rows : height - pad, pad : pad + columns]
        self._kept, self._added = (1 - text) * PLATE, text * 255

    def draw(self, frames: RGBArray) -> RGBArray:
        """The frames with the mark at the lower left: uint8 [n, height, width, 3]."""
        marked = frames.copy()
        part = marked[self._place].astype(np.float32)
        marked[self._place] = (part * self._kept + self._added).round().astype(np.uint8)
        return marked
