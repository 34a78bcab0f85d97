"""Refuse, before any work is done or a model is loaded, what is known to fail without one."""

import itertools
import os
from fractions import Fraction
from pathlib import Path

from personalive.animate.motion_header import is_motion
from personalive.animate.places import check_paths
from personalive.animate.plan import part_of, plan_motion, possible_here, probe_driver, read_portrait, upright
from personalive.errors import FaceTooSmallError, NoFaceError
from personalive.media.faces import FaceTracker, is_blank
from personalive.media.video_reader import VideoInfo, read_frames
from personalive.media.video_writer import check_folder
from personalive.settings import AnimateOptions

SIDE = 512
"""Pixels of an output whose size the model will choose: until then only its shape matters."""
CHECKED = 500
"""Driving frames in which the first face must be for the driver to be refused at once."""


def check_inputs(ref_image: Path, driving_video: Path, output: Path, options: AnimateOptions) -> None:
    """Refuse, before a model is loaded, everything that is known to fail without one.

    Both inputs are checked, and a face is searched for in the portrait, and in the driver until the first one is found.

    Raises:
        InputError, NoFaceError: an input cannot be used.
        OutputError: the output cannot be written.
    """
    check_paths(ref_image, driving_video, output, options)
    check_folder(output, Path(os.path.realpath(output)))
    options, _ = possible_here(options)
    shape = options.width or SIDE, options.height or SIDE
    if options.save_motion is not None:
        check_folder(options.save_motion, Path(os.path.realpath(options.save_motion)))
    if is_motion(driving_video):
        plan_motion(driving_video, options)
        read_portrait(ref_image, shape, options)
        return
    info = probe_driver(driving_video, options)
    rate = options.rate or info.rate
    skip, count = part_of(info, rate, options)
    count = 1 if info.still else count
    read_portrait(ref_image, shape, options)
    if not options.needs_faces:
        return
    if _shows_face(info, rate, skip, 1) or upright(info, rate, skip, count, options).quarters:
        return
    if _shows_face(info, rate, skip, min(count, CHECKED)) or count > CHECKED:  # of a long driver, the pass will tell
        return
    _refuse_small_face(driving_video, info, rate, skip)
    part = "" if info.still else "the part that would be used of "
    raise NoFaceError(f"no face was found in {part}the driver {driving_video}")


def _shows_face(info: VideoInfo, rate: Fraction, skip: int, count: int) -> bool:
    """Whether a face is found in the first driving frames, as the pass would find it."""
    with FaceTracker() as tracker:
        frames = itertools.islice(read_frames(info, rate, skip), count)
        return any(not is_blank(image) and tracker.follow(image) is not None for image in frames)


def _refuse_small_face(path: Path, info: VideoInfo, rate: Fraction, skip: int) -> None:
    """Say so if the first frame shows one that is too small to be followed.

    Raises:
        FaceTooSmallError
    """
    image = next(read_frames(info, rate, skip))
    with FaceTracker() as tracker:
        found = tracker.search(image)
    if found:
        raise FaceTooSmallError(
            f"the driving video {path}: face too small: {found[0].side} of {min(image.shape[:2])} pixels; use a video "
            "from nearer, or crop it"
        )
