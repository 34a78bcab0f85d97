"""The picture of a run's losses."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "loss_curves.py"


def run(*arguments):
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True)


@pytest.mark.slow
def test_every_stage_of_the_demo_model_is_in_a_small_picture(tmp_path):
    picture = tmp_path / "losses.png"
    result = run(ROOT / "weights" / "demo" / "metrics.csv", picture)
    assert result.returncode == 0, result.stderr
    assert picture.stat().st_size < 100_000
    shown = np.asarray(Image.open(picture).convert("L"))
    assert shown.shape[1] >= 1000 and (shown < 200).mean() > 0.005, "it has lines"


def test_values_that_are_not_finite_are_left_out_and_no_values_are_an_error(tmp_path):
    metrics = tmp_path / "metrics.csv"
    head = "stage,step,seconds,metric,value\n"
    metrics.write_text(f"{head}vae,11,1.0,loss,nan\nvae,23,2.0,loss,0.5\nvae,35,3.0,loss,0.25\n")
    assert run(metrics, tmp_path / "losses.png").returncode == 0
    metrics.write_text(head)
    empty = run(metrics, tmp_path / "none.png")
    assert empty.returncode != 0 and "holds no values" in empty.stderr
    assert not (tmp_path / "none.png").exists()
