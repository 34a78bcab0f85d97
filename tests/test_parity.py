"""A small set of the numerical goldens, and a check that the runner can fail. All: `python -m tests.parity DIR`."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from personalive.testing.parity.end_to_end import EndToEnd
from personalive.testing.parity.networks import case_list
from personalive.testing.parity.report import Report
from personalive.testing.parity.run import run

GOLDENS = Path(__file__).parent / "goldens"


@pytest.fixture(scope="module")
def whole() -> EndToEnd:
    """Networks that are built once, and faces that are encoded once."""
    return EndToEnd()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", case_list(GOLDENS))
def test_golden(name, whole):
    report = Report()
    run(GOLDENS, [name], report, whole)
    assert report.passed and not report.failures


@pytest.mark.parametrize("damage", ["value", "shape", "unknown", "nan"])
def test_a_golden_that_differs_fails(damage, tmp_path, whole):
    name = "components/scheduler.npz"
    shutil.copytree(GOLDENS / "components", tmp_path / "components")
    shutil.copy(GOLDENS / "cases.json", tmp_path)
    arrays = dict(np.load(tmp_path / name))
    changed = arrays["prev_sample"].copy()
    changed[3, 1, 4, 2] = np.nan if damage == "nan" else changed[3, 1, 4, 2] + 1e-3
    arrays |= {
        "value": {"prev_sample": changed},
        "nan": {"prev_sample": changed},
        "shape": {"prev_sample": arrays["prev_sample"][:-1]},
        "unknown": {"something_new": changed},
    }[damage]
    np.savez(tmp_path / name, **arrays)
    report = Report()
    run(tmp_path, [name], report, whole)
    assert len(report.failures) == 1
