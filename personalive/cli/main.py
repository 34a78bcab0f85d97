"""The command `personalive`: animate, batch, serve, cog, download, doctor, benchmark, export, verify."""

import argparse
import contextlib
import functools
import logging
import os
import signal
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import NoReturn

from personalive.assets import DEMO_DRIVER, DEMO_PORTRAIT
from personalive.batch.options import BatchOptions
from personalive.cli.arguments import add_settings, group, read_settings
from personalive.cli.native_log import without_chatter
from personalive.errors import InputError, PersonaLiveError
from personalive.extras import require
from personalive.gateway.options import GatewayOptions
from personalive.jobs.options import JobsOptions
from personalive.live.options import ServeOptions, tokens_of_environment
from personalive.loading import ModelChoice
from personalive.onnx.options import ExportOptions
from personalive.settings import DRIVER, REFERENCE, AnimateOptions, SigningSettings
from personalive.terminal import log_for_people, visible

logger = logging.getLogger("personalive")

INTERRUPTED, TERMINATED, BROKEN_PIPE = (128 + number for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE))
"""Exit statuses after Ctrl-C and these signals, as shells expect them."""
GOES_ON = "; the same command goes on from the last saved state, which is beside the output"
NOTHING_LEFT = "; nothing unfinished was left behind"
BATCH_GOES_ON = "; the same command goes on with the jobs that are left"
SOME_FAILED = 3
"""Exit status of a batch that ended, but whose jobs did not all succeed."""


class Terminated(SystemExit):
    """SIGTERM came. It passes where errors are caught, as Ctrl-C does, so that everything cleans up after itself."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    options = build_parser().parse_args(arguments)
    # Before PyTorch is loaded: threads that spin while they wait take the cores from whatever else runs (docs/cpu.md).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    signal.signal(signal.SIGTERM, _terminate)
    with contextlib.nullcontext() if options.verbose else without_chatter():
        return _run(options)


def _run(options: argparse.Namespace) -> int:
    _configure(options.verbose)
    try:
        return int(VERBS[options.verb](options))
    except PersonaLiveError as error:
        logger.error("%s", error, exc_info=options.verbose)
        return 1
    except (KeyboardInterrupt, Terminated) as signalled:
        after = {"animate": NOTHING_LEFT, "export": NOTHING_LEFT, "batch": BATCH_GOES_ON}.get(options.verb, "")
        after = GOES_ON if options.verb == "animate" and options.resume else after
        logger.error("stopped%s", after)
        return TERMINATED if isinstance(signalled, Terminated) else INTERRUPTED
    except BrokenPipeError:  # the reader of the output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        super().error(visible(message))  # it quotes arguments as they are


def build_parser() -> argparse.ArgumentParser:
    """The parser of every verb."""
    parser = _Parser(prog="personalive", description="Animates a portrait by a driving video.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    add = functools.partial(verbs.add_parser, allow_abbrev=False)  # predict.sh must recognise the paths among them
    _add_animate(add("animate", help="make a video from a portrait and a driving video"))
    _add_batch(add("batch", help="make many animations, on every GPU of this machine or of a Ray cluster"))
    serve = add("serve", help="the live page: a camera in, the animated portrait out")
    add_settings(serve, ModelChoice)
    add_settings(serve, ServeOptions)
    add_settings(add("cog", help="the HTTP service: Cog's interface, as the container serves it"), GatewayOptions)
    jobs = add("serve-jobs", help="the same interface over many GPUs, with a queue, on Ray Serve")
    add_settings(jobs, JobsOptions)
    add_settings(jobs, ModelChoice)
    _add_download(add("download", help="fetch the published weights into the cache"))
    doctor = add("doctor", help="show what was found on this machine and what will be used")
    doctor.add_argument("--full", action="store_true", help="Also try whether it works, which takes longer")
    add_settings(doctor, ModelChoice)
    _add_benchmark(add("benchmark", help="measure how fast this machine is, in a few minutes and without a download"))
    export = add("export", help="write a model's networks as files for other runtimes")
    export.add_argument("folder", type=Path, metavar="FOLDER", help="The folder to make")
    add_settings(export, ExportOptions)
    verify = add("verify", help="say what a file claims about where it comes from, and whether it was changed since")
    verify.add_argument("file", type=Path, metavar="FILE", help="A video or a picture")
    verify.add_argument(
        "--trust", type=Path, metavar="PATH", help="Certificates (PEM) of the authorities that you trust"
    )
    for verb in verbs.choices.values():
        verb.add_argument("--verbose", action="store_true", help="Log more, and show tracebacks")
    return parser


def _add_animate(parser: argparse.ArgumentParser) -> None:
    files = group(parser, "files")
    files.add_argument(
        "--ref_image",
        default=str(DEMO_PORTRAIT),
        metavar="PATH|URL",
        help=f"{REFERENCE} (default: the demo's)",
    )
    files.add_argument(
        "--driving_video",
        default=str(DEMO_DRIVER),
        metavar="PATH|URL",
        help=f"{DRIVER} (default: the demo's)",
    )
    files.add_argument(
        "--output",
        "-o",
        type=Path,
        metavar="PATH",
        help="The .mp4, .webm, .gif or .webp file to make, or FOLDER/%%05d.png for numbered pictures "
        "(default: outputs/output_TIMESTAMP.mp4)",
    )
    add_settings(parser, AnimateOptions)
    add_settings(parser, ModelChoice)


def _add_batch(parser: argparse.ArgumentParser) -> None:
    group(parser, "batch").add_argument(
        "jobs",
        type=Path,
        nargs="?",
        metavar="JOBS",
        help="A .jsonl or .csv file with reference, driver, output and any setting of an animation in each row; or a "
        "folder that holds portraits and drivers, each of which is animated by each",
    )
    add_settings(parser, BatchOptions)
    add_settings(parser, AnimateOptions)
    add_settings(parser, ModelChoice)


def _add_download(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry_run", action="store_true", help="Only list files, sizes and licences")
    parser.add_argument(
        "--hub",
        metavar="modelscope|URL",
        help="modelscope, or a mirror's address, to download from (default: PERSONALIVE_HUB, or Hugging Face)",
    )
    parser.add_argument(
        "--revision",
        metavar="REV",
        help="revision to use if the hub no longer has a pinned commit (default: PERSONALIVE_REVISION)",
    )
    parser.add_argument(
        "--convert",
        choices=("float16", "bfloat16"),
        help="Also store the weights in this dtype, so that later starts with it read only half as much",
    )


def _add_benchmark(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", metavar="NAME", help="cuda, cuda:1 or cpu (default: the GPU if there is one)")
    parser.add_argument("--output", "-o", type=Path, metavar="PATH", help="also write the figures to this JSON file")


# Each verb imports what only it needs when it runs: a server needs other packages than a download.
def _animate(options: argparse.Namespace) -> int:
    settings = _signed(read_settings(options, AnimateOptions))
    choice = read_settings(options, ModelChoice)
    if settings.resume and options.output is None:
        raise InputError("resume needs a name for the output, by which its state is found again: give --output")

    from personalive.animate.inputs import open_input
    from personalive.animate.places import check_paths
    from personalive.media.fetched import fetched_inputs

    output = options.output or Path("outputs") / f"output_{datetime.now():%Y%m%d_%H%M%S}.mp4"
    with fetched_inputs() as inputs:
        reference = open_input(options.ref_image, "the reference", inputs)
        driver = open_input(options.driving_video, "the driving video", inputs)
        check_paths(reference, driver, output, settings)

        from personalive.animate.checks import check_inputs  # PyTorch takes seconds to import

        check_inputs(reference, driver, output, settings)

        from personalive.animate.job import animate
        from personalive.animate.track_cache import default_folder
        from personalive.cli.progress import show

        source, remark = choice.resolved_source()
        if remark:
            logger.warning("%s", remark)
        logger.info("loading the model %s on %s", source, choice.resolved_device())
        faster = choice.for_files()
        if faster != choice:
            logger.info("it runs in OpenVINO, which is faster here; --accelerate graphs runs it in PyTorch")
        model = faster.load()
        show(animate(model, reference, driver, output, settings, cache=default_folder()))
    print(output)
    return 0


def _batch(options: argparse.Namespace) -> int:
    settings = read_settings(options, BatchOptions, jobs=options.jobs)
    defaults, choice = _signed(read_settings(options, AnimateOptions)), read_settings(options, ModelChoice)

    from personalive.batch.run import run_batch
    from personalive.cli.batch_progress import show

    tally = show(run_batch(settings, defaults, choice), settings.results_file)
    print(settings.results_file)
    return SOME_FAILED if tally.failed else 0


def _signed(options: AnimateOptions) -> AnimateOptions:
    """Options that name no certificate, with that of the environment."""
    return options if options.sign else options.replace(**SigningSettings.from_environment(os.environ).given())


def _verify(options: argparse.Namespace) -> int:
    from personalive.media.comments import read_comment
    from personalive.media.credentials import Authorities, quoted, read_credentials

    trusted = None if options.trust is None else Authorities.read(options.trust)
    if comment := read_comment(options.file):
        print(visible(f"{options.file.name} says in its metadata: {quoted(comment)}."))
    found = read_credentials(options.file, trusted)
    print(visible("\n".join(found.sentences)))
    return 0 if found.is_intact else 1


def serve_options(options: argparse.Namespace) -> ServeOptions:
    """The options from the flags of `serve` and the environment.

    Raises:
        InputError: a value that is not allowed.
    """
    tokens = (*options.tokens, *tokens_of_environment())
    return read_settings(options, ServeOptions, model=read_settings(options, ModelChoice), tokens=tokens)


def _serve(options: argparse.Namespace) -> int:
    settings = serve_options(options)
    if settings.ray is None:  # the machines of a cluster may have other folders
        settings.model.check_model()

    if settings.workers == 1 and settings.ray is None:
        from personalive.live.http.server import serve
    else:
        from personalive.live.front.serve import serve

    serve(settings)
    return 0


def _cog(options: argparse.Namespace) -> int:
    settings = read_settings(options, GatewayOptions)
    require("cog")

    from personalive.gateway.serve import serve

    serve(settings)
    return 0


def _serve_jobs(options: argparse.Namespace) -> int:
    settings, choice = read_settings(options, JobsOptions), read_settings(options, ModelChoice)
    require("scale")

    from personalive.jobs.serve import serve

    serve(settings, choice)
    return 0


def _download(options: argparse.Namespace) -> int:
    import torch

    from personalive import weights

    hub = weights.Hub(options.hub, options.revision)
    for file in weights.download(dry_run=options.dry_run, hub=hub):
        size = "size unknown" if file.size is None else f"{file.size / 1e6:9.1f} MB"
        print(f"{file.state:14} {size}  {file.label}  ({file.file.repository.licence})")
    if options.convert and not options.dry_run:
        print(weights.convert(dtype=getattr(torch, options.convert), hub=hub))
    return 0


def _doctor(options: argparse.Namespace) -> int:
    choice = read_settings(options, ModelChoice)

    from personalive.cli.doctor import looked_up, tried

    status = 0
    for finding in tried(choice) if options.full else looked_up(choice):
        print(visible(f"{finding.name:12} {finding.value}"), flush=True)
        status = status or int(finding.wrong)
    return status


def _benchmark(options: argparse.Namespace) -> int:
    device = ModelChoice(device=options.device).resolved_device()

    from personalive.benchmark.run import run

    run(device, options.output)
    return 0


def _export(options: argparse.Namespace) -> int:
    settings = read_settings(options, ExportOptions)
    require("onnx")

    from personalive import weights
    from personalive.onnx.export import check_export, export
    from personalive.weights.source import format_size

    check_export(options.folder)
    source = weights.resolve(settings.model)
    for file in export(source, options.folder, settings.precision, settings.size):
        print(f"{file.file:36} {format_size(file.bytes):>10}  relative error {file.error:.1e}", flush=True)
    print(options.folder)
    return 0


VERBS = {
    "animate": _animate,
    "batch": _batch,
    "serve": _serve,
    "cog": _cog,
    "serve-jobs": _serve_jobs,
    "download": _download,
    "doctor": _doctor,
    "benchmark": _benchmark,
    "export": _export,
    "verify": _verify,
}


def _configure(verbose: bool) -> None:
    log_for_people()
    logger.setLevel(logging.DEBUG if verbose else logging.INFO)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated(128 + number)


if __name__ == "__main__":
    sys.exit(main())
