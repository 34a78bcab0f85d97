"""The change from one portrait to another, which is a dissolve and not a cut."""

from dataclasses import replace

import numpy as np
from PIL import Image

from personalive.live.core.frames import Picture

SECONDS = 0.4
"""How long both portraits are seen."""


class Dissolve:
    """Mixes the last picture of one portrait into the first ones of the next; one thread at a time."""

    def __init__(self) -> None:
        self._last: Picture | None = None
        self._leaving: Picture | None = None

    @property
    def running(self) -> bool:
        """Whether pictures are mixed now."""
        return self._leaving is not None

    def apply(self, pictures: list[Picture], *, replaced: bool) -> list[Picture]:
        """The pictures of one call as they are shown.

        Args:
            pictures: in order of capture.
            replaced: they are the first ones of another portrait.
        """
        if not pictures:
            return pictures
        if replaced:
            self._leaving = self._last
        if self._leaving is not None:
            leaving = self._leaving
            pictures = [_mixed(leaving, each) for each in pictures]
            if pictures[-1].captured - leaving.captured >= SECONDS:
                self._leaving = None
        self._last = pictures[-1]
        return pictures


def _mixed(leaving: Picture, coming: Picture) -> Picture:
    share = (coming.captured - leaving.captured) / SECONDS
    if share >= 1 or leaving.image.shape != coming.image.shape:  # the background has become transparent, or is no more
        return coming
    mixed = Image.blend(Image.fromarray(leaving.image), Image.fromarray(coming.image), max(share, 0.0))
    return replace(coming, image=np.asarray(mixed))
