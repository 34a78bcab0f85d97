"""The rule that fills networks must yield the recorded values; otherwise no golden means anything."""

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from personalive.testing import weight_rule

CHECK = json.loads((Path(__file__).parent / "goldens" / "rule_check.json").read_text())


def assert_recorded(values: npt.NDArray[Any], record: dict[str, Any]) -> None:
    assert values.dtype == np.float32
    assert values.ravel()[:4].tolist() == record["first"][: values.size]
    assert float(values.astype(np.float64).sum()) == pytest.approx(record["sum"], rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("record", CHECK["weights"], ids=lambda record: f"{record['network']}:{record['key'][-40:]}")
def test_weights(record: dict[str, Any]) -> None:
    name = f"{record['seed']}:{record['network']}:{record['key']}"
    assert zlib.crc32(name.encode()) == record["crc32"]
    values = weight_rule.weight(record["network"], record["key"], record["shape"], record["seed"])
    assert values.shape == tuple(record["shape"])
    assert_recorded(values, record)


@pytest.mark.parametrize("record", CHECK["inputs"], ids=lambda record: record["name"])
def test_inputs(record: dict[str, Any]) -> None:
    values = weight_rule.normal_input(record["name"], record["shape"], record["scale"], record["seed"])
    assert_recorded(values.numpy(), record)


@pytest.mark.parametrize("record", CHECK["noise"], ids=lambda record: str(record["k"]))
def test_noise(record: dict[str, Any]) -> None:
    assert_recorded(weight_rule.noise(record["k"], record["shape"], record["seed"]).numpy(), record)


@pytest.mark.parametrize("record", CHECK["images"], ids=lambda record: str(sorted(record.items())[:3]))
def test_images(record: dict[str, Any]) -> None:
    if "frame_of" in record:
        image = weight_rule.frame(record["frame_of"], record["f"], record["H"], record["W"], record["seed"])
    elif "face_of" in record:
        image = weight_rule.face(record["face_of"], record["f"], record["seed"])
        assert image.shape == (record["side"], record["side"], 3)
    else:
        image = weight_rule.mosaic(record["name"], record["H"], record["W"], record["G"], record["seed"])
        assert image[0, 0].tolist() == record["corner"]
    assert zlib.crc32(image.tobytes()) == record["crc32"]


def test_fill_leaves_counters_and_tables() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    module.register_buffer("pe", torch.full((1, 2), 7.0))
    weight_rule.fill(module, "any")
    assert module.pe.tolist() == [[7.0, 7.0]]
    assert module[1].num_batches_tracked.item() == 0
    assert torch.equal(module[0].weight.detach(), torch.from_numpy(weight_rule.weight("any", "0.weight", (4, 3, 1, 1))))
    assert (module[1].running_var >= 1).all()
