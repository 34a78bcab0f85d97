"""The networks while they are trained: fp32 weights, a moving average of them, and the pieces of a forward pass."""

import copy
import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from personalive import sampler
from personalive.config import ModelConfig
from personalive.driving import CLIP_MEAN, CLIP_STD
from personalive.keypoints import HeadPose, head_pose
from personalive.models import NETWORKS, build_network
from personalive.models.unet import ReferenceFeatures
from personalive.training.shots import Shots

EMA_DECAY = 0.998
ENCODED_AT_ONCE = 16
"""Pictures that the autoencoder's encoder takes in one go."""

log = logging.getLogger(__name__)


def compile_safely(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function through PyTorch's compiler; itself where that fails, as it may in many ways."""
    run = torch.compile(function, dynamic=False)

    def call(*arguments: Any) -> Any:
        nonlocal run
        try:
            return run(*arguments)
        except Exception as error:
            if run is function:
                raise
            log.warning("%s is not compiled: %s", function.__name__, str(error)[:500])
            run = function
            return function(*arguments)

    return call


class Trainee:
    """All networks of a model in training."""

    def __init__(
        self, config: ModelConfig, device: torch.device, *, seed: int = 0, compiled: bool = False, ema: bool = True
    ) -> None:
        """Build every network with fresh weights.

        Args:
            config: any preset.
            seed: of the fresh weights.
            compiled: run the networks through PyTorch's compiler.
            ema: keep the moving average, which is what is saved; without it, the weights themselves are.
        """
        self.config, self.device = config, device
        torch.manual_seed(seed)
        with torch.device(device):
            self.networks: dict[str, Any] = {name: build_network(name, config) for name in NETWORKS}
        for network in self.networks.values():
            network.to(device).float().requires_grad_(False)  # some tables are made on the CPU whatever the device
        if device.type == "cuda":
            for network in self.networks.values():
                network.to(memory_format=torch.channels_last)
        self.average = copy.deepcopy(self.networks) if ema else self.networks
        self._compiled = compiled
        names = ("autoencode", "encode", "decode", "tokens", "guide", "reference", "denoise")
        self._run: dict[str, Callable[..., Any]] = {name: getattr(self, f"_{name}") for name in names}
        if compiled:
            self._run = {name: compile_safely(function) for name, function in self._run.items()}

    def autocast(self) -> AbstractContextManager[None]:
        """bf16 where the device is fast at it: for networks alone, since places in pictures need more digits."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda")

    def parameters(self, names: Sequence[str]) -> list[nn.Parameter]:
        """Parameters of some networks, or of parts of them ("vae.decoder"): they will be trained, and no others."""
        for network in self.networks.values():
            network.requires_grad_(False)
        chosen: list[nn.Parameter] = []
        for name in names:
            whole, _, part = name.partition(".")
            module = self.networks[whole].get_submodule(part) if part else self.networks[whole]
            module.requires_grad_(True)
            chosen += list(module.parameters())
        return chosen

    @torch.no_grad()
    def update_average(self, step: int) -> None:
        """Move the average towards the weights; buffers are copied."""
        if self.average is self.networks:
            return
        decay = min(EMA_DECAY, (1 + step) / (10 + step))
        pairs = [
            (mean, now)
            for name in NETWORKS
            for mean, now in zip(self.average[name].parameters(), self.networks[name].parameters(), strict=True)
            if now.requires_grad
        ]
        torch._foreach_lerp_([mean for mean, _ in pairs], [now for _, now in pairs], 1 - decay)
        means, values = zip(*self._buffers(), strict=True)
        torch._foreach_copy_(means, values)

    def _buffers(self) -> Iterator[tuple[Tensor, Tensor]]:
        for name in NETWORKS:
            yield from zip(self.average[name].buffers(), self.networks[name].buffers(), strict=True)

    def set_latent_scale(self, scale: float) -> None:
        """Fix the factor that gives latents unit variance."""
        self.config = dataclasses.replace(
            self.config, vae=dataclasses.replace(self.config.vae, scaling_factor=float(scale))
        )

    # What the compiler gets: plain functions of tensors, always of the same shapes within a stage.

    def _autoencode(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        vae = self.networks["vae"]
        mean, log_variance = vae.encode(images).latent_dist.parameters.float().chunk(2, dim=1)
        log_variance = log_variance.clamp(-30, 20)
        output = vae.decode(mean + (0.5 * log_variance).exp() * noise).sample
        return output.float(), mean, log_variance

    def _encode(self, images: Tensor) -> Tensor:
        mean: Tensor = self.networks["vae"].encode(images).latent_dist.mean
        return mean.float()

    def _decode(self, latents: Tensor) -> Tensor:
        image: Tensor = self.networks["vae"].decode(latents).sample
        return image.float()

    def _tokens(self, faces: Tensor) -> Tensor:
        tokens: Tensor = self.networks["motion_encoder"](faces)
        return tokens

    def _guide(self, rasters: Tensor) -> Tensor:
        features: Tensor = self.networks["pose_guider"](rasters)
        return features

    def _reference(self, latents: Tensor, embedding: Tensor) -> ReferenceFeatures:
        banks = self.networks["reference_unet"](latents, embedding)
        features: ReferenceFeatures = self.networks["denoising_unet"].project_reference(banks, embedding)
        return features

    def _denoise(
        self, noisy: Tensor, timesteps: Tensor, tokens: Tensor, pose: Tensor, reference: ReferenceFeatures
    ) -> Tensor:
        unet = self.networks["denoising_unet"]
        output: Tensor = unet(noisy, unet.embed_time(timesteps), tokens, pose, [reference])
        return output

    # The pieces of a forward pass. Latents are scaled as in `PersonaLive`.

    def autoencode(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images [n, 3, S, S] in [-1, 1] and noise for their latents → images again, mean and log of the variance."""
        with self.autocast():
            result: tuple[Tensor, Tensor, Tensor] = self._run["autoencode"](_last(images), noise)
        return result

    def latents(self, images: Tensor) -> Tensor:
        """Images [n, 3, S, S] in [-1, 1] → scaled latents [n, c, h, w] without gradient."""
        rest = -len(images) % ENCODED_AT_ONCE if self._compiled else 0  # one shape is compiled once
        parts = torch.cat((images, images[:1].expand(rest, -1, -1, -1))).split(ENCODED_AT_ONCE)
        with torch.no_grad(), self.autocast():
            mean = torch.cat([self._run["encode"](_last(part)) for part in parts])
        return mean[: len(images)] * self.config.vae.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents → images in [-1, 1]."""
        with self.autocast():
            images: Tensor = self._run["decode"](_last(latents / self.config.vae.scaling_factor))
        return images

    def heads(self, images: Tensor) -> Any:
        """Images [n, 3, S, S] in [-1, 1] → the motion extractor's heads."""
        size = self.config.motion_extractor.image_size
        small = images if images.shape[-1] == size else F.interpolate(images, (size, size), mode="area")
        with self.autocast():
            return self.networks["motion_extractor"](_last(small / 2 + 0.5))

    def pose(self, shots: Shots) -> HeadPose:
        """Poses of shots: exact where they are known, otherwise as the motion extractor finds them."""
        if shots.pose is not None:
            return shots.pose
        with torch.no_grad():
            return head_pose(self.heads(shots.images.flatten(0, 1)))

    def motion_tokens(self, faces: Tensor) -> Tensor:
        """Crops [n, 3, s, s] → motion tokens."""
        with self.autocast():
            tokens: Tensor = self._run["tokens"](_last(faces))
        return tokens

    def guide(self, rasters: Tensor) -> Tensor:
        """Rasters [n, 3, S, S] → pose features."""
        with self.autocast():
            features: Tensor = self._run["guide"](_last(rasters))
        return features

    def embed_image(self, images: Tensor) -> Tensor:
        """Images [n, 3, S, S] in [-1, 1] → image embedding [n, 1, e]."""
        size = self.config.image_encoder.image_size
        small = F.interpolate(images.float(), (size, size), mode="bicubic", antialias=True).clamp(-1, 1)
        mean, std = (torch.tensor(values, device=images.device)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))
        with self.autocast():
            embedding: Tensor = self.networks["image_encoder"]((small / 2 + 0.5 - mean) / std).image_embeds
        return embedding[:, None]

    def reference(self, latents: Tensor, embedding: Tensor) -> ReferenceFeatures:
        """Scaled latents [n, c, h, w] and embedding → what the denoising UNet attends to."""
        with self.autocast():
            features: ReferenceFeatures = self._run["reference"](_last(latents), embedding)
        return features

    def predict(
        self, noisy: Tensor, step: sampler.InnerStep, tokens: Tensor, pose: Tensor, reference: ReferenceFeatures
    ) -> tuple[Tensor, Tensor]:
        """One denoising step of b windows of f frames: latents of the next timestep and clean ones, fp32."""
        timesteps = torch.tensor(step.timesteps, device=self.device)  # a tensor: a plain number would be compiled in
        with self.autocast():
            output = self._run["denoise"](_last(noisy), timesteps, tokens, pose, reference)
        coefficients = sampler.StepCoefficients.of(step, self.device)
        return sampler.denoise_step(noisy, output, coefficients, self.config.prediction_type)


def _last(images: Tensor) -> Tensor:
    return images.contiguous(memory_format=torch.channels_last)
