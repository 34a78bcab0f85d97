"""Keypoints in pixels: the rasters that the pose guider sees, and boxes around faces, as pure functions.

Sources: docs/reference/streaming.md sections 4 and 5.
"""

from functools import lru_cache

import torch
from torch import Tensor

from personalive.types import Box

DRAWN = (1, 2, 3, 4, 12, 15, 20)
"""Keypoints that are drawn, and that face boxes are made of."""
COLOURS = ((255, 0, 0), (255, 255, 0), (0, 255, 0), (0, 255, 255), (0, 0, 255), (255, 0, 255), (255, 0, 85))
DISC_RADIUS = 4
"""In pixels, at every image size."""
BOX_SCALE, BOX_BEFORE, BOX_AFTER = 1.7, 0.95, 1.05
MIN_BOX = 8
"""Shortest side, in pixels, of a box that can show a face."""


def pixels(keypoints: Tensor, width: int, height: int) -> Tensor:
    """Drawn keypoints as whole pixels, int64 [n, 7, 2]: truncated toward zero, also where they are off the canvas."""
    # Neither an index nor a size is copied to the device: a GPU would have to finish everything else first.
    drawn = torch.stack([keypoints[:, index, :2] for index in DRAWN], dim=1).float() * 0.5 + 0.5
    return torch.stack((drawn[..., 0] * width, drawn[..., 1] * height), dim=-1).trunc().long()


def draw(keypoints: Tensor, width: int, height: int) -> Tensor:
    """Raster [n, 3, height, width] in [0, 1], fp32: a coloured disc for each drawn keypoint.

    Discs that overlap add up, and the sum is clamped to 1.
    """
    device = keypoints.device
    x, y = pixels(keypoints, width, height).unbind(-1)
    dx = torch.arange(width, device=device) - x[..., None]
    dy = torch.arange(height, device=device) - y[..., None]
    inside = dx[:, :, None, :] ** 2 + dy[:, :, :, None] ** 2 <= DISC_RADIUS**2  # [n, 7, height, width]
    return torch.einsum("nkhw,kc->nchw", inside.float(), _colours(device)).clamp(max=1)


@lru_cache(maxsize=8)
def _colours(device: torch.device) -> Tensor:
    """[7, 3] in [0, 1]. Do not write to it."""
    with torch.inference_mode(False):
        return torch.tensor(COLOURS, dtype=torch.float32, device=device) / 255


def face_boxes(keypoints: Tensor, width: int, height: int) -> list[Box]:
    """A box around the face of each keypoint set, clamped to the picture (docs/reference/streaming.md section 5).

    A box may be empty where the keypoints are off the picture: see `usable`.
    """
    return bounded(unbounded_boxes(keypoints, width, height).cpu(), width, height)


def bounded(boxes: Tensor, width: int, height: int) -> list[Box]:
    """`unbounded_boxes` [n, 4], on the host, clamped to the picture."""
    limit = torch.tensor((width - 1, height - 1) * 2, dtype=torch.float32)
    inside = torch.minimum(boxes.clamp(min=0), limit)
    return [(left, upper, right, lower) for left, upper, right, lower in inside.trunc().long().tolist()]


def unbounded_boxes(keypoints: Tensor, width: int, height: int) -> Tensor:
    """Boxes [n, 4] in pixels around keypoints [n, 21, 3], fp32; they may reach beyond the picture."""
    points = pixels(keypoints, width, height).float()
    centre, top = points.mean(dim=1), points[:, :, 1].amin(dim=1)
    half = (centre[:, 1] - top)[:, None] * BOX_SCALE  # half of the side
    return torch.cat((centre - BOX_BEFORE * half, centre + BOX_AFTER * half), dim=-1)


def usable(box: Box) -> bool:
    """Whether a box is wide and high enough to show a face."""
    return box[2] - box[0] >= MIN_BOX and box[3] - box[1] >= MIN_BOX
