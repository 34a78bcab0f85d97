"""The stages of training. A stage turns a step's number into losses; the loop in train.py does everything else.

A step has two halves: one draws and prepares pictures, the other runs the networks, on a GPU as a captured graph.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from personalive.engine import motion as kp
from personalive.training.captured import Tensors
from personalive.training.pool import Pool
from personalive.training.shots import Shots, focus_map, roughen
from personalive.training.sources import Source, step_generator
from personalive.training.trainee import Trainee

FOCUS = 2.0
"""Additional weight of eyes and mouth in these stages."""


@dataclass(frozen=True)
class Batch:
    """How much a step works on, per process."""

    pictures: int = 64
    """Of the VAE, extractor and expression stages."""
    people: int = 8
    """Of the image stage; even, or 1."""
    frames: int = 8
    """Per person in the image stage."""
    streams: int = 8
    """Of the temporal and streaming stages; even."""
    pool: int = 0
    """Pictures that are drawn ahead for the VAE and decoder stages; 0: all are new."""


class Stage(Protocol):
    """One part of training."""

    name: str
    trains: tuple[str, ...]
    """Networks, or parts of them."""
    rate: float
    """Highest learning rate."""

    def begin(self) -> None:
        """Prepare the networks: train or eval mode."""

    def prepare(self, step: int, seed: int) -> Tensors:
        """The inputs of a step, without gradient; `seed` differs between steps and processes."""

    def compute(self, inputs: Tensors) -> Tensors:
        """The networks' part. It depends only on what `prepare` returned: means by name, of which "loss" is minimised.

        Results that are not scalars go to `take`, and nowhere else.
        """

    def take(self, results: Tensors) -> None:
        """Keep what later steps need of the results."""

    def end(self) -> None:
        """What follows the last step."""

    def state_dict(self) -> dict[str, Any]:
        """What the stage keeps between steps."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from it."""


class Stateless:
    """A stage that keeps nothing between its steps, and whose batch norms update their statistics."""

    trains: tuple[str, ...]

    def __init__(self, trainee: Trainee, source: Source, batch: Batch) -> None:
        self.trainee, self.source, self.batch = trainee, source, batch

    def begin(self) -> None:
        self.trainee.train(self.trains)

    def take(self, results: Tensors) -> None: ...

    def end(self) -> None:
        self.trainee.train(self.trains, False)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def picture_loss(output: Tensor, target: Tensor, weight: Tensor | float = 1.0) -> Tensor:
    """Error of pixels, absolute and squared, and of the differences to their neighbours, which keeps edges sharp."""
    error = output - target
    error = error.abs() + 4 * error * error
    across = ((output[..., 1:] - output[..., :-1]) - (target[..., 1:] - target[..., :-1])).abs()
    down = ((output[..., 1:, :] - output[..., :-1, :]) - (target[..., 1:, :] - target[..., :-1, :])).abs()
    return (error * weight).mean() + across.mean() + down.mean()


class VAEStage(Stateless):
    """The image autoencoder, which limits everything that follows."""

    name, rate = "vae", 1e-3
    trains: tuple[str, ...] = ("vae",)

    def __init__(self, trainee: Trainee, source: Source, batch: Batch) -> None:
        super().__init__(trainee, source, batch)
        self.pool = Pool(source, batch.pool, batch.pictures) if batch.pool else None

    def shots(self, seed: int) -> Shots:
        """The pictures of a step."""
        return self.source.pictures(self.batch.pictures, seed) if self.pool is None else self.pool.take(seed)

    def state_dict(self) -> dict[str, Any]:
        """What the pool holds."""
        return {} if self.pool is None else self.pool.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Fill it again."""
        if self.pool is not None and state.get("seeds"):
            self.pool.load_state_dict(state)

    def prepare(self, step: int, seed: int) -> Tensors:
        shots = self.shots(seed)
        images = shots.images.flatten(0, 1)
        config = self.trainee.config.vae
        latent = (len(images), config.latent_channels, *(side // config.factor for side in images.shape[2:]))
        noise = torch.randn(latent, generator=step_generator(images.device, seed), device=images.device)
        return {"images": images, "noise": noise, "weight": focus_map(shots, images.shape[2:], FOCUS)}

    def compute(self, inputs: Tensors) -> Tensors:
        images = inputs["images"]
        output, mean, log_variance = self.trainee.autoencode(images, inputs["noise"])
        divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean()
        pixels = picture_loss(output, images, inputs["weight"])
        square = F.mse_loss(output.detach().clamp(-1, 1), images)
        return {
            "loss": pixels + 1e-4 * divergence,
            "pixels": pixels,
            "psnr": -10 * (square / 4).log10(),
            "divergence": divergence,
        }

    @torch.no_grad()
    def end(self) -> None:
        """Measure the latents and scale them to unit variance."""
        super().end()
        images = self.source.pictures(64, seed=1_000_003).images.flatten(0, 1)
        vae = self.trainee.average["vae"]
        means = [vae.encode(part)[0] for part in images.split(32)]
        self.trainee.set_latent_scale(1 / float(torch.cat(means).std()))


class DecoderStage(VAEStage):
    """The decoder alone, at the end: latents keep their meaning, so nothing else has to follow."""

    name, trains, rate = "decoder", ("vae.decoder", "vae.post_quant_conv"), 1e-3

    def begin(self) -> None:
        """Nothing in it keeps statistics."""

    def prepare(self, step: int, seed: int) -> Tensors:
        shots = self.shots(seed)
        images = shots.images.flatten(0, 1)
        weight = focus_map(shots, images.shape[2:], FOCUS)
        return {"images": images, "latents": self.trainee.latents(images), "weight": weight}

    def compute(self, inputs: Tensors) -> Tensors:
        images = inputs["images"]
        output = self.trainee.decode(inputs["latents"])
        pixels, square = picture_loss(output, images, inputs["weight"]), F.mse_loss(output, images)
        return {"loss": pixels + 2 * square, "pixels": pixels, "psnr": -10 * (square.detach() / 4).log10()}

    def end(self) -> None:
        """The latents' scale stays."""


class ExtractorStage(Stateless):
    """The motion extractor, by plain regression on exact labels."""

    name, rate = "extractor", 1e-3
    trains: tuple[str, ...] = ("motion_extractor",)

    def prepare(self, step: int, seed: int) -> Tensors:
        shots = self.source.portraits(self.batch.pictures, seed)
        assert shots.pose is not None, "the source has no labels"
        images = shots.images.flatten(0, 1)
        return {"images": roughen(images, step_generator(images.device, seed)), **vars(shots.pose)}

    def compute(self, inputs: Tensors) -> Tensors:
        pose = kp.HeadPose(**{name: inputs[name] for name in ("angles", "translation", "scale", "canonical")})
        heads = self.trainee.heads(inputs["images"])
        found = kp.head_pose(heads)
        angles = F.smooth_l1_loss(found.angles, pose.angles)
        bins = torch.stack(
            [
                _bin_loss(scores.float(), pose.angles[:, i])
                for i, scores in enumerate((heads.pitch, heads.yaw, heads.roll))
            ]
        ).sum()
        place = F.l1_loss(found.translation, pose.translation) + F.l1_loss(found.scale, pose.scale)
        shape = F.l1_loss(found.canonical, pose.canonical)
        points = F.l1_loss(kp.project(found)[..., :2], kp.project(pose)[..., :2])
        loss = 0.3 * angles + 0.1 * bins + 10 * place + 10 * shape + 20 * points
        return {"loss": loss, "degrees": F.l1_loss(found.angles, pose.angles), "place": place, "points": points}


def _bin_loss(scores: Tensor, degrees: Tensor) -> Tensor:
    """Cross-entropy with the two bins around an angle, weighted so that their mean is the angle."""
    place = ((degrees - kp.FIRST_BIN) / kp.DEGREES_PER_BIN).clamp(0, scores.shape[1] - 1.001)
    low = place.floor().long()
    share = place - low
    logs = scores.log_softmax(dim=1)
    picked = logs.gather(1, torch.stack((low, low + 1), dim=1))
    return -(picked * torch.stack((1 - share, share), dim=1)).sum(dim=1).mean()
