"""The interface that the live server needs from a model.

The server knows a model only by these two protocols, so its own delay can be measured with a model that passes
frames through.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from personalive.engine.control import MotionControl
from personalive.engine.cues import Cue
from personalive.types import Box, RGBArray

__all__ = ["Box", "Engine", "LiveStream"]


class LiveStream(Protocol):
    """The state of one animation. Every method is called from the device's thread."""

    control: MotionControl
    keyframe_threshold: float

    @property
    def frames_in(self) -> int:
        """Driving frames that it has taken. A call that fails leaves this, and everything else, as it was."""

    def set_reference(self, reference: Any) -> None:
        """Start again with this portrait."""

    def swap_reference(self, reference: Any) -> None:
        """Continue with another portrait."""

    def reset(self) -> None:
        """Forget the driver, keep the portrait."""

    def reanchor(self) -> None:
        """Measure the driver's motion from the next frame on."""

    def recentre(self) -> None:
        """Measure the head's pose from the next frame on, and the expression as before."""

    def state_dict(self) -> dict[str, Any]:
        """The temporal state."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a temporal state."""


class Engine(Protocol):
    """A loaded model. `reference` and `driving` may be called from any thread, the rest from the device's."""

    width: int
    height: int

    @property
    def chunk_frames(self) -> int:
        """Frames that a call returns."""

    @property
    def delay_frames(self) -> int:
        """Frames by which the output trails the driver."""

    @property
    def native_side(self) -> int:
        """Pixels of the side of the square that the model was made for."""

    @property
    def call_seconds(self) -> float:
        """Seconds that a call for one session took when the model was warmed up; 0: not known."""

    @property
    def on_gpu(self) -> bool:
        """Whether a graphics card does the work."""

    @property
    def keyframe_threshold(self) -> float:
        """The model's default."""

    def guard(self) -> AbstractContextManager[None]:
        """A context for work on a stream, in which a lack of memory becomes a `DeviceMemoryError`."""

    def open(self, seed: int) -> LiveStream:
        """The state for a new session."""

    def reference(self, image: RGBArray, face_box: Box | None) -> Any:
        """Prepare a portrait, uint8 [h,w,3] of any size."""

    def unsuited(self, image: RGBArray, face_box: Box | None) -> str:
        """Why the model will not do well with a portrait; empty if nothing is known against it."""

    def driving(
        self, images: Sequence[RGBArray], face_boxes: Sequence[Box] | None, cues: Sequence[Cue] | None = None
    ) -> Any:
        """Prepare driving frames: `chunk_frames` of them, or fewer, between which motion is interpolated.

        `cues` say how the motion of each is used; None: as it is.
        """

    def advance(self, streams: Sequence[Any], driving: Sequence[Any]) -> list[RGBArray]:
        """One call for several sessions: uint8 [chunk_frames,H,W,3] for each.

        All or nothing: if it raises an error, none of the streams has moved, and it may be called again.
        """
