"""The image stage: single frames at one of the noise levels of streaming."""

from typing import Any

import torch
from torch import Tensor

from personalive.config import SLOTS
from personalive.engine import motion as kp
from personalive.engine import raster
from personalive.engine import schedule as sampler
from personalive.training.captured import Tensors
from personalive.training.expression import directions, expression_error, face_crops
from personalive.training.shots import Shots, focus_map, jitter_pose
from personalive.training.sources import Source, step_generator
from personalive.training.stages import Batch, Stateless
from personalive.training.trainee import Level, Trainee

TIMESTEPS = tuple(sampler.inner_steps(SLOTS)[0].timesteps[4 * slot] for slot in range(SLOTS))
"""0, 333, 666, 999: the noise levels at which the streaming model works."""
TURNS = (3, 2, 3, 1)
"""The slots that steps alternate between: the noisiest has most to learn, and the cleanest would show the truth."""
USES = 2
"""Steps with the same pictures at different noise levels, as drawing takes as long as the networks do."""
FOCUS = 6.0
"""Additional weight of eyes and mouth."""
EXPRESSION = 0.2
"""Weight of the expression that tokens encode."""


class ImageStage(Stateless):
    """Single frames: a reference gets the pose and the expression of another person."""

    name, rate = "image", 1e-3
    trains: tuple[str, ...] = ("reference_unet", "denoising_unet", "motion_encoder", "pose_guider", "image_encoder")

    def __init__(self, trainee: Trainee, source: Source, batch: Batch, rank: int = 0) -> None:
        super().__init__(trainee, source, batch)
        self.rank = rank
        self.levels = {
            slot: Level.of(sampler.InnerStep((TIMESTEPS[slot],), (TIMESTEPS[slot - 1],)), trainee.device)
            for slot in sorted(set(TURNS))
        }
        self.directions = directions(trainee)
        self._drawn: tuple[Shots, Shots, Shots, Tensor, Tensor] | None = None
        self._seed: int | None = None

    def _draw(self, seed: int) -> tuple[Shots, Shots, Shots, Tensor, Tensor]:
        """Reference, driving and target pictures, and the latents of the first and the last."""
        reference, driving, target = self.source.stills(self.batch.people, self.batch.frames, seed)
        portrait, clean = (self.trainee.latents(shots.images.flatten(0, 1)) for shots in (reference, target))
        return reference, driving, target, portrait, clean

    def prepare(self, step: int, seed: int) -> Tensors:
        if self._drawn is None or step % USES == 0:
            self._drawn, self._seed = self._draw(seed), seed
        reference, driving, target, portrait, clean = self._drawn
        trainee, random = self.trainee, step_generator(self.trainee.device, seed)
        # All windows of a call share their timesteps, so a step has one of them and processes take turns.
        slot = TURNS[(step + self.rank) % len(TURNS)]
        noise = torch.randn(clean.shape, generator=random, device=clean.device)
        base = portrait.repeat_interleave(self.batch.frames, 0) if slot == SLOTS - 1 else clean
        pose = jitter_pose(trainee.pose(target), random)
        inputs = {
            "clean": clean,
            "portrait": portrait,
            "clip_images": trainee.clip_images(reference.images.flatten(0, 1)),
            "noisy": sampler.add_noise(base, noise, (TIMESTEPS[slot],) * len(base)),
            "timesteps": self.levels[slot].timesteps,
            "coefficients": self.levels[slot].coefficients,
            "faces": face_crops(trainee, driving, random),
            "rasters": raster.draw(kp.project(pose), *reversed(target.images.shape[-2:])),
            "weight": focus_map(target, clean.shape[2:], FOCUS),
        }
        if driving.expression is not None:
            inputs |= {"signals": driving.expression.flatten(0, 1), "directions": self.directions}
        return inputs

    def compute(self, inputs: Tensors) -> Tensors:
        trainee, portrait = self.trainee, inputs["portrait"]
        tokens = trainee.motion_tokens(inputs["faces"])
        embedding = trainee.embed_image(inputs["clip_images"])
        features = trainee.reference(portrait, embedding)
        level = Level(inputs["timesteps"], inputs["coefficients"])
        _, output = trainee.predict(inputs["noisy"], level, tokens, trainee.guide(inputs["rasters"]), features)
        error = ((output - inputs["clean"]).abs() * inputs["weight"]).mean()
        if "signals" not in inputs:
            return {"loss": error}
        shown = expression_error(tokens, inputs["signals"], inputs["directions"])
        return {"loss": error + EXPRESSION * shown, "latents": error, "expression": shown}

    def state_dict(self) -> dict[str, Any]:
        """The seed of the pictures in use."""
        return {"seed": self._seed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Draw the same pictures again."""
        self._seed = state["seed"]
        self._drawn = None if self._seed is None else self._draw(self._seed)
