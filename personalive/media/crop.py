"""The part of a picture that the model sees: around a face, in the middle, or all of it."""

import numpy as np

from personalive.errors import NoFaceError
from personalive.types import Box, Crop, RGBArray

CROP_MARGIN = 2.5
"""Height of an automatic crop, in face boxes: head and shoulders."""
CROP_CENTRE = 0.45
"""Where an automatic crop has the centre of the face, as a fraction of its height from the top..."""
HEADROOM = 0.6
"""...but with this many face boxes above the face, as the hair is not in the box..."""
MOST_HEADROOM = 0.7
"""...and with no more than this fraction of the available room, as the chin moves too."""


def crop_box(size: tuple[int, int], shape: tuple[int, int], crop: Crop, face: Box | None) -> Box:
    """The part of a picture that is used for an output of another shape.

    Args:
        size: width and height of the picture.
        shape: width and height of the output.
        crop: "auto": around the face; "center": the largest part in the middle; "none": everything, which stretches.
        face: needed for "auto".

    Returns:
        For "auto" and "center" a box of the output's aspect ratio, to the pixel.

    Raises:
        NoFaceError: "auto" without a face.
    """
    width, height = size
    if crop == "none":
        return 0, 0, width, height
    ratio = shape[0] / shape[1]
    x, y, part_height = width / 2, height / 2, min(float(height), width / ratio)
    if crop == "auto":
        if face is None:
            raise NoFaceError("an automatic crop needs a face, and none was found; set crop to center")
        left, top, right, bottom = face
        wanted = CROP_MARGIN * max(right - left, (bottom - top), (right - left) / ratio)
        part_height = min(part_height, wanted)
        side = bottom - top
        wished = max(HEADROOM * side, CROP_CENTRE * part_height - side / 2)
        headroom = min(wished, MOST_HEADROOM * (part_height - side))
        x, y = (left + right) / 2, top - headroom + part_height / 2
    part = max(1, round(part_height * ratio)), max(1, round(part_height))
    left = round(min(max(0, x - part[0] / 2), width - part[0]))
    top = round(min(max(0, y - part[1] / 2), height - part[1]))
    return left, top, left + part[0], top + part[1]


def cut(image: RGBArray, box: Box) -> RGBArray:
    """The part of a picture inside a box, as its own memory."""
    left, top, right, bottom = box
    return np.ascontiguousarray(image[top:bottom, left:right])


def holds(part: Box, face: Box) -> bool:
    """Whether a face box lies within a part of the picture."""
    return part[0] <= face[0] and part[1] <= face[1] and face[2] <= part[2] and face[3] <= part[3]


def within(box: Box, part: Box) -> Box:
    """A box in the coordinates of a part of the picture, clipped to it."""
    left, top, right, bottom = part
    inside = max(box[0], left), max(box[1], top), min(box[2], right), min(box[3], bottom)
    return inside[0] - left, inside[1] - top, inside[2] - left, inside[3] - top
