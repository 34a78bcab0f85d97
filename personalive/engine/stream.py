"""One animation. An animation from files is a live stream that is fed from a file: there is no other engine.

A driving frame takes part in four steps and leaves the sampler in the last (docs/reference/streaming.md sections 7 to
11). The first three steps finish a lead-in, which goes from the reference to the first driving frame; `flush` brings
out what is under way.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from personalive.config import CHUNK, LEAD_IN, MAX_KEYFRAME_THRESHOLD, MAX_SEED
from personalive.engine import schedule
from personalive.engine.advance import PendingFrames, all_or_nothing, submit
from personalive.engine.control import MotionControl, between
from personalive.engine.keyframes import KeyframePolicy, keyframe_policy
from personalive.engine.motion import DriverMotion
from personalive.engine.networks import HostCopy, Networks
from personalive.engine.noise import GaussianNoise, NoiseSource
from personalive.engine.preprocess import DrivingFrames, Preprocessor, Reference
from personalive.engine.state import Driving, ReferenceState, StepOptions, StreamState, from_plain, to_plain
from personalive.engine.step import (
    LEAD_IN_STEPS,
    Finished,
    Look,
    StepRecord,
    denoise_window,
    encode_driving,
    encode_reference,
    look,
    observe,
)
from personalive.errors import InputError
from personalive.types import RGBArray

DEFAULT_RATE = 25.0


class Stream:
    """All state of one animation, and no weights.

    Every operation is all or nothing: if it fails, the stream is as it was before, and it may be tried again.
    """

    def __init__(
        self,
        networks: Networks,
        *,
        width: int | None = None,
        height: int | None = None,
        steps: int = 4,
        seed: int = 42,
        keyframe_threshold: float | None = None,
        rate: float = DEFAULT_RATE,
        emit_lead_in: bool = False,
        noise: NoiseSource | None = None,
        keyframes: KeyframePolicy = keyframe_policy,
        observer: Callable[[StepRecord], None] | None = None,
        **motion: Any,
    ) -> None:
        """Prepare an animation; `set_reference` starts it.

        Args:
            networks: a model's, which may be shared with other streams.
            width: of the output in pixels, a multiple of the VAE's factor; default: the model's size.
            height: like `width`.
            steps: denoising steps of a frame: 4, 8, 12 or 16.
            seed: of the default noise, from 0 to 2³² − 1.
            keyframe_threshold: from 0 to 1000; default: the model's.
            rate: driving frames a second, which `smooth` takes into account.
            emit_lead_in: also return the 12 frames that lead from the reference to the first driving frame.
            noise: default: Gaussian noise by `seed`.
            keyframes: when a finished frame becomes a keyframe; default: the specified behaviour.
            observer: receives what each step computed.
            motion: fields of `MotionControl`, such as `motion_strength`, which is 1 by default.

        Raises:
            InputError: a value that is not allowed.
        """
        if type(seed) is not int or not 0 <= seed <= MAX_SEED:
            raise InputError(f"seed is {seed!r}: it must be a whole number from 0 to {MAX_SEED}")
        schedule.check_steps(steps)
        config = networks.config
        self.networks, self.observer, self.emit_lead_in = networks, observer, emit_lead_in
        self.preprocessor = Preprocessor(config, width or config.size, height or config.size, networks.stage)
        threshold = config.keyframe_threshold if keyframe_threshold is None else keyframe_threshold
        self._options = StepOptions(
            width=self.preprocessor.width,
            height=self.preprocessor.height,
            steps=steps,
            keyframe_threshold=between("keyframe_threshold", threshold, MAX_KEYFRAME_THRESHOLD),
            control=MotionControl(**motion),
            rate=rate,
            keyframes=keyframes,
        )
        self.noise: NoiseSource = noise or GaussianNoise(seed)
        self._state: StreamState | None = None

    @property
    def keyframe_threshold(self) -> float:
        """Distance of motion beyond which a finished frame becomes a keyframe. May be changed between steps."""
        return self._options.keyframe_threshold

    @keyframe_threshold.setter
    def keyframe_threshold(self, value: float) -> None:
        threshold = between("keyframe_threshold", value, MAX_KEYFRAME_THRESHOLD)
        self._options = replace(self._options, keyframe_threshold=threshold)

    @property
    def control(self) -> MotionControl:
        """What of the driver's motion the portrait takes. May be changed between steps."""
        return self._options.control

    @control.setter
    def control(self, value: MotionControl) -> None:
        self._options = replace(self._options, control=value)

    @property
    def motion_strength(self) -> float:
        """How far pose and expression go from the reference's to the driver's. May be changed between steps."""
        return self.control.motion_strength

    @motion_strength.setter
    def motion_strength(self, value: float) -> None:
        self.control = replace(self.control, motion_strength=value)

    @property
    def steps(self) -> int:
        """Denoising steps of a frame."""
        return self._options.steps

    @property
    def frames_in(self) -> int:
        """Driving frames pushed since the animation started."""
        return 0 if self._state is None else self._state.frames_in

    @property
    def keyframe_count(self) -> int:
        """Keyframes made since the animation started."""
        return 0 if self._state is None else len(self._state.keyframes)

    @property
    def state(self) -> StreamState | None:
        """The state after the last step; None before there is a reference."""
        return self._state

    def require_state(self) -> StreamState:
        """The state that the next step starts from.

        Raises:
            InputError: there is no reference.
        """
        if self._state is None:
            raise InputError("the stream has no portrait yet: call set_reference first")
        return replace(self._state, options=self._options)

    @torch.inference_mode()
    def set_reference(self, reference: Reference) -> None:
        """Take a portrait and start a new animation with it.

        Raises:
            InputError: it was prepared for another size.
        """
        self._begin(self._encode(reference))

    @torch.inference_mode()
    def swap_reference(self, reference: Reference) -> None:
        """Take another portrait while the animation continues.

        Frames that are under way turn into the new identity within the next steps; keyframes of the old one are
        dropped.

        Raises:
            InputError: it was prepared for another size, or there was no portrait before.
        """
        state = self.require_state()
        self._state = state.with_reference(self._encode(reference))

    @torch.inference_mode()
    def reset(self) -> None:
        """Forget the driver and everything under way: start again with the same reference and the same noise.

        Raises:
            InputError: there is no reference.
        """
        self._begin(self.require_state().reference)

    def reanchor(self) -> None:
        """Measure the driver's motion from the next frame on: movement across the picture, and all relative motion."""
        self._state = replace(self.require_state(), first=None, neutral=None, neutral_tokens=None)

    def recentre(self) -> None:
        """Measure the head's pose from the next frame on, and the expression as before."""
        self._state = replace(self.require_state(), first=None, neutral=None)

    @torch.inference_mode()
    def set_neutral(self, driving: Driving) -> None:
        """Measure the driver's motion from this frame: movement across the picture, and all relative motion.

        Without it, this is the first frame that shows a face. After a cut, movement is measured from the first frame
        of the new scene.

        Args:
            driving: one frame, which need not be part of the animation.

        Raises:
            InputError: there is no reference, or it is not one frame.
        """
        state = self.require_state()
        if len(driving) != 1:
            raise InputError(f"the neutral frame is one frame, not {len(driving)}")
        if isinstance(driving, DrivingFrames):
            _, (driving,) = observe(self.networks, [state], look(self.networks, [driving]))
        self._state = replace(state, first=driving.pose, neutral=driving.pose, neutral_tokens=driving.tokens)

    @torch.inference_mode()
    def observe(self, driving: DrivingFrames | Look) -> DriverMotion:
        """The driver's motion in frames, to be pushed, or kept and pushed into any stream of the same model.

        Nothing moves, but face boxes by keypoints go on from here.

        Args:
            driving: frames, or what `look` has returned for them.

        Raises:
            InputError: there is no reference.
        """
        looks = look(self.networks, [driving]) if isinstance(driving, DrivingFrames) else [driving]
        (self._state,), (motion,) = observe(self.networks, [self.require_state()], looks)
        return motion

    @torch.inference_mode()
    def look(self, driving: DrivingFrames) -> Look:
        """Start to observe frames without waiting for a GPU: work that is submitted before `observe` runs meanwhile."""
        return look(self.networks, [driving])[0]

    def push(self, driving: Driving) -> RGBArray:
        """Take any number of driving frames, or their motion, and return the frames that they finish.

        Returns:
            uint8 [m, height, width, 3], m a multiple of 4. The first 12 driving frames finish none (with
            `emit_lead_in`, they finish the lead-in).

        Raises:
            InputError: there is no reference, or the frames were prepared differently from those before.
        """
        return self.submit(driving).result()

    def submit(self, driving: Driving) -> PendingFrames:
        """`push`, without waiting for the frames that it finishes: a GPU computes them meanwhile.

        Taken out after the next frames are in, they cost a GPU no pause. On a CPU it makes no difference.
        """
        return submit([self], [driving])[0]

    def flush(self) -> RGBArray:
        """End the animation: return the frames under way, so that as many have come out as went in, and reset.

        The driver is continued by its last frames in reverse.

        Returns:
            uint8 [m, height, width, 3].

        Raises:
            InputError: there is no reference.
        """
        return self.joined([*self.drain()])

    @torch.inference_mode()
    def drain(self) -> Iterator[RGBArray]:
        """What `flush` does, step by step: the frames of each. Stopped in between, the stream is as it was before."""
        state = self.require_state()
        with all_or_nothing([self]):
            if state.frames_in:
                queued = state.queued
                if queued:
                    state, waiting = state.take_pending(queued)
                    (state,), _ = encode_driving(self.networks, [state], [waiting])
                surplus, tail = state.ending(queued)
                for start in range(0, len(tail), CHUNK):
                    chunk, noise = tail[start : start + CHUNK], self.draw(CHUNK)
                    finished = denoise_window(self.networks, [state], [chunk], [noise])[0]
                    state = finished.state
                    self._show(finished.record)
                    kept = CHUNK if start + CHUNK < len(tail) else CHUNK - surplus
                    yield from (frames.result()[:kept] for frames in self.outgoing(finished))
            self.reset()

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue in another process with the same model: plain values and CPU tensors."""
        state = {"reference": None, "animation": None} if self._state is None else to_plain(self._state)
        return {
            "size": [self._options.width, self._options.height],
            "steps": self.steps,
            "emit_lead_in": self.emit_lead_in,
            "keyframe_threshold": self.keyframe_threshold,
            "motion": asdict(self.control),
            "noise": self.noise.state_dict(),
            **state,
        }

    @torch.inference_mode()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken.

        Raises:
            InputError: the state is for another size, number of steps, or model.
        """
        size = [self._options.width, self._options.height]
        if state["size"] != size or state["steps"] != self.steps:
            raise InputError(
                f"the saved state has size {state['size']} and {state['steps']} steps, "
                f"this stream {size} and {self.steps}: create the stream with the same values"
            )
        reference, shape = state["reference"], self._latent_shape(1)
        if reference is not None and tuple(reference["latents"].shape) != shape:
            raise InputError(
                f"the saved state has latents {list(reference['latents'].shape)}, this model makes {list(shape)}: "
                "load it with the model it was saved with"
            )
        options = replace(
            self._options,
            keyframe_threshold=between("keyframe_threshold", state["keyframe_threshold"], MAX_KEYFRAME_THRESHOLD),
            control=MotionControl(**state["motion"]),
        )
        with all_or_nothing([self]):
            self.noise.load_state_dict(state["noise"])
            self._state = None if reference is None else from_plain(state, options, self.networks)
        self._options, self.emit_lead_in = options, state["emit_lead_in"]

    def _begin(self, reference: ReferenceState) -> None:
        with all_or_nothing([self]):
            self.noise.restart()
            levels = schedule.lead_in_timesteps(self.steps)
            latents = schedule.add_noise(reference.latents, self.draw(LEAD_IN), levels)
            self._state = StreamState.begin(self._options, reference, latents)

    def _encode(self, reference: Reference) -> ReferenceState:
        size = [self._options.height, self._options.width]
        given = list(reference.vae_image.shape[2:])
        if given != size:
            raise InputError(f"the portrait was prepared for {given} (height, width), this stream has {size}")
        return encode_reference(self.networks, reference)

    def draw(self, frames: int) -> Tensor:
        """The next noise of the stream, [frames, c, h, w]."""
        noise = self.noise.draw(*self._latent_shape(frames))
        return self.networks.upload([noise]).to(self.networks.dtype)

    def _latent_shape(self, frames: int) -> tuple[int, int, int, int]:
        vae, options = self.networks.config.vae, self._options
        return frames, vae.latent_channels, options.height // vae.factor, options.width // vae.factor

    def outgoing(self, done: Finished) -> list[HostCopy]:
        """The frames of a step that are returned: none of the lead-in, unless it is wanted."""
        return [done.pixels] if self.emit_lead_in or done.record.step >= LEAD_IN_STEPS else []

    def take(self, state: StreamState, records: Sequence[StepRecord]) -> None:
        """Continue from the state after these steps."""
        self._state = state
        for record in records:
            self._show(record)

    def joined(self, parts: Sequence[RGBArray]) -> RGBArray:
        """The frames of any number of steps, uint8 [m, height, width, 3]; those of a single step are not copied."""
        none = np.empty((0, self._options.height, self._options.width, 3), dtype=np.uint8)
        return parts[0] if len(parts) == 1 else np.concatenate([none, *parts])

    def _show(self, record: StepRecord) -> None:
        if self.observer is not None:
            self.observer(record)
