"""What the motion encoder is shown, and exact expressions as a target for its motion tokens.

The motion encoder has to find eyelids and lips that take up few pixels, and from the error of a picture alone it learns
them late. So some directions of the token space are given a meaning: the position along each is one signal of the face.
The directions are fixed, as the encoder's last layer is linear and can rotate its space to them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from personalive.engine import motion as kp
from personalive.engine.raster import unbounded_boxes
from personalive.training.captured import Tensors
from personalive.training.shots import Shots, crop_faces, jitter_boxes, roughen
from personalive.training.sources import SIGNALS, Source, step_generator
from personalive.training.stages import Batch, Stateless
from personalive.training.trainee import Trainee

GAIN = 4.0
"""Length along a direction for a signal of 1: enough for tokens to differ clearly between expressions."""
KEYPOINT_BOX_SHARE = 0.25
"""Fraction of the face crops that are cut by keypoints, as for live frames."""
SEED = 11
"""Of the directions."""


def face_crops(trainee: Trainee, shots: Shots, random: torch.Generator) -> Tensor:
    """Crops for the motion encoder, `[n·f, 3, s, s]`, by jittered boxes of both kinds."""
    images, boxes = shots.images.flatten(0, 1), shots.boxes.flatten(0, 1)
    live = unbounded_boxes(kp.project(trainee.pose(shots)), images.shape[-1], images.shape[-1])
    chosen = torch.rand((len(boxes), 1), generator=random, device=boxes.device) < KEYPOINT_BOX_SHARE
    boxes = jitter_boxes(torch.where(chosen, live, boxes), random)
    size = trainee.config.motion_encoder.image_size
    return roughen(crop_faces(images, boxes, size), random)


def directions(trainee: Trainee) -> Tensor:
    """Orthonormal columns `[tokens·width, signals]` of the token space, the same in every stage and run."""
    config = trainee.config.motion_encoder
    generator = torch.Generator().manual_seed(SEED)
    random = torch.randn(config.tokens * config.token_width, len(SIGNALS), generator=generator)
    columns: Tensor = torch.linalg.qr(random).Q
    return columns.to(trainee.device)


def expression_error(tokens: Tensor, signals: Tensor, columns: Tensor) -> Tensor:
    """How far tokens are from the signals that they should encode.

    Args:
        tokens: motion tokens `[n, tokens, width]`.
        signals: of the same faces, `[n, signals]`, values of about -1 to 1.
        columns: `directions`.

    Returns:
        The squared error of the signals that the tokens encode, a scalar.
    """
    return F.mse_loss(tokens.float().flatten(1) @ columns / GAIN, signals)


class ExpressionStage(Stateless):
    """The motion encoder alone: faces by all kinds of boxes, and what their eyes, brows and lips do."""

    name, rate = "expression", 1e-3
    trains: tuple[str, ...] = ("motion_encoder",)

    def __init__(self, trainee: Trainee, source: Source, batch: Batch) -> None:
        super().__init__(trainee, source, batch)
        self.directions = directions(trainee)

    def prepare(self, step: int, seed: int) -> Tensors:
        shots = self.source.portraits(self.batch.pictures, seed)
        assert shots.expression is not None, "the source has no labels"
        faces = face_crops(self.trainee, shots, step_generator(shots.images.device, seed))
        return {"faces": faces, "signals": shots.expression.flatten(0, 1), "directions": self.directions}

    def compute(self, inputs: Tensors) -> Tensors:
        tokens = self.trainee.motion_tokens(inputs["faces"])
        return {"loss": expression_error(tokens, inputs["signals"], inputs["directions"])}
