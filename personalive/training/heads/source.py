"""Heads in space as training examples."""

import torch
from torch import Generator, Tensor

from personalive.engine.motion import HeadPose
from personalive.training.avatars.motion import Motion
from personalive.training.heads.identity import HeadIdentity, sample_heads
from personalive.training.heads.model import HeadModel
from personalive.training.heads.pose import canonical_points, landmarks, pose_heads
from personalive.training.heads.render import HeadRenderer
from personalive.training.shots import Shots
from personalive.training.sources import People

CHUNK = 16
"""Heads that are drawn at once, which bounds memory."""


class Heads(People[HeadIdentity]):
    """People out of a baked file, nearly all of them plausible."""

    def __init__(self, model: HeadModel, size: int) -> None:
        """Draw `size` x `size` pictures where the model is."""
        super().__init__(size, model.device)
        self.model, self.renderer = model, HeadRenderer(model, size)

    def sample(self, count: int, generator: Generator) -> HeadIdentity:
        """Random people."""
        model = self.model
        return sample_heads(count, generator, len(model.shapes), len(model.unit_names), len(model.textures))

    def draw(self, identity: HeadIdentity, motion: Motion) -> Tensor:
        """`[B, 3, S, S]` in [-1, 1], drawn in chunks."""
        rows = torch.arange(len(identity), device=self.device)
        return torch.cat([self.renderer.render(identity[part], motion[part]) for part in rows.split(CHUNK)])

    def landmarks(self, identity: HeadIdentity, motion: Motion) -> Tensor:
        """Places of the features."""
        rows = torch.arange(len(identity), device=self.device)
        found = []
        for part in rows.split(CHUNK):
            who, how = identity[part], motion[part]
            found.append(landmarks(self.model, pose_heads(self.model, who, how), who, how))
        return torch.cat(found)

    def poses(self, identity: HeadIdentity, motion: Motion) -> HeadPose:
        """Exact poses; the camera's perspective is not in them, as the motion extractor's heads have none."""
        return HeadPose(
            torch.stack((motion.pitch, motion.yaw, motion.roll), dim=-1),
            torch.stack((motion.translate_x, motion.translate_y, torch.zeros_like(motion.scale)), dim=-1),
            motion.scale[:, None],
            canonical_points(self.model, identity),
        )

    def scenery(self, count: int, generator: Generator) -> Shots:
        """Pictures without people: backgrounds and textures of all kinds, `[count, 1]`; nothing in them is labelled."""
        images = self.renderer.scenery(self.sample(count, generator).to(self.device))[:, None]
        nowhere = images.new_full((count, 1, 1, 2), 9.0)
        return Shots(images, images.new_tensor((0, 0, self.size, self.size)).expand(count, 1, 4), None, nowhere)
