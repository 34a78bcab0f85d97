"""How far half precision and acceleration move the pictures: the end-to-end goldens on a device.

    python -m benchmarks.precision ../shared/reference --device cuda --output benchmarks/results/precision.json

The relative L2 error of every emitted frame against the golden, which was computed in fp32, and for accelerated runs
also against the same dtype without acceleration. Random weights magnify rounding more than trained ones do.
"""

import argparse
import json
import platform
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tests.parity.__main__ import END_TO_END
from tests.parity.end_to_end import EndToEnd
from tests.parity.networks import case_list

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def frames_of(whole: EndToEnd, name: str, folder: Path) -> npt.NDArray[np.float32]:
    """Emitted frames of one case, a row per frame, in [0, 1]."""
    case: Any = case_list(folder)[name]
    computed = whole.run(case, dict(np.load(folder / name)), folder)["frames_u16"][0]
    assert isinstance(computed, torch.Tensor)
    return rows(computed.float().cpu().numpy(), case["kind"])


def rows(frames: npt.NDArray[Any], kind: str) -> npt.NDArray[np.float32]:
    """Online cases hold [calls, 4, H, W, 3], offline ones [1, 3, frames, H, W]."""
    by_frame = frames.reshape(-1, *frames.shape[2:]) if kind == "online" else frames[0].swapaxes(0, 1)
    return by_frame.reshape(len(by_frame), -1).astype(np.float32)


def errors(frames: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> list[float]:
    """Relative L2 error of each frame."""
    difference = np.linalg.norm(frames - expected, axis=1) / np.linalg.norm(expected, axis=1)
    return [round(float(value), 6) for value in difference]


def main() -> None:
    """Run every combination that is asked for, and write them down as they come."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=["float16", "bfloat16"])
    parser.add_argument("--accelerate", nargs="*", default=["none", "graphs"])
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/precision.json"))
    arguments = parser.parse_args()
    cases = case_list(arguments.folder)
    names = [n for n, c in cases.items() if c["kind"] in END_TO_END and (arguments.folder / n).exists()]
    machine = torch.cuda.get_device_name() if arguments.device == "cuda" else platform.processor()
    results: dict[str, Any] = {"machine": machine, "torch": torch.__version__, "cases": {}}
    for dtype in arguments.dtypes:
        plain: dict[str, npt.NDArray[np.float32]] = {}
        for choice in [None, *arguments.accelerate]:
            whole = EndToEnd(arguments.device, DTYPES[dtype], choice)
            for name in names:
                golden: Any = np.load(arguments.folder / name)["frames_u16"].astype(np.float32) / 65535
                frames = frames_of(whole, name, arguments.folder)
                found = {"golden": errors(frames, rows(golden, str(cases[name]["kind"])))}
                if choice is None:
                    plain[name] = frames
                else:
                    found["plain"] = errors(frames, plain[name])
                results["cases"].setdefault(name, {})[f"{dtype}, {choice or 'plain'}"] = found
                means = ", ".join(f"{key} {np.mean(values):.3%}" for key, values in found.items())
                print(f"{name}  {dtype}  {choice or 'plain'}  mean relative L2: {means}", flush=True)
                arguments.output.parent.mkdir(parents=True, exist_ok=True)
                arguments.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
