"""The container has PyTorch 2.5 and its Triton, which no machine with a GPU that we test on has."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def triton(tmp_path_factory):
    """A folder with the Triton that PyTorch 2.5.1 asks for, and nothing else."""
    folder = tmp_path_factory.mktemp("triton")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), "triton==3.1.0"]
    subprocess.run(command, check=True)
    return folder


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Triton is for Linux")
@pytest.mark.parametrize("arguments", [("75",), ("86",), ("89", "fp8")], ids=" ".join)
def test_every_kernel_compiles(arguments, triton, tmp_path):
    environment = {**os.environ, "PYTHONPATH": f"{triton}{os.pathsep}{ROOT}", "TRITON_CACHE_DIR": str(tmp_path)}
    environment.pop("TRITON_INTERPRET", None)
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "kernels_of_triton_3_1.py", *arguments],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert len(lines) > 40 and {"_channel_sums", "_channel_factors", "_gated_product"} <= {
        line.split()[1] for line in lines
    }
    failed = [line for line in lines if line.startswith("failed")]
    assert not failed, "\n".join([*failed, done.stderr[-4000:]])
