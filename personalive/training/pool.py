"""Pictures that are drawn ahead, from which the autoencoder takes its batches: heads take longer to draw than to learn.

What is taken is moved, scaled, mirrored and recoloured, so that a picture hardly ever comes twice as it was. Noise is
not added: the camera's is in the pictures, and an autoencoder can only fail to repeat more of it.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from personalive.training.captured import Tensors
from personalive.training.shots import Shots, to_bytes
from personalive.training.sources import Source, step_generator

REUSE = 16
"""Batches that are taken for one that is drawn."""
ZOOM, SHIFT = 0.45, 0.25
"""How far a picture is scaled, in octaves, and moved, relative to half its side."""
CONTRAST, BRIGHTNESS, TINT = 0.3, 0.2, 0.1
"""Most that colours change, and most that one channel differs from the others in that."""
FIRST, SEEDS_PER_STEP = 1 << 31, 64
"""What sets the first pictures' seeds apart from all that steps have; of a CPU's seeds, only 32 bits count."""


class Pool:
    """Batches of a source's pictures, of which the oldest is replaced from time to time.

    What it holds depends on seeds alone. So these are all that a checkpoint keeps, and the pictures are drawn again.
    """

    def __init__(self, source: Source, size: int, batch: int) -> None:
        """Hold `size` pictures, at least one batch and no half ones. They are drawn when the first are taken."""
        self.source, self.batch, self.rows = source, batch, max(1, size // batch)
        self._seeds: list[int] = []
        self._taken = 0
        self._held: Tensors = {}

    def take(self, seed: int) -> Shots:
        """A batch of varied pictures, `[batch, 1]`; `seed` differs between steps and processes."""
        if not self._seeds:
            self._fill([seed + FIRST + SEEDS_PER_STEP * row for row in range(self.rows)])
        elif self._taken % REUSE == 0:
            self._draw(self._taken // REUSE % self.rows, seed)
        self._taken += 1
        held, device = self._held, self._held["images"].device
        generator = step_generator(device, seed)
        chosen = torch.randint(len(held["images"]), (self.batch,), generator=generator, device=device)
        focus = held["focus"][chosen] if "focus" in held else None
        return vary(Shots(held["images"][chosen] / 127.5 - 1, held["boxes"][chosen], None, focus), generator)

    def state_dict(self) -> dict[str, Any]:
        """The seeds of what it holds."""
        return {"seeds": list(self._seeds), "taken": self._taken}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Draw the same pictures again."""
        self._taken, self.rows = state["taken"], len(state["seeds"])
        self._fill(state["seeds"])

    def _fill(self, seeds: list[int]) -> None:
        self._seeds = list(seeds)
        for row, seed in enumerate(seeds):
            self._draw(row, seed)

    def _draw(self, row: int, seed: int) -> None:
        shots = self.source.pictures(self.batch, seed)
        parts = {"images": to_bytes(shots.images), "boxes": shots.boxes}
        if shots.focus is not None:
            parts["focus"] = shots.focus
        for name, part in parts.items():
            if name not in self._held:
                self._held[name] = part.new_empty(self.rows * self.batch, *part.shape[1:])
            self._held[name][row * self.batch : (row + 1) * self.batch] = part
        self._seeds[row] = seed


def vary(shots: Shots, generator: Generator) -> Shots:
    """Single pictures `[n, 1]`, moved, mirrored and recoloured; half of them are scaled as well, which blurs."""
    images = shots.images.flatten(0, 1)
    count, half = len(images), images.shape[-1] / 2

    def spread(*shape: int) -> Tensor:
        return torch.rand((count, *shape), generator=generator, device=images.device) * 2 - 1

    zoom = torch.where(spread(1) > 0, 2 ** (ZOOM * spread(1)), 1.0)
    factor = torch.cat((torch.where(spread(1) > 0, zoom, -zoom), zoom), dim=1)
    shift = (spread(2) * SHIFT * half).round() / half  # by whole pixels, which does not blur
    # A place p of the result shows the place factor * p + shift; beyond its edges a picture is mirrored.
    grid = F.affine_grid(torch.cat((torch.diag_embed(factor), shift[..., None]), dim=2), list(images.shape), False)
    moved = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    contrast = 1 + CONTRAST * spread(1, 1, 1) + TINT * spread(3, 1, 1)
    brightness = BRIGHTNESS * spread(1, 1, 1) + TINT * spread(3, 1, 1)

    def follow(places: Tensor) -> Tensor:
        """Places `[n, 1, p, 2]` of the pictures, in the result."""
        return (places - shift[:, None, None]) / factor[:, None, None]

    corners = follow(shots.boxes.unflatten(-1, (2, 2)) / half - 1)
    boxes = (torch.cat((corners.amin(dim=-2), corners.amax(dim=-2)), dim=-1) + 1) * half
    coloured = (moved * contrast + brightness).clamp(-1, 1)
    return Shots(coloured[:, None], boxes, None, None if shots.focus is None else follow(shots.focus))
