"""Reference, driver and result in one picture."""

import itertools
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Self

import numpy as np

from personalive.media.images import resize
from personalive.types import RGBArray


class SideBySide:
    """Joins reference, driver and result. The driver's pictures wait in a temporary file; a context manager."""

    def __init__(self, reference: RGBArray, shape: tuple[int, int]) -> None:
        """`shape`: width and height of each of the three."""
        self._reference = resize(reference, *shape)
        self._pictures = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `__exit__`)
        self._places: Iterator[int] = itertools.count()
        self._count = self._shown = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pictures.close()

    def add(self, pictures: Iterable[RGBArray]) -> None:
        """The driver's next pictures, at the output's size."""
        for picture in pictures:
            self._pictures.seek(self._count * self._reference.nbytes)
            self._pictures.write(picture.tobytes())
            self._count += 1

    def go_on(self, shown: int) -> None:
        """The first results have been made before."""
        self._places, self._shown = itertools.count(shown), shown

    def show_in_order(self, order: Sequence[int]) -> None:
        """Which driver's picture belongs to each result, from the first on; default: as they came."""
        self._places = iter(order[self._shown :])

    def join(self, frames: RGBArray) -> RGBArray:
        """[n, height, width, 3] → [n, height, 3 · width, 3]"""
        if not len(frames):
            return np.concatenate((frames, frames, frames), axis=2)
        rows = [np.concatenate((self._reference, self._next(), frame), axis=1) for frame in frames]
        return np.stack(rows)

    def _next(self) -> RGBArray:
        self._pictures.seek(next(self._places) * self._reference.nbytes)
        self._shown += 1
        data = self._pictures.read(self._reference.nbytes)
        return np.frombuffer(data, np.uint8).reshape(self._reference.shape)
