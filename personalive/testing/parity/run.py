"""`python -m tests.parity DIR`: every golden that DIR/cases.json describes, a line for each array."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from personalive.testing.parity import components, unets
from personalive.testing.parity.components import Computed, Golden
from personalive.testing.parity.end_to_end import EndToEnd, comparable
from personalive.testing.parity.networks import case_list
from personalive.testing.parity.report import Report

RUNNERS: dict[str, Callable[[dict[str, Any], Golden, Path], Computed]] = {
    "motion_extractor": components.motion_extractor,
    "motion_encoder": components.motion_encoder,
    "keypoint_rasters": components.keypoint_rasters,
    "pose_guider": components.pose_guider,
    "scheduler": components.scheduler,
    "blocks": components.blocks,
    "image_processing": components.image_processing,
    "reference_unet": unets.reference_unet,
    "denoising_unet": unets.denoising_unet,
}
END_TO_END = ("offline", "offline_nonstream", "online")
NEVER_COMPUTED = frozenset({"ref_unet_out", "ref_unet_out_sub"})
"""The reference UNet's own output, which nothing uses: its last layers are not run."""


def run(folder: Path, names: list[str], report: Report, whole: EndToEnd) -> None:
    """Run the named cases of a folder."""
    cases = case_list(folder)
    for name in names:
        case: dict[str, Any] = cases[name]
        golden: Golden = dict(np.load(folder / name))
        try:
            with torch.inference_mode():
                if case["kind"] in END_TO_END:
                    golden, computed = comparable(golden), whole.run(case, golden, folder)
                else:
                    computed = RUNNERS[case["kind"]](case, golden, folder)
        except Exception as error:  # one broken case must not hide the others
            report.error(name, error)
            continue
        report.compare_all(name, golden, computed, NEVER_COMPUTED)


def main() -> int:
    """Parse the command line; the exit status is 1 if anything failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.parity", description=__doc__)
    parser.add_argument("folder", type=Path, help="holds cases.json and the files that it names")
    parser.add_argument("--skip-full", action="store_true", help="skip the full-size UNets (10 GB, minutes)")
    parser.add_argument("--only", default="", help="run only the cases whose name contains this")
    arguments = parser.parse_args()
    cases = case_list(arguments.folder)
    names = [name for name, case in cases.items() if arguments.only in name]
    if arguments.skip_full:
        names = [name for name in names if cases[name].get("size") != "full"]
    report = Report()
    run(arguments.folder, names, report, EndToEnd())
    print(report.summary())
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
