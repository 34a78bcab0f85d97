"""What a client may ask for when it loads the model, and change while its session runs."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from personalive.settings import MotionSettings, SizeSettings, Surface, same, setting
from personalive.settings.animation import MAX_FPS, MIN_FPS
from personalive.types import Background, Latency

_live = partial(setting, on=Surface.LIVE)


class LoadParameters(SizeSettings):
    """What a client asks for when it loads the pipeline.

    Raises:
        InputError: a size or seed that is not allowed.
    """

    seed: int = same(MotionSettings, "seed")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, without those that were left to the model."""
        return self.model_dump(exclude_none=True)


class Parameters(MotionSettings):
    """The settings of one session; checked when made.

    Raises:
        InputError: a value of the wrong kind or out of bounds.
    """

    paused: bool = _live(False, "Pause the animation")
    mirror: bool = _live(False, "Flip the driver left to right, as a mirror does")
    latency: Latency = _live("balanced", "low: less delay for twice the computing", label="Delay")
    recentre: bool = _live(
        False,
        "Measure movement from the driver's new place when the face has moved and stays there",
        label="Re-centre automatically",
    )
    background: Background = _live("as_is", "What is seen behind the portrait", label="Background")
    background_colour: str = _live(
        "#00b140",
        "The background's colour, if it is one colour, or a picture that is not there yet",
        label="Colour of the background",
        pattern="#[0-9a-fA-F]{6}",
        pattern_text="a colour such as #00b140",
    )
    hidden: bool = _live(False, "Show viewers what they see between streams instead of the animation")
    muted: bool = _live(True, "Pass no sound on")
    fps: float = _live(
        60.0,
        "The most camera frames a second that are used",
        low=MIN_FPS,
        high=MAX_FPS,
        step=1,
        label="Driving frames/s",
    )

    def updated(self, values: Mapping[str, Any]) -> "Parameters":
        """These settings with some changed; None leaves one as it is, and the actions in `Changes` are no settings.

        A `motion_strength` alone is that of the pose and of the expression, whatever these were before.

        Raises:
            InputError: a name that does not exist, or a value of the wrong kind or out of bounds.
        """
        actions = Changes.model_fields.keys() - type(self).model_fields.keys()
        changes = {name: value for name, value in values.items() if value is not None and name not in actions}
        if "motion_strength" in changes:
            changes = {"pose_strength": None, "expression_strength": None} | changes
        return self.replace(**changes)


class Changes(Parameters):
    """What a client may send: parameters to change, and actions. What it leaves out stays as it is."""

    reset_cache: bool = _live(False, "Forget the driver, keep the portrait")
    set_neutral: bool = _live(False, "Measure motion from the driver's next frame on, as from a face at rest")
