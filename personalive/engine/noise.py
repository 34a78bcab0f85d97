"""Where a stream's random numbers come from."""

from typing import Any, Protocol

import torch
from torch import Tensor


class NoiseSource(Protocol):
    """Produces Gaussian noise, draw by draw.

    A stream draws [12, c, h, w] when it starts and [4, c, h, w] in every step (docs/reference/streaming.md section 11).
    After a failed step, it returns to the `state_dict` from before.
    """

    def restart(self) -> None:
        """Start again, so that the same draws follow."""

    def draw(self, frames: int, channels: int, height: int, width: int) -> Tensor:
        """The next draw, [frames, channels, height, width]."""

    def state_dict(self) -> dict[str, Any]:
        """What is needed to continue later."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state."""


class GaussianNoise:
    """Seeded noise, drawn on the CPU so that a seed means the same on every device."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._generator = torch.Generator("cpu").manual_seed(seed)

    def restart(self) -> None:
        self._generator.manual_seed(self.seed)

    def draw(self, frames: int, channels: int, height: int, width: int) -> Tensor:
        return torch.randn(frames, channels, height, width, generator=self._generator)

    def state_dict(self) -> dict[str, Any]:
        return {"seed": self.seed, "generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seed = state["seed"]
        self._generator.set_state(state["generator"])
