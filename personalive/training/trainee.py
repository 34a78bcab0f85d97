"""The networks while they are trained: fp32 weights, a moving average of them, and the pieces of a forward pass."""

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from personalive.config import ModelConfig
from personalive.engine import schedule as sampler
from personalive.engine.motion import HeadPose, head_pose
from personalive.engine.preprocess import CLIP_MEAN, CLIP_STD
from personalive.models import NETWORKS, build_network, cast
from personalive.models.denoising_unet import ReferenceFeatures
from personalive.models.motion_extractor import MotionHeads
from personalive.training.captured import Captured, Tensors
from personalive.training.flat import Chosen, FlatWeights
from personalive.training.shots import Shots

ENCODED_AT_ONCE = 16
"""Pictures that the autoencoder's encoder takes at once."""


@dataclasses.dataclass(frozen=True)
class Level:
    """The noise levels of a window's f frames before and after a step, as tensors."""

    timesteps: Tensor
    """`[f]`"""
    coefficients: Tensor
    """The coefficients of `StepCoefficients`, `[4, f, 1, 1, 1]`."""

    @classmethod
    def of(cls, step: sampler.InnerStep, device: torch.device) -> "Level":
        """The levels of a step."""
        coefficients = sampler.StepCoefficients.of(step, device)
        return cls(torch.tensor(step.timesteps, device=device), torch.stack(list(vars(coefficients).values())))


class Trainee:
    """All networks of a model in training."""

    def __init__(self, config: ModelConfig, device: torch.device, *, seed: int = 0, ema: bool = True) -> None:
        """Build every network with new weights.

        Args:
            config: any preset.
            seed: of the new weights.
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
        # bf16 where the device is fast at it. Positions in pictures and statistics of batches need more digits.
        self.dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self.working = self.networks
        if self.dtype != torch.float32:
            self.working = {name: _lower(network, self.dtype) for name, network in self.networks.items()}
        self.weights = FlatWeights(self.networks, self.average, self.working)
        self._encode = Captured("the motion encoder", self._run_encoder)
        self._heads = Captured("the motion extractor", self._run_extractor)

    def choose(self, names: Sequence[str]) -> list[Chosen]:
        """Train some networks, or parts of them ("vae.decoder"), and no others, from the weights of `networks`."""
        self.weights.refresh()
        for name, network in self.working.items():
            for now, master in zip(network.buffers(), self.networks[name].buffers(), strict=True):
                now.copy_(master)
        return self.weights.choose(names)

    def train(self, names: Sequence[str], mode: bool = True) -> None:
        """Switch batch norms of some networks to statistics of their batches, or back to those that they keep."""
        for name in names:
            self.working[name].train(mode)

    @torch.no_grad()
    def keep_statistics(self) -> None:
        """Copy the batch norms' statistics to where weights are saved."""
        if self.working is self.networks and self.average is self.networks:
            return
        for name in NETWORKS:
            for now, master, mean in zip(
                *(networks[name].buffers() for networks in (self.working, self.networks, self.average)), strict=True
            ):
                if now.dtype == master.dtype:  # the others are tables that never change
                    master.copy_(now)
                    mean.copy_(now)

    def set_latent_scale(self, scale: float) -> None:
        """Fix the factor that gives latents unit variance."""
        self.config = dataclasses.replace(
            self.config, vae=dataclasses.replace(self.config.vae, scaling_factor=float(scale))
        )

    # The pieces of a forward pass. Latents are scaled as in `PersonaLive`.

    def autoencode(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images [n, 3, S, S] in [-1, 1] and noise for their latents → images again, mean and log of the variance."""
        vae = self.working["vae"]
        mean, log_variance = (part.float() for part in vae.encode(self._take(images)))
        log_variance = log_variance.clamp(-30, 20)
        output = vae.decode((mean + (0.5 * log_variance).exp() * noise).to(self.dtype))
        return output.float(), mean, log_variance

    @torch.no_grad()
    def latents(self, images: Tensor) -> Tensor:
        """Images [n, 3, S, S] in [-1, 1] → scaled latents [n, c, h, w] without gradient."""
        rest = -len(images) % ENCODED_AT_ONCE if images.is_cuda else 0  # a single shape is captured once
        parts = torch.cat((images, images[:1].expand(rest, -1, -1, -1))).split(ENCODED_AT_ONCE)
        mean = torch.cat([self._encode({"images": self._take(part)})["mean"] for part in parts])
        return mean[: len(images)] * self.config.vae.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents → images in [-1, 1]."""
        image: Tensor = self.working["vae"].decode(self._take(latents / self.config.vae.scaling_factor))
        return image.float()

    def heads(self, images: Tensor) -> MotionHeads:
        """Images [n, 3, S, S] in [-1, 1] → the motion extractor's heads."""
        size = self.config.motion_extractor.image_size
        small = images if images.shape[-1] == size else F.interpolate(images, (size, size), mode="area")
        heads: MotionHeads = self.working["motion_extractor"](_last(small / 2 + 0.5))
        return heads

    @torch.no_grad()
    def found_pose(self, images: Tensor) -> HeadPose:
        """Images [n, 3, S, S] in [-1, 1] → the poses that the motion extractor finds, without gradient."""
        return HeadPose(**self._heads({"images": images}))

    def pose(self, shots: Shots) -> HeadPose:
        """Poses of shots: exact where they are known, otherwise as the motion extractor finds them."""
        return self.found_pose(shots.images.flatten(0, 1)) if shots.pose is None else shots.pose

    def motion_tokens(self, faces: Tensor) -> Tensor:
        """Crops [n, 3, s, s] → motion tokens."""
        tokens: Tensor = self.working["motion_encoder"](self._take(faces))
        return tokens

    def guide(self, rasters: Tensor) -> Tensor:
        """Rasters [n, 3, S, S] → pose features."""
        features: Tensor = self.working["pose_guider"](self._take(rasters))
        return features

    def clip_images(self, images: Tensor) -> Tensor:
        """Images [n, 3, S, S] in [-1, 1] → what the image encoder is shown, [n, 3, s, s]."""
        size = self.config.image_encoder.image_size
        small = F.interpolate(images.float(), (size, size), mode="bicubic", antialias=True).clamp(-1, 1)
        mean, std = (torch.tensor(values, device=images.device)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))
        return (small / 2 + 0.5 - mean) / std

    def embed_image(self, clip_images: Tensor) -> Tensor:
        """`clip_images` → image embedding [n, 1, e]."""
        embedding: Tensor = self.working["image_encoder"](clip_images.to(self.dtype))
        return embedding

    def reference(self, latents: Tensor, embedding: Tensor) -> ReferenceFeatures:
        """Scaled latents [n, c, h, w] and embedding → what the denoising UNet attends to."""
        return ReferenceFeatures(embedding, (self.working["reference_unet"](self._take(latents), embedding),))

    def predict(
        self, noisy: Tensor, level: Level, tokens: Tensor, pose: Tensor, reference: ReferenceFeatures
    ) -> tuple[Tensor, Tensor]:
        """One denoising step of b windows of f frames: latents of the next timestep and clean ones, fp32."""
        output = self.working["denoising_unet"](self._take(noisy), level.timesteps, tokens, pose, reference)
        coefficients = sampler.StepCoefficients(*level.coefficients.unbind(0))
        return sampler.denoise_step(noisy, output, coefficients, self.config.prediction_type)

    def _run_encoder(self, inputs: Tensors) -> Tensors:
        return {"mean": self.working["vae"].encode(inputs["images"])[0].float()}

    def _run_extractor(self, inputs: Tensors) -> Tensors:
        return vars(head_pose(self.heads(inputs["images"])))

    def _take(self, images: Tensor) -> Tensor:
        return images.to(self.dtype).contiguous(memory_format=torch.channels_last)


def _lower(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy of a network that computes in another dtype, except where it must not."""
    copied = cast(copy.deepcopy(network), dtype)
    for module in copied.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.float()
    return copied


def _last(images: Tensor) -> Tensor:
    return images.contiguous(memory_format=torch.channels_last)
