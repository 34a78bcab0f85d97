"""Loading takes little more host memory than the largest file."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from personalive.config import ModelConfig, PoseGuiderConfig, UNetConfig
from personalive.models import NETWORKS, build_network
from tests.published_layout import SMALL, State, write_layout

BIG = replace(
    SMALL,
    unet=UNetConfig(block_channels=(96, 192, 384, 384), cross_attention_dim=96),
    image_encoder=replace(SMALL.image_encoder, projection_dim=96),
    pose_guider=PoseGuiderConfig(channels=(8, 8, 16, 16), output_channels=96),
)
"""Its UNets' files are about 300 MB."""

PROGRAM = """
import json, sys
from pathlib import Path
import torch
from personalive import weights
from personalive.config import ModelConfig
from personalive.models import NETWORKS, build_network

def status(name):
    return next(int(line.split()[1]) << 10 for line in Path("/proc/self/status").open() if line.startswith(name))

source = weights.resolve(sys.argv[1], config=ModelConfig.load(Path(sys.argv[2])))
kept, peaks = [], {}
for network in NETWORKS:
    with torch.device("meta"):
        module = build_network(network, source.config)
    before = status("VmRSS:")
    Path("/proc/self/clear_refs").write_text("5")  # forget the highest point so far
    weights.load_into(source, network, module, dtype=torch.float16, device=torch.device("cpu"))
    weight = sum(tensor.nbytes for tensor in module.state_dict().values())
    peaks[network] = status("VmHWM:") - before - weight
    kept.append(module)
print(json.dumps(peaks))
"""


def constant_states(config: ModelConfig) -> dict[str, State]:
    """Values do not matter here, and drawing them takes long."""
    states = {}
    for network in NETWORKS:
        with torch.device("meta"):
            module = build_network(network, config)
        states[network] = {
            key: torch.full_like(value, 0.01, device="cpu") if value.is_floating_point() else torch.tensor(0)
            for key, value in module.state_dict().items()
        }
    return states


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux' memory counters")
def test_peak_is_the_largest_file(tmp_path: Path) -> None:
    write_layout(tmp_path / "layout", constant_states(BIG), BIG)
    (tmp_path / "config.json").write_text(json.dumps(BIG.to_dict()))
    sizes = {path.stem: path.stat().st_size for path in (tmp_path / "layout").rglob("*.pth")}
    assert 250e6 < sizes["reference_unet"] < sizes["denoising_unet"]
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "layout"), str(tmp_path / "config.json")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    peaks = json.loads(result.stdout)
    # Mapped parts of a file count, in addition to what the model itself takes.
    assert peaks["denoising_unet"] < sizes["denoising_unet"] + 60e6, "both of its files were held at once"
    assert peaks["reference_unet"] < sizes["reference_unet"] + 60e6
    assert max(peaks.values()) < max(sizes.values()) + 60e6
