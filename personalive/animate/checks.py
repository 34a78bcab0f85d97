"""Refuse, before any work is done or a model is loaded, what is known to fail without one."""

import itertools
import os
from fractions import Fraction
from pathlib import Path

from personalive.animate.motion_file import SUFFIX, is_motion
from personalive.animate.plan import part_of, plan_motion, possible_here, probe_driver, read_portrait, upright
from personalive.animate.resume import folder_of, is_motion_placed, is_placed
from personalive.errors import FaceTooSmallError, InputError, NoFaceError, OutputError
from personalive.media.credentials import Signer, check_signable
from personalive.media.encoding import FRAMES_NAME, check_choices
from personalive.media.faces import FaceTracker, is_blank
from personalive.media.images import require_file
from personalive.media.video_reader import VideoInfo, read_frames
from personalive.media.video_writer import check_folder, check_output
from personalive.settings import AnimateOptions

SIDE = 512
"""Pixels of an output whose size the model will choose: until then only its shape matters."""
CHECKED = 500
"""Driving frames in which the first face must be for the driver to be refused at once."""


def check_paths(ref_image: Path | None, driving_video: Path | None, output: Path, options: AnimateOptions) -> None:
    """Refuse missing files and an output that may not be created.

    Args:
        ref_image: None: it is yet to be fetched.
        driving_video: the same.
        output: the file to make.
        options: of the animation.

    Raises:
        InputError: an input is not a readable file.
        OutputError: the output exists, is an input, or has a name that cannot be used.
    """
    for source, what in ((ref_image, "the reference"), (driving_video, "the driving video")):
        if source is not None:
            require_file(source, what)
    check_output(output, options.overwrite or is_placed(output, options))
    check_choices(output, options.codec, options.quality)
    signer_of(output, options)
    went_on = options.resume and folder_of(output).exists()
    if options.preview is not None and not (options.overwrite or went_on) and preview_path(output).exists():
        raise OutputError(
            f"the preview {preview_path(output)} already exists; choose another output or allow it with --overwrite"
        )
    for name in ("side_by_side", "preview"):
        if getattr(options, name) and driving_video is not None and is_motion(driving_video):
            raise InputError(
                f"{name} is {getattr(options, name)}: it must be left out, as the motion file {driving_video} has no "
                "pictures"
            )
    if options.save_motion is not None:
        check_motion_output(options.save_motion, options.overwrite or is_motion_placed(output, options))
    for target in filter(None, (output, options.save_motion)):
        for source in filter(None, (ref_image, driving_video)):
            if target.exists() and target.samefile(source):
                raise OutputError(f"the output {target} is one of the inputs; choose another name")


def signer_of(output: Path, options: AnimateOptions) -> Signer | None:
    """Who signs the result; None: nobody.

    Raises:
        InputError, MissingExtraError: the certificate or its key cannot be used.
        OutputError: this kind of result cannot be signed.
    """
    if options.sign is None or options.sign_key is None:
        return None
    check_signable(output)
    return Signer(options.sign, options.sign_key)


def check_motion_output(path: Path, overwrite: bool) -> None:
    """Refuse a motion file that may not be made, before any work is done for it.

    Raises:
        OutputError: it has another ending, or it exists.
    """
    if path.suffix.lower() != SUFFIX or path.is_dir():
        raise OutputError(f"save_motion is {path}: it must be a file whose name ends with {SUFFIX}")
    if path.exists() and not overwrite:
        raise OutputError(f"the motion file {path} already exists; choose another name or allow it with --overwrite")


def preview_path(output: Path) -> Path:
    """Where the preview of an output is written: beside it."""
    return output.with_name("preview.png" if output.name == FRAMES_NAME else f"{output.stem}.preview.png")


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
