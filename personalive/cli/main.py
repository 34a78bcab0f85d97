"""The command `personalive`: animate, serve, cog, download, doctor."""

import argparse
import functools
import logging
import signal
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from types import FrameType

from personalive.cli.model_args import add_model_arguments, model_choice
from personalive.errors import PersonaLiveError
from personalive.gateway.options import add_arguments as add_gateway_arguments
from personalive.live.options import add_arguments as add_live_arguments

logger = logging.getLogger("personalive")

DEMO = Path(__file__).resolve().parents[2] / "demo"
"""Portrait and driving video that come with the repository."""
INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells expect it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    options = build_parser().parse_args(arguments)
    _configure(options.verbose)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        return int(VERBS[options.verb](options))
    except PersonaLiveError as error:
        logger.error("%s", error, exc_info=options.verbose)
        return 1
    except KeyboardInterrupt:
        logger.error("stopped; nothing unfinished was left behind")
        return INTERRUPTED


def build_parser() -> argparse.ArgumentParser:
    """The parser of every verb."""
    parser = argparse.ArgumentParser(prog="personalive", description="Animates a portrait by a driving video.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    add = functools.partial(verbs.add_parser, allow_abbrev=False)  # predict.sh must recognise the paths among them
    _add_animate(add("animate", help="make a video from a portrait and a driving video"))
    add_live_arguments(add("serve", help="the live page: a camera in, the animated portrait out"))
    add_gateway_arguments(add("cog", help="the HTTP service: Cog's interface, as the container serves it"))
    _add_download(add("download", help="fetch the published weights into the cache"))
    add_model_arguments(add("doctor", help="say what was found on this machine and what will be used"))
    for verb in verbs.choices.values():
        verb.add_argument("--verbose", action="store_true", help="say more, and show where an error came from")
    return parser


def _add_animate(parser: argparse.ArgumentParser) -> None:
    files = parser.add_argument_group("files")
    files.add_argument(
        "--ref_image",
        type=Path,
        default=DEMO / "portrait.png",
        metavar="PATH",
        help="the portrait: PNG, JPEG or WebP, or a video whose first face is taken (default: the demo's)",
    )
    files.add_argument(
        "--driving_video",
        type=Path,
        default=DEMO / "driver.mp4",
        metavar="PATH",
        help="the video whose movement, rate and sound the result has (default: the demo's)",
    )
    files.add_argument(
        "--output",
        "-o",
        type=Path,
        metavar="PATH",
        help="the .mp4 file to make (default: outputs/output_TIMESTAMP.mp4)",
    )
    files.add_argument("--overwrite", action="store_true", help="replace an existing output")
    _add_result(parser.add_argument_group("result"))
    _add_method(parser.add_argument_group("method"))
    add_model_arguments(parser)


def _add_result(group: "argparse._ArgumentGroup") -> None:
    size = "pixels, a multiple of 64 from 256 to 1024 (default: the model's, 512 for personalive)"
    group.add_argument("--width", "-W", type=int, metavar="N", help=size)
    group.add_argument("--height", "-H", type=int, metavar="N", help=size)
    group.add_argument(
        "--max_frames",
        "-L",
        type=int,
        default=100,
        metavar="N",
        help="driving frames to use at most; 0: all (default: %(default)s)",
    )
    group.add_argument(
        "--fps",
        type=float,
        metavar="N",
        help="frames a second, 1 to 120; the duration stays (default: the driving video's)",
    )
    group.add_argument("--no_audio", action="store_true", help="leave the driving video's sound out")
    group.add_argument(
        "--crop",
        choices=("auto", "center", "none"),
        default="auto",
        help="auto: around the face; center: the middle; none: everything, stretched (default: %(default)s)",
    )
    group.add_argument("--side_by_side", action="store_true", help="show reference, driver and result in one picture")


def _add_method(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--steps",
        type=int,
        default=4,
        metavar="N",
        help="denoising steps a frame: 4, 8, 12 or 16 (default: %(default)s)",
    )
    group.add_argument("--seed", type=int, default=42, metavar="N", help="of the noise (default: %(default)s)")
    group.add_argument(
        "--motion_strength",
        type=float,
        default=1.0,
        metavar="X",
        help="how far motion goes from the reference's (0) to the driver's (1), up to 2 (default: %(default)s)",
    )
    group.add_argument(
        "--face_boxes",
        choices=("mesh", "keypoints"),
        default="mesh",
        help="how faces are cut out: by a face mesh or by the model's keypoints (default: %(default)s)",
    )
    group.add_argument(
        "--keyframe_threshold",
        type=float,
        metavar="X",
        help="how different motion must be to keep a frame as keyframe (default: the model's, 17 for personalive)",
    )


def _add_download(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry_run", action="store_true", help="only list files, sizes and licences")
    parser.add_argument(
        "--convert",
        choices=("float16", "bfloat16"),
        help="store the weights once more in this dtype: later starts of a model in it read only half as much",
    )


# Each verb imports what only it needs when it runs: a server has other requirements than a download.
def _animate(options: argparse.Namespace) -> int:
    from personalive.animate.job import AnimateOptions, animate, check_paths
    from personalive.cli.progress import show

    settings = AnimateOptions(
        width=options.width,
        height=options.height,
        max_frames=options.max_frames,
        steps=options.steps,
        seed=options.seed,
        fps=options.fps,
        audio=not options.no_audio,
        overwrite=options.overwrite,
        crop=options.crop,
        motion_strength=options.motion_strength,
        face_boxes=options.face_boxes,
        side_by_side=options.side_by_side,
        keyframe_threshold=options.keyframe_threshold,
    )
    output = options.output or Path("outputs") / f"output_{datetime.now():%Y%m%d_%H%M%S}.mp4"
    check_paths(options.ref_image, options.driving_video, output, settings)
    choice = model_choice(options)
    source, remark = choice.resolved_source()
    if remark:
        logger.warning("%s", remark)
    logger.info("loading the model %s on %s", source, choice.resolved_device())
    model = choice.load()
    show(animate(model, options.ref_image, options.driving_video, output, settings))
    print(output)
    return 0


def _serve(options: argparse.Namespace) -> int:
    from personalive.live.http.server import serve
    from personalive.live.options import from_arguments

    serve(from_arguments(options))
    return 0


def _cog(options: argparse.Namespace) -> int:
    from personalive.gateway.options import from_arguments
    from personalive.gateway.serve import serve

    serve(from_arguments(options))
    return 0


def _download(options: argparse.Namespace) -> int:
    import torch

    from personalive import weights

    for file in weights.download(dry_run=options.dry_run):
        size = "size unknown" if file.size is None else f"{file.size / 1e6:9.1f} MB"
        print(f"{file.state:14} {size}  {file.repository}/{file.path}  ({file.licence})")
    if options.convert and not options.dry_run:
        print(weights.convert(dtype=getattr(torch, options.convert)))
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from personalive.cli.doctor import findings

    for name, value in findings(model_choice(options)):
        print(f"{name:12} {value}")
    return 0


VERBS = {"animate": _animate, "serve": _serve, "cog": _cog, "download": _download, "doctor": _doctor}


def _configure(verbose: bool) -> None:
    """Log lines for people; of libraries, only what matters to them."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    logger.setLevel(logging.DEBUG if verbose else logging.INFO)


def _terminate(number: int, frame: FrameType | None) -> None:
    """SIGTERM leaves like an exception, so that everything cleans up after itself."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
