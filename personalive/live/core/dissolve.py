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
        self.last: Picture | None = None
        """What was shown last."""
        self._leaving: Picture | None = None

    @property
    def running(self) -> bool:
        """Whether pictures are mixed now."""
        return self._leaving is not None

    def begin(self) -> None:
        """The next picture is the first one of another portrait."""
        self._leaving = self.last

    def mix(self, picture: Picture) -> Picture:
        """The next picture as it is shown."""
        leaving = self._leaving
        if leaving is not None:
            share = (picture.captured - leaving.captured) / SECONDS
            if share >= 1 or leaving.image.shape != picture.image.shape:  # transparent now, or no more
                self._leaving = None
            else:
                before, after = Image.fromarray(leaving.image), Image.fromarray(picture.image)
                picture = replace(picture, image=np.asarray(Image.blend(before, after, max(share, 0.0))))
        self.last = picture
        return picture
