"""Configurations: what is refused, and that files return what was written."""

import json
from dataclasses import replace

import pytest

from personalive.config import PRESETS, ModelConfig, PoseGuiderConfig, UNetConfig, VAEConfig
from personalive.errors import InputError


@pytest.mark.parametrize("name", PRESETS)
def test_json_gives_back_the_same_configuration(name):
    assert ModelConfig.from_dict(json.loads(json.dumps(PRESETS[name].to_dict()))) == PRESETS[name]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"nonsense": 1}, "nonsense"),
        ({"unet": {"heads": "8"}}, "config.unet.heads"),
        ({"unet": {"block_channels": [320, "640"]}}, "block_channels"),
        ({"unet": 3}, "config.unet"),
        ({"size": True}, "config.size"),
        ({"prediction_type": "noise"}, "noise"),
    ],
)
def test_values_that_do_not_fit_are_named(changes, said):
    with pytest.raises(InputError, match=said):
        ModelConfig.from_dict(changes)


@pytest.mark.parametrize("text", ["", "[]", "{", "null"])
def test_a_file_that_is_no_configuration_is_refused_by_name(tmp_path, text):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"config\.json"):
        ModelConfig.load(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"vae": VAEConfig(latent_channels=8)},
        {"vae": VAEConfig(block_channels=(128, 256, 512))},
        {"pose_guider": PoseGuiderConfig(output_channels=64)},
        {"unet": UNetConfig(cross_attention_dim=64)},
        {"unet": UNetConfig(motion_token_width=8)},
    ],
)
def test_networks_that_do_not_go_together_are_refused(changes):
    with pytest.raises(InputError):
        replace(ModelConfig(), **changes)
