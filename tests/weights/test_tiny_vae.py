"""A tiny VAE that the user names: it is checked before anything else is done, and decodes in the VAE's place."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from personalive import weights
from personalive.accel.accelerator import Accelerator
from personalive.errors import WeightsError
from personalive.models import NETWORKS, build_network
from personalive.pipeline import PersonaLive
from personalive.testing.weight_rule import normal_input
from tests.published_layout import SMALL

CPU = torch.device("cpu")


@pytest.fixture
def tiny():
    from diffusers import AutoencoderTiny  # here, as every test process reads this file

    torch.manual_seed(0)
    return AutoencoderTiny(latent_channels=4).eval()


@pytest.fixture
def folder(tmp_path, tiny):
    tiny.save_pretrained(tmp_path / "taesd")
    return tmp_path / "taesd"


def load(path):
    return weights.load_tiny_decoder(path, SMALL, dtype=torch.float32, device=CPU)


@torch.inference_mode()
@pytest.mark.parametrize("name", ["", "diffusion_pytorch_model.safetensors"], ids=["folder", "file"])
@pytest.mark.parametrize("accelerated", [False, True])
def test_it_decodes_in_the_place_of_the_vae(folder, tiny, name, accelerated):
    modules, latents = (
        {name: build_network(name, SMALL) for name in NETWORKS},
        normal_input("vae_latents", (2, 4, 6, 5)),
    )
    modules["vae"].replace_decoder(load(folder / name))
    accelerator = Accelerator(CPU, torch.float32) if accelerated else None
    model = PersonaLive.from_modules(SMALL, modules, torch.float32, accelerator)
    image = model.networks.decode(latents)
    expected = (tiny.decode(latents).sample / 2 + 0.5).clamp(0, 1)
    assert image.shape == (2, 3, 48, 40) and expected.std() > 0.01
    torch.testing.assert_close(image, expected)


def test_the_encoder_is_not_needed(folder, tmp_path):
    state = load_file(folder / "diffusion_pytorch_model.safetensors")
    save_file({key: value for key, value in state.items() if key.startswith("decoder.")}, tmp_path / "half.safetensors")
    assert load(tmp_path / "half.safetensors").state_dict().keys() == {k for k in state if k.startswith("decoder.")}


def test_latents_of_another_vae_are_refused(tmp_path):
    from diffusers import AutoencoderTiny

    AutoencoderTiny(latent_channels=16).save_pretrained(tmp_path / "taesd3")
    with pytest.raises(WeightsError, match=r"latent_channels is 16 in .*config\.json, the model needs 4"):
        load(tmp_path / "taesd3")
    with pytest.raises(WeightsError, match=r"is for 16 latent channels, the model small has 4"):
        load(tmp_path / "taesd3" / "diffusion_pytorch_model.safetensors")


def test_other_files_are_refused(folder, tmp_path):
    path = tmp_path / "changed.safetensors"
    state = load_file(folder / "diffusion_pytorch_model.safetensors")

    def refuses(state, message):
        save_file(state, path)
        with pytest.raises(WeightsError, match=message):
            load(path)

    last = "decoder.layers.18.weight"
    refuses({key: value for key, value in state.items() if key != last}, rf"has no {last}")
    refuses(state | {last: torch.zeros(4, 64, 3, 3)}, r"has shape \[4, 64, 3, 3\], \[3, 64, 3, 3\] is needed")
    refuses(state | {"decoder.layers.19.weight": torch.zeros(1)}, r"has an unknown decoder\.layers\.19\.weight")
    refuses(state | {last: torch.full((3, 64, 3, 3), torch.nan)}, r"not finite")
    path.write_bytes(b"{}")
    with pytest.raises(WeightsError, match="damaged"):
        load(path)
    torch.save(state, tmp_path / "pickle.bin")
    with pytest.raises(WeightsError, match=r"must be a \.safetensors file"):
        load(tmp_path / "pickle.bin")
    with pytest.raises(WeightsError, match=r"does not exist"):
        load(tmp_path / "nowhere")
    facts = folder / "config.json"
    facts.write_text(json.dumps(json.loads(facts.read_text()) | {"act_fn": "silu"}))
    with pytest.raises(WeightsError, match=r"act_fn is 'silu'"):
        load(folder)
