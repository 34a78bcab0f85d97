"""`personalive serve` over a model that echoes: `python live_server.py FLAGS`, with the flags of the command.

A process of its own, so that clients meet the server that operators start, with its limits and time-outs. It is run as
a file with `PYTHONPATH` at the tree whose server is wanted, and may be an older one.
"""

import argparse
import importlib
import sys
from typing import Any


def main() -> None:
    # The second of each: before the package's rooms.
    options = _options([*sys.argv[1:], "--face_boxes", "keypoints"])
    if getattr(options, "workers", 1) != 1:
        _serve_with_workers(options)
        return
    server = _module("personalive.live.http.server", "personalive.live.server")
    echo = _module("personalive.testing.echo", "benchmarks.echo")
    vars(server)["model_factory"] = lambda chosen: echo.echo_factory(chunk_frames=4, delay_frames=12)
    server.serve(options)


def _serve_with_workers(options: Any) -> None:
    """The same behind a front: its workers are processes of their own, so nothing can be replaced in them."""
    from personalive.live.front.serve import serve_with
    from personalive.processes import Seat
    from personalive.testing.echo_worker import EchoWorkers

    serve_with(options, [Seat()] * options.workers, EchoWorkers(size=512))


def _module(name: str, former: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        return importlib.import_module(former)


def _options(flags: list[str]) -> Any:
    """What the command reads from flags and environment."""
    options = importlib.import_module("personalive.live.options")
    parser = argparse.ArgumentParser()
    if hasattr(options, "add_arguments"):  # before settings were declared
        options.add_arguments(parser)
        return options.from_arguments(parser.parse_args(flags))
    from personalive.cli.main import build_parser, serve_options

    return serve_options(build_parser().parse_args(["serve", *flags]))


if __name__ == "__main__":
    main()
