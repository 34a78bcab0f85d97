"""How far half precision, acceleration and fp8 move the pictures: the end-to-end goldens on a device.

    python -m benchmarks.precision ../shared/reference --device cuda --output benchmarks/results/precision.json

The relative L2 error of every emitted frame, and its mean per golden: of each run against the golden, which was
computed in fp32, and of accelerated runs against the same dtype without acceleration. It also says how far keypoints
are from the golden's, in pixels: they are truncated, so a small error moves a disc by a whole pixel now and then.
Random weights magnify rounding more than trained ones do.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import torch

from personalive.accel.accelerator import Accelerator
from personalive.errors import InputError
from personalive.testing.parity.end_to_end import EndToEnd
from personalive.testing.parity.networks import case_list
from personalive.testing.parity.run import END_TO_END
from personalive.types import AcceleratorName

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
FP8 = "fp8"

Rows = npt.NDArray[np.float32]
"""A row per frame, in [0, 1]."""


def frames_of(whole: EndToEnd, name: str, folder: Path) -> tuple[Rows, float]:
    """Emitted frames of one case, and the largest error of its keypoints in pixels."""
    case: Any = case_list(folder)[name]
    golden = dict(np.load(folder / name))
    computed = whole.run(case, golden, folder)
    frames, keypoints = (computed[key][0] for key in ("frames_u16", "keypoints"))
    assert isinstance(frames, torch.Tensor) and isinstance(keypoints, torch.Tensor)
    moved = np.abs(keypoints.float().cpu().numpy() - golden["keypoints"])[..., :2].max() * case["width"] / 2
    return rows(frames.float().cpu().numpy(), case["kind"]), float(moved)


def rows(frames: npt.NDArray[Any], kind: str) -> Rows:
    """Online cases hold [calls, 4, H, W, 3], offline ones [1, 3, frames, H, W]."""
    by_frame = frames.reshape(-1, *frames.shape[2:]) if kind == "online" else frames[0].swapaxes(0, 1)
    return by_frame.reshape(len(by_frame), -1).astype(np.float32)


def golden_rows(folder: Path, name: str) -> Rows:
    """Frames that a golden holds."""
    frames = np.load(folder / name)["frames_u16"].astype(np.float32) / 65535
    return rows(frames, str(case_list(folder)[name]["kind"]))


def errors(frames: Rows, expected: Rows) -> dict[str, Any]:
    """Relative L2 error of the frames."""
    each = np.linalg.norm(frames - expected, axis=1) / np.linalg.norm(expected, axis=1)
    mean, median, largest = (round(float(f(each)), 6) for f in (np.mean, np.median, np.max))
    return {"mean": mean, "median": median, "largest": largest, "frames": [round(float(value), 6) for value in each]}


def choices(names: list[str]) -> dict[str, Callable[..., Accelerator] | None]:
    """What accelerates each run, by its name; plain first, as others are compared with it."""
    runs: dict[str, Callable[..., Accelerator] | None] = {"plain": None}
    runs |= {item: partial(Accelerator, name=item) for item in get_args(AcceleratorName) if item in names}
    return runs | ({"graphs, fp8": partial(Accelerator, quantize="fp8")} if FP8 in names else {})


class Comparison:
    """Every combination that is asked for, noted as it comes."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.folder, self.device, self.output = options.folder, options.device, options.output
        cases = case_list(self.folder)
        self.names = [n for n, c in cases.items() if c["kind"] in END_TO_END and (self.folder / n).exists()]
        machine = torch.cuda.get_device_name() if torch.device(self.device).type == "cuda" else platform.processor()
        self.results: dict[str, Any] = {"machine": machine, "torch": torch.__version__, "cases": {}}

    def run(self, dtype: str, runs: Mapping[str, Callable[..., Accelerator] | None]) -> None:
        """All runs of a dtype."""
        plain: dict[str, Rows] = {}
        for title, accelerator in runs.items():
            began = time.perf_counter()
            try:
                whole = EndToEnd(self.device, DTYPES[dtype], accelerator)
                for name in self.names:
                    frames, moved = frames_of(whole, name, self.folder)
                    found: dict[str, Any] = {"golden": errors(frames, golden_rows(self.folder, name))}
                    if accelerator is None:
                        plain[name] = frames
                    else:
                        found["plain"] = errors(frames, plain[name])
                    self._add(name, f"{dtype}, {title}", found | {"keypoints_px": round(moved, 5)})
            except InputError as refusal:  # a device that has no fp8
                print(f"{dtype}, {title}: {refusal}", flush=True)
            print(f"{dtype}, {title}: {time.perf_counter() - began:.1f} s", flush=True)

    def _add(self, name: str, run: str, found: dict[str, Any]) -> None:
        self.results["cases"].setdefault(name, {})[run] = found
        parts = [
            f"{key}: mean {value['mean']:.3%}, median {value['median']:.3%}, largest {value['largest']:.3%}"
            for key, value in found.items()
            if isinstance(value, dict)
        ]
        print(f"{name}  {run}  against {'; '.join(parts)}; keypoints {found['keypoints_px']:.4f} px", flush=True)
        self.output.parent.mkdir(parents=True, exist_ok=True)
        self.output.write_text(json.dumps(self.results, indent=1) + "\n")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=["float16", "bfloat16"])
    parser.add_argument("--accelerate", nargs="*", choices=(*get_args(AcceleratorName), FP8), default=["graphs", FP8])
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/precision.json"))
    options = parser.parse_args()
    comparison = Comparison(options)
    for dtype in options.dtypes:
        comparison.run(dtype, choices(options.accelerate))


if __name__ == "__main__":
    main()
