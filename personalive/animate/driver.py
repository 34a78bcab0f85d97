"""What drives an animation, in the order in which it is played: pictures first, then their motion again from memory."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from personalive.animate.driving_reader import DrivingReader, shown_pictures, single_frame
from personalive.animate.motion_file import MotionFile, SoundPlace
from personalive.animate.plan import DrivingPlan
from personalive.animate.replay import Cues, Recorded, length, order
from personalive.animate.resume import Saved
from personalive.animate.side_by_side import SideBySide
from personalive.engine.motion import DriverMotion, HeadPose
from personalive.engine.preprocess import DrivingFrames
from personalive.engine.stream import Stream
from personalive.media.content_digest import content_digest
from personalive.pipeline import PersonaLive
from personalive.settings import AnimateOptions
from personalive.types import RGBArray


class Ahead(Protocol):
    """What takes the motion: `RunAhead`."""

    def drive(self, driving: DrivingFrames) -> tuple[DriverMotion, RGBArray]:
        """The motion in frames, which drives next, and what has been finished."""

    def push(self, motion: DriverMotion) -> RGBArray:
        """What has been finished; the motion drives next."""


class Driver:
    """The driver's motion as a stream takes it, a few frames at a time."""

    def __init__(self, plan: DrivingPlan, model: PersonaLive, stream: Stream, options: AnimateOptions) -> None:
        self._plan, self._model, self._stream, self._options = plan, model, stream, options
        self._observed: list[DriverMotion] = []
        self._usable: list[bool] = []
        self._taken = 0
        self.shown = 0
        """Frames so far."""
        self.faceless = 0
        """Pictures so far without a usable face, whose motion was held."""

    def begin(self) -> None:
        """Tell a stream that measures relative motion what is neutral."""
        plan, stream, model = self._plan, self._stream, self._model
        if plan.motion is not None and plan.neutral is not None:
            stream.set_neutral(plan.motion.neutral_motion.to(model.device, model.dtype))
        elif plan.neutral is not None:
            stream.set_neutral(single_frame(plan, plan.neutral, stream.preprocessor))

    def go_on(self, saved: Saved, beside: SideBySide | None) -> None:
        """Go on from what was saved; `beside` gets the pictures that it had."""
        self.shown, self.faceless = saved.shown, saved.faceless
        for each in saved.motions:
            self._observed.append(DriverMotion(HeadPose(**each["pose"]), each["tokens"]))
            self._usable += each["usable"]
        self._taken = len(self._observed)
        if beside:
            beside.go_on(saved.frames)
            for picture in shown_pictures(self._plan, self._stream.preprocessor, saved.shown):
                beside.add([picture])

    def take_observed(self) -> dict[str, Any] | None:
        """What was observed since the last time, as plain values and tensors; None: nothing that is needed again."""
        new = self._observed[self._taken :]
        if not new:
            return None
        self._taken = len(self._observed)
        count = sum(map(len, new))
        motion = Recorded.of(new, self._usable[-count:]).motion
        return {"pose": dict(vars(motion.pose)), "tokens": motion.tokens, "usable": self._usable[-count:]}

    @property
    def _is_kept(self) -> bool:
        """Whether the motion of pictures is needed again."""
        return self._options.passes > 1 or self._plan.info.still or self._options.save_motion is not None

    def play(self, ahead: Ahead, beside: SideBySide | None) -> Iterator[RGBArray]:
        """Drive with all of the motion that is still to come; the frames that come out meanwhile.

        Args:
            ahead: gets the motion.
            beside: gets the pictures.
        """
        plan, cues = self._plan, self._plan.cues(self._options)
        for index in self._order(plan.frames)[: self.shown]:
            cues.cue(index, usable=plan.is_usable(index))
        if plan.motion is None:
            if self.shown < (1 if plan.info.still else plan.frames):
                yield from self._play_pictures(ahead, cues, beside)
            if not self._is_kept:
                return
        recorded = self.recorded()
        indices = self._order(plan.frames if plan.info.still else len(recorded))
        if beside:
            beside.show_in_order([min(index, len(recorded) - 1) for index in indices])
        if plan.motion is not None:
            self.faceless = recorded.usable.count(False)
        for motion in recorded.chunks(indices[self.shown :], cues):
            self.shown += len(motion)
            yield ahead.push(motion.to(self._model.device, self._model.dtype))

    def _play_pictures(self, ahead: Ahead, cues: Cues, beside: SideBySide | None) -> Iterator[RGBArray]:
        prepare = self._stream.preprocessor
        with DrivingReader(self._plan, prepare, cues, first=self.shown, keep_pictures=beside is not None) as reader:
            for chunk in reader:
                motion, frames = ahead.drive(chunk.driving)
                self.shown += len(motion)
                self.faceless += chunk.faceless
                if self._is_kept:
                    self._observed.append(motion.to("cpu"))
                    self._usable += chunk.usable
                if beside:
                    beside.add(chunk.pictures)
                yield frames

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
