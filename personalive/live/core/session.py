"""One person's animation: camera frames in, pictures out, and the commands in between.

A session belongs to three threads: those that feed it, one that prepares its frames, and the device's, which alone
touches its stream. Nothing here waits for another session.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import numpy as np

from personalive.engine.control import MotionControl
from personalive.errors import InputError
from personalive.extras import require
from personalive.live.core.animation import Animation
from personalive.live.core.background import BackgroundPainter
from personalive.live.core.commands import Commands
from personalive.live.core.dissolve import Dissolve
from personalive.live.core.engine import Engine, LiveStream
from personalive.live.core.faces import FaceFinder
from personalive.live.core.frames import CameraFrame, FrameRing, Message, Picture
from personalive.live.core.parameters import Parameters
from personalive.live.core.pictures import filled, resized
from personalive.live.core.preparation import Chunk, Preparation
from personalive.live.core.sound import Sound
from personalive.live.core.stamps import Stamps
from personalive.live.core.statistics import SessionStatistics
from personalive.live.core.subscription import Subscription, Subscriptions
from personalive.types import FractionBox, RGBArray

PATIENCE = 0.3
"""Seconds that a chunk waits for a slow camera before it is made from fewer frames."""
MAX_UNPAINTED = 2
"""Calls whose pictures wait to be painted over; the oldest are dropped when the processor does not keep up."""
MARGIN = 0.003
"""Seconds by which frames are ready before the device is."""


class Session:
    """The state of one session. Made by the hub, driven by the scheduler."""

    def __init__(
        self,
        identifier: str,
        engine: Engine,
        parameters: Parameters,
        *,
        faces: FaceFinder | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.identifier = identifier
        self.parameters = parameters
        self.statistics = SessionStatistics()
        self.sound = Sound()
        self.wake: Callable[[], None] = lambda: None
        """Called when the scheduler has something to do; set by it."""
        self.on_message: Callable[[Message], None] = lambda message: None
        """Called with messages to the client, from any thread."""
        self.on_closed: Callable[[str | None], None] = lambda reason: None
        """Called once, with the error that ended the session or None."""
        self.on_hidden: Callable[[], None] = lambda: None
        """Called when the animation is hidden from viewers, or shown again, by whoever changes that."""
        self.last_frame = clock()
        self.prepare_seconds = 0.0
        self._engine = engine
        self._preparation = Preparation(engine, faces, lambda message: self.on_message(message))
        self._clock = clock
        self._lock = threading.RLock()
        self._ring = FrameRing()
        self._subscriptions = Subscriptions(engine.chunk_frames, self.statistics)
        self._commands = Commands()
        self._animation = Animation(engine)
        self._chunk: Chunk | None = None
        self._preparing = False
        self._epoch = 0
        self._run = 0
        """Counts how often the driver was forgotten."""
        self._stamps = Stamps(engine.chunk_frames, engine.delay_frames)
        self._closed = False
        self._painter = BackgroundPainter()
        self._dissolve = Dissolve()
        self._replaced = False
        """Whether the next call's pictures are the first ones of another portrait."""
        self._unpainted: deque[tuple[int, bool, list[Picture]]] = deque(maxlen=MAX_UNPAINTED)
        self._painting = threading.Lock()
        self._backdrop: RGBArray | None = None
        self._blank: RGBArray = np.zeros((engine.height, engine.width, 3), np.uint8)
        self._still = self._blank

    # ---- what connections and the hub call ----

    @property
    def closed(self) -> bool:
        """Whether the session has ended."""
        return self._closed

    @property
    def has_portrait(self) -> bool:
        """Whether there is something to animate."""
        return self._animation.has_portrait

    @property
    def still(self) -> RGBArray:
        """What is shown in place of the animation, uint8 [H,W,3]: the portrait as it is, or black."""
        return self._still

    @property
    def face(self) -> FractionBox | None:
        """Where the driver's face is in the part of the camera's picture that is used; None: not seen."""
        return self._preparation.face

    @property
    def looks_for_faces(self) -> bool:
        """Whether `face` means anything: otherwise, finding it is left to the model."""
        return self._preparation.looks_for_faces

    def offer(self, frame: CameraFrame) -> None:
        """Take a camera frame, or ignore it if the session is paused or the camera faster than its `fps`."""
        with self._lock:
            if self._closed:
                return
            self.last_frame = self._clock()
            self.statistics.frame_in(self.last_frame)
            self._stamps.arrived(frame.captured, self._ring.newest)
            if self.parameters.paused:
                return
            # Half a millisecond of tolerance: a camera of exactly `fps` must not lose frames to rounding.
            if self._ring.newest is not None and frame.captured - self._ring.newest < 1 / self.parameters.fps - 5e-4:
                self._ring.dropped += 1
                return
            self._ring.add(frame)
        self.wake()

    def subscribe(self, on_ready: Callable[[], None], *, counts: bool = True) -> Subscription:
        """A reader of the pictures from now on.

        Args:
            on_ready: called when there is something new, from any thread.
            counts: whether what it shows and drops counts in the session's figures. A viewer's does not, but what the
                first of them shows does while there is no other reader, as where a program drives by WHIP.
        """
        return self._subscriptions.add(on_ready, counts=counts)

    def unsubscribe(self, subscription: Subscription) -> None:
        """End a reader."""
        self._subscriptions.remove(subscription)

    def change(self, values: dict[str, Any]) -> Parameters:
        """Change parameters, and do what `reset_cache: true` and `set_neutral: true` ask for.

        Raises:
            InputError: a value of the wrong kind or out of bounds, or too many changes are waiting; nothing was
                changed.
            MissingExtraError: another background needs mediapipe, which is not installed.
        """
        for name in ("reset_cache", "set_neutral"):
            if not isinstance(values.get(name, False), bool):
                raise InputError(f"{name} must be true or false, not {values[name]!r}")
        after = self.parameters.updated(values)
        if after.background != "as_is":
            require("faces")
        if after.seed != self.parameters.seed:
            self._submit_and_start_over(lambda: self._animation.reseed(after.seed))
        elif values.get("reset_cache"):
            self.reset()
        if values.get("set_neutral"):
            self.submit(self._reanchor)
        with self._lock:
            before, self.parameters = self.parameters, self.parameters.updated(values)
            if before.paused != self.parameters.paused:
                self._start_over()
        if before.hidden != self.parameters.hidden:
            self.on_hidden()
        return self.parameters

    def open_stream(self) -> "Future[None]":
        """Make the state on the device."""
        return self.submit(lambda: self._animation.open(self.parameters.seed))

    def set_portrait(self, reference: Any, still: RGBArray | None = None) -> "Future[None]":
        """Animate this portrait from the next call on; the motion continues.

        Args:
            reference: what `Engine.reference` made of it.
            still: the portrait itself, uint8 [h,w,3], for those from whom the animation is hidden; None: black.
        """

        def apply() -> None:
            self._replaced = self.has_portrait
            self._animation.set_portrait(reference, self.parameters.seed)
            self._still = self._blank if still is None else resized(still, self._engine.width, self._engine.height)

        return self.submit(apply)

    def set_backdrop(self, picture: RGBArray) -> None:
        """What is behind the portrait while `background` is "picture", uint8 [h,w,3]; any thread."""
        self._backdrop = filled(picture, self._engine.width, self._engine.height)

    def set_first_portrait(self, reference: Any, still: RGBArray | None = None) -> "Future[None]":
        """Like `set_portrait`, unless there is one already: that one came later."""

        def apply() -> None:
            if not self.has_portrait:
                self._animation.set_portrait(reference, self.parameters.seed)
                self._still = self._blank if still is None else resized(still, self._engine.width, self._engine.height)

        return self.submit(apply)

    def reset(self) -> "Future[None]":
        """Forget the driver, keep the portrait."""
        return self._submit_and_start_over(self._animation.reset)

    def snapshot(self) -> "Future[dict[str, Any]]":
        """The temporal state of the animation."""
        return self.submit(self._animation.snapshot)

    def resume(self, state: dict[str, Any]) -> "Future[None]":
        """Continue from a temporal state."""
        return self._submit_and_start_over(lambda: self._animation.resume(state, self.parameters.seed))

    def submit(self, command: Callable[[], Any]) -> "Future[Any]":
        """Run a command in the device's thread between two calls, in the order of submission.

        Raises:
            InputError: too many are waiting already.
        """
        future = self._commands.add(command)
        self.wake()
        return future

    def close(self, error: str | None = None) -> None:
        """End the session; `error` is sent to the client. Calls after the first do nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._ring.clear()
            self._chunk = None
            if not self._preparing:
                self._free()
        self._commands.end(f"the session {self.identifier} has ended")
        message: Message = {"type": "stream_stopped"}
        if error is not None:
            message["error_message"] = error
        self.on_message(message)
        self.on_closed(error)
        self.wake()

    # ---- what the scheduler calls ----

    def prepare_at(self, device_free: float) -> float | None:
        """When to start the next chunk, so that its frames are as fresh as possible; None: nothing to do."""
        with self._lock:
            busy = self._closed or self._preparing or self._chunk is not None
            waiting = len(self._ring)
            if busy or self.parameters.paused or not self.has_portrait or waiting == 0:
                return None
            wanted = (
                max(1, self._engine.chunk_frames // 2)
                if self.parameters.latency == "low"
                else self._engine.chunk_frames
            )
            ready = 0.0 if waiting >= wanted else (self._ring.oldest or 0.0) + PATIENCE
            return max(ready, device_free - self.prepare_seconds - MARGIN)

    def begin_preparing(self) -> None:
        """Mark the session so that it is prepared once."""
        with self._lock:
            self._preparing = True

    def prepare(self) -> None:
        """Choose the frames of the next chunk and make them ready for the model (a preparing thread)."""
        began = self._clock()
        with self._lock:
            epoch, run, mirror = self._epoch, self._run, self.parameters.mirror
            frames = self._ring.take(self._engine.chunk_frames)
        chunk = None
        try:
            recentre = self.parameters.recentre
            made = self._preparation.driving(frames, mirror=mirror, run=run, recentre=recentre) if frames else None
            if made is not None:
                driving, centres = made
                with self._lock:
                    chunk = Chunk(driving, self._stamps.of_chunk(frames), centres) if epoch == self._epoch else None
        finally:
            self._end_preparing(chunk, epoch, self._clock() - began)
        self.wake()

    def _end_preparing(self, chunk: Chunk | None, epoch: int, seconds: float) -> None:
        with self._lock:
            self._preparing = False
            self._chunk = None if self._closed or epoch != self._epoch else chunk
            self.prepare_seconds += 0.2 * (seconds - self.prepare_seconds)
            if self._closed:
                self._free()

    @property
    def has_command(self) -> bool:
        """Whether a command waits for the device's thread."""
        return len(self._commands) > 0

    @property
    def has_chunk(self) -> bool:
        """Whether a chunk waits for the device."""
        return self._chunk is not None

    @property
    def backlog(self) -> tuple[int, int]:
        """Camera frames and finished pictures that are waiting."""
        return len(self._ring), self._subscriptions.waiting

    @property
    def dropped(self) -> tuple[int, int]:
        """Camera frames and finished pictures that were dropped so far."""
        return self._ring.dropped, self._subscriptions.dropped

    def run_command(self) -> None:
        """Run the oldest command (the device's thread); its error goes to the caller."""
        self._commands.run_next(self._engine.guard)

    def begin_call(self) -> tuple[LiveStream, Any] | None:
        """Hand the chunk over (the device's thread)."""
        with self._lock:
            chunk, self._chunk = self._chunk, None
            if chunk is None or self._closed:
                return None
            stream = self._animation.stream(self.parameters.seed)
            if chunk.recentre:
                self._animation.recentre()
            stream.control = MotionControl.of(self.parameters)
            threshold = self.parameters.keyframe_threshold
            if threshold is not None:  # None: the model's
                stream.keyframe_threshold = threshold
            self._stamps.enter(chunk.stamps)
            return stream, chunk.driving

    def end_call(self, images: RGBArray) -> bool:
        """Take the pictures of a call (the device's thread); True: `paint` must be called, in another thread."""
        now = self._clock()
        with self._lock:
            pictures = self._stamps.leave(images)
            self.statistics.made(len(pictures))
            replaced, self._replaced = self._replaced, False
            changed = replaced or self._dissolve.running or self.parameters.background != "as_is"
            if changed or self._unpainted or self._painting.locked():
                self._unpainted.append((self._epoch, replaced, pictures))
                return True
            self._dissolve.last = pictures[-1] if pictures else self._dissolve.last
        self._subscriptions.push(pictures, now)
        return False

    def paint(self) -> None:
        """Change the background of the oldest call's pictures, and lead over from another portrait's.

        Each is shown when it is ready; calls come in their order.
        """
        with self._painting:
            with self._lock:
                if not self._unpainted:  # those of a processor that does not keep up were dropped
                    return
                epoch, replaced, pictures = self._unpainted.popleft()
                kind, colour = self.parameters.background, self.parameters.background_colour
            if replaced:
                self._dissolve.begin()
            for each in pictures:
                if self._closed or epoch != self._epoch:
                    break
                image = self._painter.paint(each.image, kind, colour, self._backdrop)
                self._subscriptions.push([self._dissolve.mix(replace(each, image=image))], self._clock())
            if self._closed:
                self._painter.close()

    @property
    def background_seconds(self) -> float:
        """What the background costs for each picture; 0: nothing."""
        return self._painter.seconds if self.parameters.background != "as_is" else 0.0

    # ---- inside ----

    def _reanchor(self) -> None:
        self._animation.reanchor()
        self._preparation.measure_anew()

    def _free(self) -> None:
        self._preparation.close()
        self._animation.free()
        if not self._painting.locked():  # else it is freed after that
            self._painter.close()

    def _submit_and_start_over(self, command: Callable[[], None]) -> "Future[None]":
        """A command after which all frames and pictures in flight are discarded."""

        def run() -> None:
            command()
            with self._lock:
                self._run += 1
                self._start_over()

        return self.submit(run)

    def _start_over(self) -> None:
        """Old frames and pictures no longer count; the caller holds the lock."""
        self._epoch += 1
        self._ring.clear()
        self._chunk = None
        self._stamps.forget()
        self._subscriptions.clear()
