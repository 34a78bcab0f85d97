"""The autoencoder and the image encoder compute what the libraries that made them known compute.

The libraries are imported where they are used: every test process reads this file, and one needs them.
"""

import pytest
import torch

from personalive.config import ImageEncoderConfig, VAEConfig
from personalive.models.clip import ImageEncoder, clip_fields
from personalive.models.vae import VAE
from personalive.testing.weight_rule import fill, normal_input


@pytest.fixture(scope="module")
def autoencoders():
    import diffusers

    config = VAEConfig(block_channels=(8, 16, 16), layers_per_block=1, norm_groups=4)
    levels = len(config.block_channels)
    known = diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=config.block_channels,
        layers_per_block=config.layers_per_block,
        norm_num_groups=config.norm_groups,
    ).eval()
    fill(known, "vae")
    ours = VAE(config).eval()
    ours.load_state_dict(known.state_dict())
    return ours, known


@torch.inference_mode()
@pytest.mark.parametrize("height", [32, 40])
@pytest.mark.slow
def test_the_autoencoder_is_diffusers(autoencoders, height):
    ours, known = autoencoders
    images, latents = normal_input("images", (2, 3, height, 32)), normal_input("latents", (2, 4, height // 4, 8))
    for found, expected in zip(ours.encode(images), known.quant_conv(known.encoder(images)).chunk(2, 1), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(ours.decode(latents), known.decode(latents).sample, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_the_image_encoder_is_transformers():
    import transformers

    config = ImageEncoderConfig(32, 64, layers=2, heads=4, image_size=28, patch_size=7, projection_dim=16)
    known = transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(**clip_fields(config))).eval()
    fill(known, "image_encoder")
    ours = ImageEncoder(config).eval()
    ours.load_state_dict(known.state_dict())
    images = normal_input("images", (2, 3, 28, 28))
    torch.testing.assert_close(ours(images)[:, 0], known(images).image_embeds, atol=1e-5, rtol=1e-4)
