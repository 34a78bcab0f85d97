"""What drives an animation, in the order in which it is played: pictures first, then their motion again from memory."""

from collections.abc import Iterator, Sequence

from personalive.animate.driving_reader import DrivingReader, single_frame
from personalive.animate.motion_file import MotionFile, SoundPlace, content_digest
from personalive.animate.plan import DrivingPlan
from personalive.animate.replay import Recorded, length, order
from personalive.animate.side_by_side import SideBySide
from personalive.engine.motion import DriverMotion
from personalive.engine.stream import Stream
from personalive.pipeline import PersonaLive
from personalive.settings import AnimateOptions


class Driver:
    """The driver's motion as a stream takes it, a few frames at a time."""

    def __init__(self, plan: DrivingPlan, model: PersonaLive, stream: Stream, options: AnimateOptions) -> None:
        """Prepare; a stream that measures relative motion learns what is neutral."""
        self._plan, self._model, self._stream, self._options = plan, model, stream, options
        self._observed: list[DriverMotion] = []
        self._usable: list[bool] = []
        self.faceless = 0
        """Pictures so far without a usable face, whose motion was held."""
        if plan.motion is not None and plan.neutral is not None:
            stream.set_neutral(plan.motion.neutral_motion.to(model.device, model.dtype))
        elif plan.neutral is not None:
            stream.set_neutral(single_frame(plan, plan.neutral, stream.preprocessor))

    @property
    def _is_kept(self) -> bool:
        """Whether the motion of pictures is needed again."""
        return self._options.passes > 1 or self._plan.info.still or self._options.save_motion is not None

    def chunks(self, beside: SideBySide | None) -> Iterator[DriverMotion]:
        """All of the motion, with cues; `beside` gets the pictures."""
        plan, cues, shown = self._plan, self._plan.cues(self._options), 0
        if plan.motion is None:
            with DrivingReader(plan, self._stream.preprocessor, cues, keep_pictures=beside is not None) as reader:
                for chunk in reader:
                    motion = self._stream.observe(chunk.driving)
                    shown += len(motion)
                    self.faceless += chunk.faceless
                    if self._is_kept:
                        self._observed.append(motion.to("cpu"))
                        self._usable += chunk.usable
                    if beside:
                        beside.add(chunk.pictures)
                    yield motion
            if not self._is_kept:
                return
        recorded = self.recorded()
        indices = self._order(plan.frames if plan.info.still else len(recorded))
        if beside:
            beside.show_in_order([min(index, len(recorded) - 1) for index in indices])
        if plan.motion is not None:
            self.faceless = recorded.usable.count(False)
        for motion in recorded.chunks(indices[shown:], cues):
            yield motion.to(self._model.device, self._model.dtype)

    def recorded(self) -> Recorded:
        """The motion of the part, once all of its pictures have been seen."""
        return Recorded.of(self._observed, self._usable) if self._plan.motion is None else self._plan.motion.recorded

    def motion_file(self) -> MotionFile:
        """The motion of the part as it can be kept, once all of its pictures have been seen."""
        plan = self._plan
        if plan.motion is not None:
            return plan.motion
        sound = None
        if plan.sound is not None:
            source = plan.sound.source.path
            sound = SoundPlace(source.name, content_digest(source), plan.sound.start)
        return MotionFile(
            recorded=self.recorded(),
            rate=plan.rate,
            size=(plan.info.width, plan.info.height),
            track=plan.track,
            neutral=self._neutral_index,
            neutral_motion=self._neutral_motion(),
            model=self._model.config.name,
            fingerprint=self._model.motion_fingerprint,
            still=plan.info.still,
            sound=sound,
        )

    @property
    def _neutral_index(self) -> int:
        if self._plan.neutral is not None:
            return self._plan.neutral
        return 0 if self._plan.track is None else self._plan.track.neutral

    def _neutral_motion(self) -> DriverMotion:
        """The motion of the frame from which relative motion is measured, even if this time it is not."""
        state = self._stream.require_state()
        if self._plan.neutral is not None and state.neutral is not None and state.neutral_tokens is not None:
            return DriverMotion(state.neutral, state.neutral_tokens)
        return self._stream.observe(single_frame(self._plan, self._neutral_index, self._stream.preprocessor))

    def _order(self, frames: int) -> Sequence[int]:
        return list(order(frames, self._options.passes, ping_pong=self._options.ping_pong))


def frames_of(plan: DrivingPlan, options: AnimateOptions) -> int:
    """How many frames the result will have, as far as the driver says beforehand."""
    return length(plan.frames, options.passes, ping_pong=options.ping_pong)
