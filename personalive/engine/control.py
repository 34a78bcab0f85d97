"""What of the driver's motion a portrait takes. It is chosen for an animation, and may change while that runs."""

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from personalive.config import MAX_MOTION_STRENGTH
from personalive.errors import InputError
from personalive.types import POSE_PARTS, MotionKind, PosePart

if TYPE_CHECKING:
    from personalive.settings import MotionSettings


@dataclass(frozen=True)
class MotionControl:
    """What of the driver's motion a portrait takes; checked when made. The defaults are those of the published model.

    Raises:
        InputError: a value that is not allowed.
    """

    motion_strength: float = 1.0
    """From the reference's motion (0) to the driver's (1), and beyond, to 2."""
    pose_strength: float | None = None
    """The same for the head's pose alone; None: `motion_strength`."""
    expression_strength: float | None = None
    """The same for the expression alone; None: `motion_strength`."""
    keep: tuple[PosePart, ...] = ()
    """Parts of the pose that stay the reference's."""
    motion: MotionKind = "absolute"
    """Whether motion is the driver's own, or the reference's plus what the driver's differs from a neutral frame."""
    smooth: float = 0.0
    """How much the driver's pose is smoothed over time, from 0 (not at all) to 1."""

    def __post_init__(self) -> None:
        for name in ("motion_strength", "pose_strength", "expression_strength"):
            if (value := getattr(self, name)) is not None:
                between(name, value, MAX_MOTION_STRENGTH)
        between("smooth", self.smooth, 1.0)
        if wrong := set(self.keep) - set(POSE_PARTS):
            raise InputError(f"keep has {', '.join(sorted(wrong))}: its parts are {', '.join(POSE_PARTS)}")
        if self.motion not in ("absolute", "relative"):
            raise InputError(f"motion is {self.motion!r}: it must be absolute or relative")

    @classmethod
    def of(cls, settings: "MotionSettings") -> "MotionControl":
        """As these settings say."""
        return cls(**{field.name: getattr(settings, field.name) for field in fields(cls)})

    @property
    def pose(self) -> float:
        """Strength of the pose."""
        return self.motion_strength if self.pose_strength is None else self.pose_strength

    @property
    def expression(self) -> float:
        """Strength of the expression."""
        return self.motion_strength if self.expression_strength is None else self.expression_strength


def between(name: str, value: float, most: float) -> float:
    """A number from 0 to `most`.

    Raises:
        InputError: another value; the message names it.
    """
    number = float(value)
    if not (math.isfinite(number) and 0 <= number <= most):
        raise InputError(f"{name} is {value}: it must be a number from 0 to {most:g}")
    return number
