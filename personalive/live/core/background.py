"""What is behind the portrait: as the model made it, blurred, a colour that others can key out, a picture, or nothing.

The person is found in the finished pictures by mediapipe's selfie segmentation, on the CPU.
"""

import time
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from personalive.media.faces import load_mediapipe
from personalive.types import Background, RGBArray

LOW, HIGH = 0.35, 0.8
"""Below the first, a pixel is background, above the second, person; in between, as for hair, it is a mixture."""
CALM = 0.6
"""How much of the last picture's mask stays, so that the edge does not flicker..."""
MOVED = 0.25
"""...except where it has changed by this much, which is movement."""
BLUR = 0.04
"""Radius of the blur, in units of the picture's height."""
SMALLER = 4
"""What is blurred has no details: it is done this many times smaller."""
SLOWNESS = 0.1
"""Share of the newest picture in the time that is reported."""

Mask = npt.NDArray[np.float32]


class BackgroundPainter:
    """Changes the background of one session's pictures, in the order in which they are shown; one thread at a time."""

    def __init__(self) -> None:
        self._segmenter: Any = None
        self._mask: Mask | None = None
        self.seconds = 0.0
        """What a picture costs; 0: nothing was painted yet."""

    def paint(self, image: RGBArray, kind: Background, colour: str, picture: RGBArray | None = None) -> RGBArray:
        """The next picture with another background, uint8 [h,w,3]; [h,w,4], with opacity, if it is transparent.

        Args:
            image: what the model made.
            kind: what is to be seen behind the person.
            colour: as #rrggbb, for `kind` "colour", and for "picture" where there is none.
            picture: for `kind` "picture", uint8 [h,w,3].
        """
        if kind == "as_is":
            self._mask = None
            return image
        began = time.perf_counter()
        share = np.clip((self._calm(self._found(image)) - LOW) / (HIGH - LOW), 0.0, 1.0)
        opacity = np.rint(255 * share).astype(np.uint8)
        if kind == "transparent":
            painted = np.dstack([image, opacity])
        else:
            shown = Image.fromarray(image)
            behind = _behind(shown, kind, colour, picture)
            painted = np.asarray(Image.composite(shown, behind, Image.fromarray(opacity)))
        took = time.perf_counter() - began
        self.seconds += (took - self.seconds) * (SLOWNESS if self.seconds else 1.0)
        return painted

    def close(self) -> None:
        """Free mediapipe's graph."""
        if self._segmenter is not None:
            self._segmenter.close()
            self._segmenter = None

    def _found(self, image: RGBArray) -> Mask:
        if self._segmenter is None:
            self._segmenter = load_mediapipe().selfie_segmentation.SelfieSegmentation(model_selection=0)
        return np.asarray(self._segmenter.process(image).segmentation_mask, np.float32)

    def _calm(self, mask: Mask) -> Mask:
        before = self._mask
        if before is not None and before.shape == mask.shape:
            stays = np.where(np.abs(mask - before) < MOVED, np.float32(CALM), np.float32(0))
            mask = stays * before + (1 - stays) * mask
        self._mask = mask
        return mask


def _behind(image: Image.Image, kind: Background, colour: str, picture: RGBArray | None) -> Image.Image:
    if kind == "blur":
        return _blurred(image)
    if kind == "picture" and picture is not None:
        return Image.fromarray(picture)
    return Image.new("RGB", image.size, colour)


def _blurred(image: Image.Image) -> Image.Image:
    small = image.reduce(SMALLER)
    return small.filter(ImageFilter.GaussianBlur(BLUR * small.height)).resize(image.size, Image.Resampling.BILINEAR)
