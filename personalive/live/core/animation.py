"""The state of one session on the device. Every method is called in the device's thread."""

from typing import Any

from personalive.errors import InputError
from personalive.live.core.engine import Engine, LiveStream


class Animation:
    """A stream that is created when it is first needed, and the portrait that it animates."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._stream: LiveStream | None = None
        self._reference: Any = None

    @property
    def has_portrait(self) -> bool:
        """Whether there is something to animate; any thread."""
        return self._reference is not None

    def stream(self, seed: int) -> LiveStream:
        """The state on the device."""
        if self._stream is None:
            self._stream = self._engine.open(seed)
        return self._stream

    def open(self, seed: int) -> None:
        """Create the state now."""
        self.stream(seed)

    def set_portrait(self, reference: Any, seed: int) -> None:
        """Animate this portrait (what `Engine.reference` made); the motion continues."""
        if self._reference is None:
            self.stream(seed).set_reference(reference)
        else:
            self.stream(seed).swap_reference(reference)
        self._reference = reference

    def reset(self) -> None:
        """Forget the driver, keep the portrait."""
        if self._stream is not None and self.has_portrait:
            self._stream.reset()

    def reanchor(self) -> None:
        """Take the driver's next frame as the neutral one."""
        if self._stream is not None and self.has_portrait:
            self._stream.reanchor()

    def recentre(self) -> None:
        """Take the driver's next pose as the neutral one; the neutral expression stays."""
        if self._stream is not None and self.has_portrait:
            self._stream.recentre()

    def reseed(self, seed: int) -> None:
        """Start again with other noise."""
        stream = self._engine.open(seed)
        if self.has_portrait:
            stream.set_reference(self._reference)
        self._stream = stream

    def snapshot(self) -> dict[str, Any]:
        """Portrait and temporal state.

        Raises:
            InputError: there is no portrait yet.
        """
        if self._stream is None or not self.has_portrait:
            raise InputError("the session has no portrait yet: send one first")
        return {"reference": self._reference, "stream": self._stream.state_dict()}

    def resume(self, state: dict[str, Any], seed: int) -> None:
        """Continue from a snapshot.

        Raises:
            InputError: it was taken at another size.
        """
        self.stream(seed).load_state_dict(state["stream"])
        self._reference = state["reference"]

    def free(self) -> None:
        """Release everything; any thread."""
        self._stream = self._reference = None
