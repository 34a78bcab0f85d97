"""A tiny VAE that the user names: it is checked before anything else is done, and decodes in the VAE's place."""

import json

import pytest
import torch
from diffusers import AutoencoderTiny
from safetensors.torch import load_file, save_file

from personalive import weights
from personalive.accel.accelerator import Acceleration
from personalive.errors import WeightsError
from personalive.models import build_network
from personalive.models.tiny_vae import replace_decoder
from personalive.testing.weight_rule import normal_input
from tests.published_layout import SMALL

CPU = torch.device("cpu")


@pytest.fixture
def tiny():
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
    vae, latents = build_network("vae", SMALL), normal_input("vae_latents", (2, 4, 6, 5), 20)
    replace_decoder(vae, load(folder / name))
    decode = Acceleration(CPU, torch.float32).decoder(vae) if accelerated else lambda x: vae.decode(x).sample
    image = decode(latents / SMALL.vae.scaling_factor)
    expected = tiny.decode(latents).sample
    assert image.shape == (2, 3, 48, 40) and expected.std() > 0.01
    torch.testing.assert_close(image, expected)


def test_the_encoder_is_not_needed(folder, tmp_path):
    state = load_file(folder / "diffusion_pytorch_model.safetensors")
    save_file({key: value for key, value in state.items() if key.startswith("decoder.")}, tmp_path / "half.safetensors")
    assert load(tmp_path / "half.safetensors").state_dict().keys() == {k for k in state if k.startswith("decoder.")}


def test_latents_of_another_vae_are_refused(tmp_path):
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
