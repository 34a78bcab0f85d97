"""Turns a run's portable checkpoint into a model that the program loads.

python -m personalive.training.export runs/demo weights/demo
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from personalive.errors import PersonaLiveError
from personalive.training.checkpoints import export


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m personalive.training.export", description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", type=Path, help="folder with checkpoint.json: a run's --out")
    parser.add_argument("folder", type=Path, help="folder for the model, e.g. weights/demo")
    parser.add_argument(
        "--keyframe-threshold", type=float, help="the model's default (default: that of the run's preset)"
    )
    args = parser.parse_args(arguments)
    try:
        export(args.checkpoint, args.folder, args.keyframe_threshold)
    except PersonaLiveError as error:
        parser.exit(1, f"{error}\n")
    size = sum(path.stat().st_size for path in args.folder.glob("*.safetensors"))
    print(f"{args.folder}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
