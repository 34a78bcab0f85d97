"""Push driving frames into one or several streams: as many steps as they fill, and all or nothing.

Streams that advance together share the encoders' batches. A single stream goes the same way.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from personalive.config import CHUNK
from personalive.engine.networks import HostCopy, Networks
from personalive.engine.noise import NoiseSource
from personalive.engine.state import Driving, StreamState
from personalive.engine.step import Finished, StepRecord, denoise_window, encode_driving
from personalive.errors import InputError
from personalive.types import RGBArray


class Advancing(Protocol):
    """What `advance` asks of a stream."""

    networks: Networks
    noise: NoiseSource
    observer: Any

    @property
    def state(self) -> StreamState | None:
        """The state after the last step."""

    def require_state(self) -> StreamState:
        """The state that the next step starts from."""

    def draw(self, frames: int) -> Tensor:
        """The next noise."""

    def outgoing(self, done: Finished) -> list[HostCopy]:
        """The frames of a step that are returned."""

    def joined(self, parts: Sequence[RGBArray]) -> RGBArray:
        """The frames of any number of steps."""

    def take(self, state: StreamState, records: Sequence[StepRecord]) -> None:
        """Continue from the state after these steps."""


class PendingFrames:
    """Frames of one stream that the device may still be working on."""

    def __init__(self, stream: Advancing, parts: Sequence[HostCopy]) -> None:
        self._stream, self._parts = stream, parts

    def result(self) -> RGBArray:
        """Wait for them: uint8 [m, height, width, 3], the caller's own. To be called once."""
        return self._stream.joined([part.result() for part in self._parts])


@contextmanager
def all_or_nothing(streams: Sequence[Advancing]) -> Iterator[None]:
    """Rewind the streams' noise if the work that it was drawn for fails or is cancelled."""
    before = [(stream.state, stream.noise.state_dict()) for stream in streams]
    try:
        yield
    except BaseException:
        for stream, (state, noise) in zip(streams, before, strict=True):
            if stream.state is state:  # otherwise it has started something else meanwhile
                stream.noise.load_state_dict(noise)
        raise


def advance(streams: Sequence[Advancing], driving: Sequence[Driving], *, stretch: bool = False) -> list[RGBArray]:
    """`submit`, and wait for the frames: what `Stream.push` would return for each."""
    return [frames.result() for frames in submit(streams, driving, stretch=stretch)]


@torch.inference_mode()
def submit(streams: Sequence[Advancing], driving: Sequence[Driving], *, stretch: bool = False) -> list[PendingFrames]:
    """Push frames into several streams of one model, computing together what they can share.

    It returns as soon as a GPU has all of its work, so the next frames can be pushed before these are taken out.

    Args:
        streams: with the same size and denoising steps, each with its own reference, keyframes and noise.
        driving: the frames for each, any number.
        stretch: make one step, whether it is given 4 frames or fewer: motion in between is interpolated from the last
            frame on. With fewer frames to wait for, and more steps, the animation trails its driver less.

    Returns:
        What `Stream.submit` would return for each; interpolated frames are returned like others.

    Raises:
        InputError: the streams do not fit together, one has no reference, or the frames do not stretch to four.
    """
    run = _Run(streams)
    with all_or_nothing(streams):
        if stretch:
            run.stretch(driving)
        else:
            run.push(driving)
    return run.commit()


class _Run:
    """Steps of several streams, whose results they take only at the end."""

    def __init__(self, streams: Sequence[Advancing]) -> None:
        self._streams, self._states = streams, [stream.require_state() for stream in streams]
        options = [state.options for state in self._states]
        kinds = {(id(s.networks), o.width, o.height, o.steps) for s, o in zip(streams, options, strict=True)}
        if len(kinds) != 1 or len({id(stream) for stream in streams}) != len(streams):
            raise InputError(
                "streams that advance together must be different ones of one model, size and number of steps"
            )
        self._frames: list[list[HostCopy]] = [[] for _ in streams]
        self._records: list[list[StepRecord]] = [[] for _ in streams]

    def push(self, driving: Sequence[Driving]) -> None:
        """As many steps as there are whole chunks."""
        states = [state.with_pending(frames) for state, frames in zip(self._states, driving, strict=True)]
        self._states = states
        while ready := [i for i, state in enumerate(states) if state.queued >= CHUNK]:
            chunks = {}
            for i in ready:
                states[i], chunks[i] = states[i].take_pending(CHUNK)
            self._step(chunks)

    def stretch(self, driving: Sequence[Driving]) -> None:
        """One step."""
        if not all(1 <= len(frames) <= CHUNK for frames in driving) or any(state.queued for state in self._states):
            raise InputError("only 1 to 4 frames stretch to a chunk of 4, and none may be waiting for others")
        self._states = [replace(state, frames_in=state.frames_in + CHUNK) for state in self._states]
        chunks = dict(zip(range(len(self._streams)), driving, strict=True))
        self._step(chunks, stretch=True)

    def _step(self, chunks: dict[int, Driving], *, stretch: bool = False) -> None:
        """One step of the streams that have a chunk, by index."""
        networks = self._streams[0].networks
        states = [self._states[i] for i in chunks]
        states, motion = encode_driving(networks, states, [*chunks.values()], stretch=stretch)
        noise = [self._streams[i].draw(CHUNK) for i in chunks]
        for i, done in zip(chunks, denoise_window(networks, states, motion, noise), strict=True):
            self._states[i] = done.state
            self._frames[i] += self._streams[i].outgoing(done)
            if self._streams[i].observer is not None:
                self._records[i].append(done.record)

    def commit(self) -> list[PendingFrames]:
        """Give every stream its state, and return what each has finished."""
        for stream, state, records in zip(self._streams, self._states, self._records, strict=True):
            stream.take(state, records)
        return [PendingFrames(*item) for item in zip(self._streams, self._frames, strict=True)]
