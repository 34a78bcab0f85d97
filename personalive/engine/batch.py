"""Driving frames into several streams at once. A stream that is alone takes the same way."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from personalive.config import WINDOW
from personalive.engine import step as call
from personalive.engine.preprocess import DrivingFrames
from personalive.errors import InputError

if TYPE_CHECKING:
    from personalive.engine.stream import Stream


@torch.inference_mode()
def advance(
    streams: Sequence["Stream"], driving: Sequence[DrivingFrames], *, stretch: bool = False
) -> list[npt.NDArray[np.uint8]]:
    """Push frames into several streams of one model, computing at once what they can share.

    Args:
        streams: with the same size and steps, each with its own reference, keyframes and noise.
        driving: the frames for each, any number.
        stretch: make one call, whether it is given 4 frames or fewer: motion in between is interpolated from the last
            frame on. With fewer frames to wait for, and more calls, the animation trails its driver less.

    Returns:
        What `push` would give for each; the frames in between are given out like others.

    Raises:
        InputError: the streams do not go together, one has no reference, or the frames do not stretch to four.
    """
    kinds = {(id(s.model), s.preprocessor.width, s.preprocessor.height, s.steps) for s in streams}
    if len(kinds) != 1 or len({id(stream) for stream in streams}) != len(streams):
        raise InputError("streams that advance together must be different ones of one model, size and number of steps")
    states = [stream.begun()[1] for stream in streams]
    if stretch:
        return _advance_once(streams, driving)
    for state, frames in zip(states, driving, strict=True):
        state.add_pending(frames)
    results: list[list[npt.NDArray[np.uint8]]] = [[] for _ in streams]
    while ready := [i for i, state in enumerate(states) if state.pending is not None and len(state.pending) >= WINDOW]:
        together = [streams[i] for i in ready]
        motion = call.observe(together, [states[i].take_pending(WINDOW) for i in ready])
        for i, frames_out in zip(ready, call.denoise(together, motion), strict=True):
            results[i] += streams[i].outgoing(frames_out)
    return [stream.joined(result) for stream, result in zip(streams, results, strict=True)]


def _advance_once(streams: Sequence["Stream"], driving: Sequence[DrivingFrames]) -> list[npt.NDArray[np.uint8]]:
    states = [stream.begun()[1] for stream in streams]
    if not all(1 <= len(frames) <= WINDOW for frames in driving) or any(state.pending for state in states):
        raise InputError("only 1 to 4 frames stretch to a chunk of 4, and none may be waiting for others")
    finished = call.denoise(streams, call.observe(streams, driving, stretch=True))
    for state in states:
        state.frames_in += WINDOW
    return [stream.joined(stream.outgoing(out)) for stream, out in zip(streams, finished, strict=True)]
