"""What may be chosen for an export."""

from functools import partial
from typing import Literal

from personalive.config import MAX_SIZE, MIN_SIZE, SIZE_STEP
from personalive.errors import InputError
from personalive.settings import Settings, Surface, setting

_export = partial(setting, group="export", on=Surface.CLI)
_pixels = partial(
    _export, low=MIN_SIZE, high=MAX_SIZE, multiple_of=SIZE_STEP, default_text="width and height are both free"
)


class ExportOptions(Settings):
    """Which networks are written, and for what.

    Raises:
        InputError: a value that is not allowed.
    """

    format: Literal["onnx"] = _export("onnx", "Format of the files")
    model: str = _export("demo", "personalive, demo, or a folder with weights", metavar="NAME|PATH")
    precision: Literal["fp32", "fp16"] = _export(
        "fp32", "Precision of weights and computing, but for the motion extractor's, which is always fp32"
    )
    width: int | None = _pixels(None, "Width in pixels that the files are fixed to")
    height: int | None = _pixels(None, "Height in pixels that the files are fixed to")

    @property
    def size(self) -> tuple[int, int] | None:
        """Width and height, if they are fixed.

        Raises:
            InputError: only one of them is given.
        """
        if (self.width is None) != (self.height is None):
            raise InputError("width and height are fixed together: give both, or neither")
        return None if self.width is None or self.height is None else (self.width, self.height)
