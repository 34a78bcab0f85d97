"""What matters most to a person, as settings: the page offers these in place of numbers."""

from dataclasses import dataclass

from personalive.types import Latency

STEP, SMALLEST, LARGEST = 64, 256, 1024
"""Sizes are multiples of the first, from the second to the third, in pixels."""


@dataclass(frozen=True)
class Mode:
    """A choice of delay and size."""

    name: str
    label: str
    description: str
    latency: Latency
    size: float
    """Of the picture's sides, in units of what the model was made for."""

    def side(self, native: int) -> int:
        """Pixels of the picture's sides, for a model that was made for `native`."""
        return min(max(round(self.size * native / STEP) * STEP, SMALLEST), LARGEST)


MODES = (
    Mode("fast", "Lowest delay", "Nearly half the delay for twice the computing, and a smaller picture", "low", 0.75),
    Mode("balanced", "Balanced", "The size that the model was made for", "balanced", 1.0),
    Mode("best", "Best picture", "A larger picture, which takes half as long again", "balanced", 1.25),
)
