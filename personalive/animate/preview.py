"""A few frames of an animation, long before it is finished: one picture of frames that are spread over the driver.

A stream's frames depend on those before them, which a preview does not compute. It leads the portrait from the first
frame through the chosen ones, one step of four frames for each. So poses and expressions are those of the result, and
details that come from the past, such as a keyframe's, may differ.
"""

import itertools
import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from personalive.animate.paste_back import PasteBack
from personalive.animate.plan import part_of, probe_driver, upright
from personalive.engine.advance import advance
from personalive.engine.preprocess import DrivingFrames, Preprocessor
from personalive.engine.stream import Stream
from personalive.errors import OutputError
from personalive.media.crop import crop_box, cut, within
from personalive.media.face_track import FaceTrack, crop_path
from personalive.media.faces import Face, FaceTracker, choose
from personalive.media.images import resize
from personalive.media.neutral import most_neutral
from personalive.media.part_file import PartFile
from personalive.media.video_reader import VideoInfo, read_frames
from personalive.settings import AnimateOptions
from personalive.types import RGBArray

TILE = 512
"""Longest side, in pixels, of a frame in the picture."""
CAPTION = 24
"""Pixels of the line below it, which says where in the driver it is."""


@dataclass(frozen=True)
class _Look:
    """A frame of the driver that is looked at."""

    image: RGBArray
    face: Face | None


def chosen_frames(frames: int, count: int) -> list[int]:
    """Frames that are spread over a part: its first and last one, and others at equal distances; of one, the middle."""
    if count == 1:
        return [(frames - 1) // 2]
    return sorted({round(index * (frames - 1) / (count - 1)) for index in range(count)})


def preview(
    stream: Stream, path: Path, options: AnimateOptions, whole: PasteBack | None
) -> Generator[tuple[int, int], None, Image.Image | None]:
    """Compute the frames of a preview.

    Args:
        stream: with the portrait, and as the animation's own stream begins. It is used up.
        path: of the driving video or picture.
        options: with the number of frames.
        whole: what puts frames into the whole portrait; None: they stay as they are.

    Yields:
        Frames that are done, and their number.

    Returns:
        The picture; None: not one of the chosen frames shows a face.

    Raises:
        InputError: the driving video cannot be read.
    """
    assert options.preview is not None
    info = probe_driver(path, options)
    rate = options.rate or info.rate
    skip, frames = part_of(info, rate, options)
    info = upright(info, rate, skip, frames, options)
    shown = chosen_frames(1 if info.still else frames, options.preview)
    looks = _looks(info, rate, skip, sorted({0, *shown, options.neutral_frame or 0}), options)
    shown = [index for index in shown if index in looks]
    if not shown:
        return None
    prepared = _prepared(stream.preprocessor, looks, info, options)
    stream.control = replace(stream.control, smooth=0.0)  # frames are too far from each other to be smoothed
    if options.motion == "relative":
        neutral = options.neutral_frame
        if neutral not in prepared:
            neutral = most_neutral({index: look.face for index, look in looks.items() if look.face is not None})
        stream.set_neutral(prepared[neutral] if neutral in prepared else next(iter(prepared.values())))
    steps = sorted({min(looks), *shown})  # movement across the picture is measured from the first
    finished: list[RGBArray] = []
    for parts in itertools.chain(
        (advance([stream], [prepared[index]], stretch=True)[0] for index in steps), stream.drain()
    ):
        finished += [parts[-1]] if len(parts) else []
        yield len(finished), len(steps)
    frames_of = dict(zip(steps, finished, strict=True))
    pictures = [frames_of[index] for index in shown]
    if whole is not None:
        pictures = [picture for frame in pictures for (picture,) in whole.paste(frame[None])]
    return contact_sheet(pictures, [f"{float((skip + index) / rate):.2f} s" for index in shown])


def contact_sheet(pictures: Sequence[RGBArray], captions: Sequence[str]) -> Image.Image:
    """Pictures of one size in rows, each with a line of text below it."""
    height, width = pictures[0].shape[:2]
    scale = min(1.0, TILE / max(width, height))
    width, height = max(1, round(scale * width)), max(1, round(scale * height))
    columns = math.ceil(math.sqrt(len(pictures)))
    rows = math.ceil(len(pictures) / columns)
    sheet = Image.new("RGB", (columns * width, rows * (height + CAPTION)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(CAPTION * 0.6)
    for place, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        left, top = place % columns * width, place // columns * (height + CAPTION)
        sheet.paste(Image.fromarray(resize(picture, width, height)), (left, top))
        draw.text((left + width / 2, top + height + CAPTION / 2), caption, "black", font, anchor="mm")
    return sheet


def save_preview(sheet: Image.Image, path: Path, comment: str) -> None:
    """Write the picture, whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    text = PngInfo()
    text.add_text("Comment", comment)
    part = PartFile(path)
    try:
        sheet.save(part.path, format="PNG", pnginfo=text)
        part.keep(path)
    except OSError as error:
        raise OutputError(f"the preview {path} cannot be written: {error}") from error
    finally:
        part.discard()


def _looks(
    info: VideoInfo, rate: Fraction, skip: int, indices: Sequence[int], options: AnimateOptions
) -> dict[int, _Look]:
    """Frames by number: those that show a face, or all of them where faces are not searched for."""
    images = {index: next(read_frames(info, rate, skip + index)) for index in indices}
    if not options.needs_faces:
        return {index: _Look(image, None) for index, image in images.items()}
    with FaceTracker() as tracker:
        found = {index: tracker.detect(image) for index, image in images.items()}
    return {index: _Look(images[index], choose(faces, options.face)) for index, faces in found.items() if faces}


def _prepared(
    preprocessor: Preprocessor, looks: Mapping[int, _Look], info: VideoInfo, options: AnimateOptions
) -> dict[int, DrivingFrames]:
    """The frames as the networks see them, in one crop if it holds every face."""
    size, shape = (info.width, info.height), (preprocessor.width, preprocessor.height)
    boxes = [None if look.face is None else look.face.box for look in looks.values()]
    if options.crop == "auto":  # at one frame a second, nothing is smoothed
        crops = crop_path(FaceTrack(tuple(boxes), {}, (), 1), size, shape, Fraction(1))
    else:
        crops = [crop_box(size, shape, options.crop, None)] * len(looks)
    prepared = {}
    for (index, look), box, crop in zip(looks.items(), boxes, crops, strict=True):
        faces = None if options.face_boxes == "keypoints" or box is None else [within(box, crop)]
        prepared[index] = preprocessor.driving([cut(look.image, crop)], faces)
    return prepared
