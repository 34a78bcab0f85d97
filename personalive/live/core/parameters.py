"""What a client may change while its session runs."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from personalive.errors import InputError

MAX_SEED = 2**63 - 1


@dataclass(frozen=True)
class Parameters:
    """The settings of one session; checked when made.

    Raises:
        InputError: a value of the wrong kind or out of bounds.
    """

    paused: bool = False
    mirror: bool = False
    """Flip the driver left to right, as a mirror does."""
    fps: float = 60.0
    """At most so many camera frames a second are looked at, 1–120."""
    motion_strength: float = 1.0
    """How far pose and expression go from the portrait's towards the driver's, 0–2."""
    keyframe_threshold: float = 17.0
    """Distance of motion tokens from which a finished frame is remembered, 0–1000."""
    seed: int = 42
    """Of the noise; a new one begins the animation again."""

    def __post_init__(self) -> None:
        for name in ("paused", "mirror"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{name} must be true or false, not {getattr(self, name)!r}")
        _in_bounds("fps", self.fps, 1.0, 120.0)
        _in_bounds("motion_strength", self.motion_strength, 0.0, 2.0)
        _in_bounds("keyframe_threshold", self.keyframe_threshold, 0.0, 1000.0)
        if not isinstance(self.seed, int) or isinstance(self.seed, bool) or not 0 <= self.seed <= MAX_SEED:
            raise InputError(f"seed must be a whole number from 0 to {MAX_SEED}, not {self.seed!r}")

    def updated(self, values: Mapping[str, Any]) -> "Parameters":
        """These settings with some changed; names that are not known are ignored, so that older clients go on working.

        Raises:
            InputError: a value of the wrong kind or out of bounds.
        """
        known = {field.name for field in dataclasses.fields(self)}
        return dataclasses.replace(self, **{name: value for name, value in values.items() if name in known})


def _in_bounds(name: str, value: Any, low: float, high: float) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not low <= value <= high:
        raise InputError(f"{name} must be a number from {low:g} to {high:g}, not {value!r}")
