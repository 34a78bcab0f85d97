"""The image stage: single frames at one of the noise levels of streaming."""

import torch

from personalive import keypoints as kp
from personalive import sampler
from personalive.config import SLOTS
from personalive.training.expression import expression_error, face_crops
from personalive.training.shots import focus_map, jitter_pose
from personalive.training.sources import Source, step_generator
from personalive.training.stages import Batch, Losses, Stateless
from personalive.training.trainee import Trainee

TIMESTEPS = tuple(sampler.inner_steps(SLOTS)[0].timesteps[4 * slot] for slot in range(SLOTS))
"""0, 333, 666, 999: the noise levels at which the streaming model works."""
TURNS = (3, 2, 3, 1)
"""Slots that steps take turns with: the noisiest has most to learn, and the least noisy one would show the truth."""
FOCUS = 6.0
"""Further weight of eyes and mouth."""
EXPRESSION = 0.2
"""Weight of the expression that tokens show."""


class ImageStage(Stateless):
    """Single frames: a reference takes over the pose and the expression of another person."""

    name, rate = "image", 1e-3
    trains: tuple[str, ...] = ("reference_unet", "denoising_unet", "motion_encoder", "pose_guider", "image_encoder")

    def __init__(self, trainee: Trainee, source: Source, batch: Batch, rank: int = 0) -> None:
        self.trainee, self.source, self.batch, self.rank = trainee, source, batch, rank

    def begin(self) -> None:
        for name in self.trains:
            self.trainee.networks[name].train()

    def losses(self, step: int, seed: int) -> Losses:
        reference, driving, target = self.source.stills(self.batch.people, self.batch.frames, seed)
        trainee, frames = self.trainee, self.batch.frames
        random = step_generator(trainee.device, seed)
        # All windows of a call share their timesteps, so a step has one of them and processes take turns.
        slot = TURNS[(step + self.rank) % len(TURNS)]
        timestep, following = TIMESTEPS[slot], TIMESTEPS[slot - 1]
        clean = trainee.latents(target.images.flatten(0, 1))
        portrait = trainee.latents(reference.images.flatten(0, 1))
        noise = torch.randn(clean.shape, generator=random, device=clean.device)
        base = portrait.repeat_interleave(frames, 0) if timestep == TIMESTEPS[-1] else clean
        noisy = sampler.add_noise(base, noise, (timestep,) * len(base))
        tokens = trainee.motion_tokens(face_crops(trainee, driving, random))
        pose = jitter_pose(trainee.pose(target), random)
        rasters = kp.draw(kp.project(pose), *reversed(target.images.shape[-2:]))
        guided = trainee.guide(rasters)
        embedding = trainee.embed_image(reference.images.flatten(0, 1))
        features = trainee.reference(portrait, embedding).repeat(frames)
        step_of = sampler.InnerStep((timestep,), (following,))
        _, output = trainee.predict(noisy, step_of, tokens, guided, features)
        weight = focus_map(None if target.focus is None else target.focus.flatten(0, 1), tuple(clean.shape[2:]), FOCUS)  # type: ignore[arg-type]
        error = ((output - clean).abs() * weight).mean()
        if driving.expression is None:
            return {"loss": error, "latents": error}
        shown = expression_error(tokens, driving.expression.flatten(0, 1))
        return {"loss": error + EXPRESSION * shown, "latents": error, "expression": shown}
