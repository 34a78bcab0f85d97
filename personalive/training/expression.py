"""What the motion encoder is shown, and exact expressions as a target for its motion tokens.

The motion encoder has to find eyelids and lips that take up few pixels, and learns them late from the error of a
picture alone. So some directions of the token space are given a meaning: along each of them, tokens lie where one
signal of the face says. The directions are fixed: the encoder's last layer is linear and can turn its space to them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from personalive import keypoints as kp
from personalive.training.shots import Shots, crop_faces, jitter_boxes, keypoint_boxes, roughen
from personalive.training.sources import Source, step_generator
from personalive.training.stages import Batch, Losses, Stateless
from personalive.training.trainee import Trainee

GAIN = 4.0
"""Length along a direction of a signal of 1: enough that tokens differ visibly between expressions."""
KEYPOINT_BOX_SHARE = 0.25
"""Part of the face crops that are cut by keypoints, as for live frames."""
SEED = 11
"""Of the directions: the same in every stage and run."""


def face_crops(trainee: Trainee, shots: Shots, random: torch.Generator) -> Tensor:
    """Crops for the motion encoder, `[n·f, 3, s, s]`, by jittered boxes of both kinds."""
    images, boxes = shots.images.flatten(0, 1), shots.boxes.flatten(0, 1)
    live = keypoint_boxes(kp.project(trainee.pose(shots)), images.shape[-1])
    chosen = torch.rand((len(boxes), 1), generator=random, device=boxes.device) < KEYPOINT_BOX_SHARE
    boxes = jitter_boxes(torch.where(chosen, live, boxes), random)
    size = trainee.config.motion_encoder.image_size
    return roughen(crop_faces(images, boxes, size), random)


def expression_error(tokens: Tensor, signals: Tensor) -> Tensor:
    """How far tokens are from what they should say.

    Args:
        tokens: motion tokens `[n, tokens, width]`.
        signals: of the same faces, `[n, signals]`, values of about -1 to 1.

    Returns:
        The squared error of the signals that the tokens show, a scalar.
    """
    flat = tokens.float().flatten(1)
    shown = flat @ _directions(flat.shape[1], signals.shape[1]).to(flat) / GAIN
    return F.mse_loss(shown, signals)


def _directions(size: int, count: int) -> Tensor:
    """Orthonormal columns `[size, count]`."""
    generator = torch.Generator().manual_seed(SEED)
    columns: Tensor = torch.linalg.qr(torch.randn(size, count, generator=generator)).Q
    return columns


class ExpressionStage(Stateless):
    """The motion encoder alone: faces by all kinds of boxes, and what their eyes, brows and lips do."""

    name, rate = "expression", 1e-3
    trains: tuple[str, ...] = ("motion_encoder",)

    def __init__(self, trainee: Trainee, source: Source, batch: Batch) -> None:
        self.trainee, self.source, self.batch = trainee, source, batch

    def begin(self) -> None:
        self.trainee.networks["motion_encoder"].train()

    def losses(self, step: int, seed: int) -> Losses:
        shots = self.source.portraits(self.batch.pictures, seed)
        assert shots.expression is not None, "the source has no labels"
        random = step_generator(self.trainee.device, seed)
        tokens = self.trainee.motion_tokens(face_crops(self.trainee, shots, random))
        return {"loss": expression_error(tokens, shots.expression.flatten(0, 1))}
