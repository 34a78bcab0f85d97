"""A small set of the numerical goldens, and a check that the runner can fail. All: `python -m tests.parity DIR`."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from personalive.testing.parity.end_to_end import EndToEnd
from personalive.testing.parity.networks import case_list
from personalive.testing.parity.report import Report
from personalive.testing.parity.run import END_TO_END, run

GOLDENS = Path(__file__).parent / "goldens"


@pytest.fixture(scope="module")
def whole() -> EndToEnd:
    """Networks that are built once, and faces that are encoded once."""
    return EndToEnd()


CASES = case_list(GOLDENS)
LARGEST = {"components/motion_encoder.npz", "components/motion_extractor.npz"}
"""They take longer than all others together."""
WITHOUT_ACCELERATION = """
import sys
sys.modules["personalive.accel"] = None
from personalive import PersonaLive
from personalive.engine.networks import PlainNetworks
assert isinstance(PersonaLive.from_pretrained("demo", device="cpu").networks, PlainNetworks)
from tests.parity.__main__ import main
status = main()
assert not [name for name, module in sys.modules.items() if name.startswith("personalive.accel") and module]
sys.exit(status)
"""


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("names", "value"),
    [
        ("unets/reduced_12x16_reference", "reference_banks.npz"),
        ("unets/", "denoising.npz"),
        ("e2e/", "frames_u16"),
    ],
    ids=["a network", "networks", "whole animations"],
)
@pytest.mark.slow
def test_parity_where_acceleration_is_left_out(names, value):
    """The same classes give the same pictures; nothing of `personalive.accel` can be imported."""
    command = [sys.executable, "-c", WITHOUT_ACCELERATION, str(GOLDENS), "--only", names]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    assert value in result.stdout


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name in LARGEST else name
        for name, case in CASES.items()
        if case["kind"] not in END_TO_END
    ],
)
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
