"""Where a job's files are and will be. What must fail there is refused at once, before PyTorch is imported."""

import os
from pathlib import Path

from personalive.animate.motion_header import SUFFIX, is_motion
from personalive.errors import InputError, OutputError
from personalive.media.credentials import Signer, check_signable
from personalive.media.encoding import FRAMES_NAME, check_choices
from personalive.media.images import require_file
from personalive.media.segments import identity, is_own
from personalive.media.video_writer import check_output
from personalive.settings import AnimateOptions

KEPT = "motion.kept"
"""In the folder of a job that can be resumed: which file is its motion file."""


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
    preview = preview_path(output)
    if options.preview is not None and preview.exists():
        if not preview.is_file():
            raise OutputError(f"the preview {preview} is not a file, and is not replaced; choose another output")
        if not (options.overwrite or went_on):
            raise OutputError(
                f"the preview {preview} already exists; choose another output or allow it with --overwrite"
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
    if path.suffix.lower() != SUFFIX or (path.exists() and not path.is_file()):
        raise OutputError(f"save_motion is {path}: it must be a file whose name ends with {SUFFIX}")
    if path.exists() and not overwrite:
        raise OutputError(f"the motion file {path} already exists; choose another name or allow it with --overwrite")


def preview_path(output: Path) -> Path:
    """Where the preview of an output is written: beside it."""
    return output.with_name("preview.png" if output.name == FRAMES_NAME else f"{output.stem}.preview.png")


def folder_of(output: Path) -> Path:
    """Where the state of a job is kept."""
    if output.name == FRAMES_NAME:
        return Path(os.path.realpath(output.parent)) / "frames.resume"
    target = Path(os.path.realpath(output))
    return target.with_name(f"{target.name}.resume")


def is_placed(output: Path, options: AnimateOptions) -> bool:
    """Whether what is in the output's place is this job's own result, placed just before it was stopped."""
    return options.resume and is_own(folder_of(output), output)


def is_motion_placed(output: Path, options: AnimateOptions) -> bool:
    """The same for the motion file."""
    path, note = options.save_motion, folder_of(output) / KEPT
    return (
        options.resume and path is not None and path.is_file() and note.is_file() and note.read_text() == identity(path)
    )
