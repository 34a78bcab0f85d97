"""Draws the losses of a training run from the metrics that it wrote.

python scripts/loss_curves.py weights/demo/metrics.csv docs/images/losses.png
"""

import argparse
import csv
import io
import math
from collections import defaultdict
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
from PIL import Image

Curves = dict[str, dict[str, list[tuple[int, float]]]]
"""Steps, counted from 1, and values, by stage and metric."""
COLUMNS = 3
COLOURS = 48
FIRST = "loss"
"""The metric that is drawn in front: what the stage minimises."""
OTHER_UNITS = ("psnr", "degrees")
"""Metrics with an axis of their own: decibels and degrees are not losses."""


def read(path: Path) -> Curves:
    """Finite values of a `metrics.csv` (stage, step, seconds, metric, value), in its order."""
    curves: Curves = defaultdict(lambda: defaultdict(list))
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            value = float(row["value"])
            if math.isfinite(value):
                curves[row["stage"]][row["metric"]].append((int(row["step"]) + 1, value))
    return curves


def draw(curves: Curves, path: Path) -> None:
    """One panel for each stage: its loss and the parts of it on a logarithmic axis, other units on a second axis."""
    rows = math.ceil(len(curves) / COLUMNS)
    figure, panels = plt.subplots(rows, COLUMNS, figsize=(11, 3.1 * rows), layout="constrained", squeeze=False)
    for panel in panels.flat[len(curves) :]:
        panel.set_axis_off()
    for panel, (stage, metrics) in zip(panels.flat, curves.items(), strict=False):
        panel.set_title(stage.replace("_", " "), fontsize=10, fontweight="bold")
        panel.set_xlabel("step", fontsize=7, loc="right", labelpad=0)
        panel.set_yscale("log")
        panel.yaxis.set_major_formatter("{x:g}")
        panel.yaxis.set_minor_formatter("{x:g}" if spans_less_than_a_decade(metrics) else "")
        panel.grid(alpha=0.25, which="both", linewidth=0.5)
        lines = []
        for number, (name, values) in enumerate(metrics.items()):
            steps, heights = zip(*values, strict=True)
            axis = panel
            if name in OTHER_UNITS:
                axis = panel.twinx()
                axis.tick_params(labelsize=7)
            front = name == FIRST
            label = {"psnr": "PSNR, dB (right)", "degrees": "degrees off (right)"}.get(name, name.replace("_", " "))
            style = "--" if name in OTHER_UNITS else "-"
            lines += axis.plot(steps, heights, style, color=f"C{number}", linewidth=1.6 if front else 0.9, label=label)
        panel.tick_params(labelsize=7, which="both")
        panel.legend(handles=lines, fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=4, frameon=False)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=100)
    plt.close(figure)
    # Lines need few colours; the file is a third of the size.
    Image.open(drawn).convert("RGB").quantize(COLOURS).save(path, optimize=True)


def spans_less_than_a_decade(metrics: dict[str, list[tuple[int, float]]]) -> bool:
    """Whether the axis of the losses needs numbers between powers of ten."""
    values = [value for name, points in metrics.items() if name not in OTHER_UNITS for _, value in points]
    return max(values) < 10 * min(values)


def main() -> None:
    """Read the metrics, write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("metrics", type=Path)
    parser.add_argument("picture", type=Path)
    arguments = parser.parse_args()
    curves = read(arguments.metrics)
    if not curves:
        parser.error(f"{arguments.metrics} holds no values")
    draw(curves, arguments.picture)


if __name__ == "__main__":
    main()
