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

    def paint(self, images: RGBArray, kind: Background, colour: str, picture: RGBArray | None = None) -> RGBArray:
        """Pictures with another background, uint8 [n,h,w,3]; [n,h,w,4], with opacity, if it is transparent.

        Args:
            images: what the model made, one after the other.
            kind: what is to be seen behind the person.
            colour: as #rrggbb, for `kind` "colour", and for "picture" where there is none.
            picture: for `kind` "picture", uint8 [h,w,3].
        """
        if kind == "as_is":
            self._mask = None
            return images
        painted = np.empty((*images.shape[:3], 4 if kind == "transparent" else 3), np.uint8)
        for index, image in enumerate(images):
            began = time.perf_counter()
            share = np.clip((self._calm(self._found(image)) - LOW) / (HIGH - LOW), 0.0, 1.0)[..., None]
            if kind == "transparent":
                painted[index] = np.concatenate([image, np.rint(255 * share).astype(np.uint8)], axis=-1)
            else:
                behind = _behind(image, kind, colour, picture)
                painted[index] = (share * image + (1 - share) * behind + 0.5).astype(np.uint8)
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


def _behind(image: RGBArray, kind: Background, colour: str, picture: RGBArray | None) -> npt.NDArray[Any]:
    if kind == "blur":
        return _blurred(image)
    return picture if kind == "picture" and picture is not None else _rgb(colour)


def _blurred(image: RGBArray) -> npt.NDArray[np.float32]:
    picture = Image.fromarray(image).filter(ImageFilter.GaussianBlur(BLUR * image.shape[0]))
    return np.asarray(picture, np.float32)


def _rgb(colour: str) -> npt.NDArray[np.float32]:
    return np.array([int(colour[index : index + 2], 16) for index in (1, 3, 5)], np.float32)
