"""One animation. An animation from files is a live stream that is fed from a file: there is no other engine.

A driving frame takes part in four calls and leaves the sampler in the last (docs/reference/streaming.md sections 7 to
11). The first three calls finish a ramp that leads from the reference to the first driving frame; `flush` brings out
what is under way.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from personalive.accel.transfer import upload
from personalive.config import MAX_KEYFRAME_THRESHOLD, MAX_MOTION_STRENGTH, MAX_SEED, RAMP, SLOTS, WINDOW
from personalive.engine import schedule as sampler
from personalive.engine import state as animation
from personalive.engine import step as call
from personalive.engine.batch import advance
from personalive.engine.keyframes import KeyframePolicy, keyframe_policy
from personalive.engine.noise import GaussianNoise, NoiseSource
from personalive.engine.preprocess import DrivingFrames, Preprocessor, Reference
from personalive.engine.state import AnimationState, ReferenceState
from personalive.errors import InputError

if TYPE_CHECKING:
    from personalive.pipeline import PersonaLive


class Stream:
    """All state of one animation, and no weights."""

    def __init__(
        self,
        model: "PersonaLive",
        *,
        width: int | None = None,
        height: int | None = None,
        steps: int = 4,
        seed: int = 42,
        keyframe_threshold: float | None = None,
        motion_strength: float = 1.0,
        emit_ramp: bool = False,
        noise: NoiseSource | None = None,
        keyframes: KeyframePolicy = keyframe_policy,
        observer: Callable[[call.CallRecord], None] | None = None,
    ) -> None:
        """Prepare an animation; `set_reference` begins it.

        Args:
            model: the networks, which may be shared with other streams.
            width, height: of the output in pixels, multiples of the VAE's factor; default: the model's size.
            steps: denoising steps of a frame: 4, 8, 12 or 16.
            seed: of the default noise, from 0 to 2³² − 1.
            keyframe_threshold: from 0 to 1000; default: the model's.
            motion_strength: how far pose and expression go from the reference's (0) to the driver's (1); at most 2.
            emit_ramp: give out the 12 frames that lead from the reference to the first driving frame, too.
            noise: default: Gaussian noise by `seed`.
            keyframes: when a finished frame becomes a keyframe; default: the specified behaviour.
            observer: is given what each call computed.

        Raises:
            InputError: a value that is not allowed.
        """
        if type(seed) is not int or not 0 <= seed <= MAX_SEED:
            raise InputError(f"seed is {seed!r}: it must be a whole number from 0 to {MAX_SEED}")
        config = model.config
        self.model, self.keyframes, self.observer, self.emit_ramp = model, keyframes, observer, emit_ramp
        self.preprocessor = Preprocessor(config, width or config.size, height or config.size, model.device)
        self.keyframe_threshold = config.keyframe_threshold if keyframe_threshold is None else keyframe_threshold
        self.motion_strength = motion_strength
        self.schedule = call.Schedule.of(model, steps)
        self._noise: NoiseSource = noise or GaussianNoise(seed)
        self._reference: ReferenceState | None = None
        self._state: AnimationState | None = None

    @property
    def keyframe_threshold(self) -> float:
        """Distance of motion from which a finished frame becomes a keyframe. May be changed between calls."""
        return self._keyframe_threshold

    @keyframe_threshold.setter
    def keyframe_threshold(self, value: float) -> None:
        self._keyframe_threshold = _between("keyframe_threshold", value, MAX_KEYFRAME_THRESHOLD)

    @property
    def motion_strength(self) -> float:
        """How far pose and expression go from the reference's to the driver's. May be changed between calls."""
        return self._motion_strength

    @motion_strength.setter
    def motion_strength(self, value: float) -> None:
        self._motion_strength = _between("motion_strength", value, MAX_MOTION_STRENGTH)
        self.strength = torch.full((1,), self._motion_strength, device=self.model.device)

    @property
    def steps(self) -> int:
        """Denoising steps of a frame."""
        return len(self.schedule.steps) * SLOTS

    @property
    def frames_in(self) -> int:
        """Driving frames pushed since the animation began."""
        return 0 if self._state is None else self._state.frames_in

    @property
    def keyframe_count(self) -> int:
        """Keyframes made since the animation began."""
        return 0 if self._state is None else self._state.keyframes

    @torch.inference_mode()
    def set_reference(self, reference: Reference) -> None:
        """Take a portrait and begin a new animation with it.

        Raises:
            InputError: it was prepared for another size.
        """
        self._reference = self._encode(reference)
        self.reset()

    @torch.inference_mode()
    def swap_reference(self, reference: Reference) -> None:
        """Take another portrait while the animation goes on.

        Frames that are under way turn into the new identity within the next calls; keyframes of the old one go.

        Raises:
            InputError: it was prepared for another size, or there was no portrait before.
        """
        _, state = self.begun()
        self._reference = self._encode(reference)
        state.forget_keyframes(self._reference)

    @torch.inference_mode()
    def reset(self) -> None:
        """Forget the driver and everything under way: begin again with the same reference and the same noise.

        Raises:
            InputError: there is no reference.
        """
        if self._reference is None:
            raise InputError("the stream has no portrait yet: call set_reference first")
        self._noise.restart()
        levels = sampler.ramp_timesteps(self.steps)
        latents = sampler.add_noise(self._reference.latents, self.draw(RAMP), levels)
        self._state = AnimationState.begin(latents, self._reference)

    def reanchor(self) -> None:
        """Measure the driver's movement across the picture anew, from its next frame on."""
        self.begun()[1].first = None

    def push(self, driving: DrivingFrames) -> npt.NDArray[np.uint8]:
        """Take any number of driving frames and give the frames that they finish.

        Returns:
            uint8 [m, height, width, 3], m a multiple of 4. The first 12 driving frames finish none (with `emit_ramp`,
            they finish the ramp).

        Raises:
            InputError: there is no reference, or the frames were prepared otherwise than those before.
        """
        return advance([self], [driving])[0]

    def flush(self) -> npt.NDArray[np.uint8]:
        """End the animation: give the frames under way, so that as many have come out as went in, and reset.

        The driver is continued by its last frames in reverse.

        Returns:
            uint8 [m, height, width, 3].

        Raises:
            InputError: there is no reference.
        """
        return self.joined([*self.drain()])

    @torch.inference_mode()
    def drain(self) -> Iterator[npt.NDArray[np.uint8]]:
        """What `flush` does, call by call: the frames of each. Whoever stops in between resets the stream to go on."""
        _, state = self.begun()
        if state.frames_in:
            queued = 0 if state.pending is None else len(state.pending)
            if queued:
                call.observe([self], [state.take_pending(queued)])
            surplus, tail = state.ending(queued)
            for start in range(0, len(tail), WINDOW):
                frames = call.denoise([self], [tail[start : start + WINDOW]])[0]
                kept = WINDOW if start + WINDOW < len(tail) else WINDOW - surplus
                yield from self.outgoing(frames[:kept])
        self.reset()

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue in another process with the same model: plain values and CPU tensors."""
        return {
            "size": [self.preprocessor.width, self.preprocessor.height],
            "steps": self.steps,
            "emit_ramp": self.emit_ramp,
            "keyframe_threshold": self.keyframe_threshold,
            "motion_strength": self.motion_strength,
            "noise": self._noise.state_dict(),
            "reference": animation.to_plain(self._reference),
            "animation": animation.to_plain(self._state),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken.

        Raises:
            InputError: the state belongs to another size, another number of steps, or another model.
        """
        size, device = [self.preprocessor.width, self.preprocessor.height], self.model.device
        if state["size"] != size or state["steps"] != self.steps:
            raise InputError(
                f"the saved state has size {state['size']} and {state['steps']} steps, "
                f"this stream {size} and {self.steps}: make the stream with the same values"
            )
        reference, begun = state["reference"], state["animation"]
        if reference is not None and tuple(reference["latents"].shape) != self._latent_shape(1):
            raise InputError(
                f"the saved state has latents {list(reference['latents'].shape)}, this model makes "
                f"{list(self._latent_shape(1))}: load it with the model it was saved with"
            )
        self.emit_ramp = state["emit_ramp"]
        self.keyframe_threshold, self.motion_strength = state["keyframe_threshold"], state["motion_strength"]
        self._noise.load_state_dict(state["noise"])
        self._reference = None if reference is None else animation.reference_from_plain(reference, device)
        if self._reference is not None:
            self.model.prepare_decoder(self._reference.latents)
        self._state = None if begun is None else animation.animation_from_plain(begun, device)

    def begun(self) -> tuple[ReferenceState, AnimationState]:
        """The reference and the state of the animation.

        Raises:
            InputError: there is no reference.
        """
        if self._reference is None or self._state is None:
            raise InputError("the stream has no portrait yet: call set_reference first")
        return self._reference, self._state

    def draw(self, frames: int) -> Tensor:
        """The next noise of the stream, [frames, c, h, w]."""
        return upload(self._noise.draw(*self._latent_shape(frames)), self.model.device).to(self.model.dtype)

    def _latent_shape(self, frames: int) -> tuple[int, int, int, int]:
        vae, size = self.model.config.vae, self.preprocessor
        return frames, vae.latent_channels, size.height // vae.factor, size.width // vae.factor

    def _encode(self, reference: Reference) -> ReferenceState:
        size = [self.preprocessor.height, self.preprocessor.width]
        given = list(reference.vae_image.shape[2:])
        if given != size:
            raise InputError(f"the portrait was prepared for {given} (height, width), this stream has {size}")
        return call.encode_reference(self.model, reference)

    def joined(self, parts: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.uint8]:
        """The frames of any number of calls, uint8 [m, height, width, 3]; those of one are not copied."""
        none = np.empty((0, self.preprocessor.height, self.preprocessor.width, 3), dtype=np.uint8)
        return parts[0] if len(parts) == 1 else np.concatenate([none, *parts])

    def outgoing(self, frames: npt.NDArray[np.uint8]) -> list[npt.NDArray[np.uint8]]:
        """The frames of a call that go out: none of the ramp, unless it is wanted."""
        return [frames] if self.emit_ramp or self.begun()[1].calls > call.CALLS_OF_RAMP else []


def _between(name: str, value: float, most: float) -> float:
    """A number from 0 to `most`, or an error that names it."""
    number = float(value)
    if not (math.isfinite(number) and 0 <= number <= most):
        raise InputError(f"{name} is {value}: it must be a number from 0 to {most:g}")
    return number
