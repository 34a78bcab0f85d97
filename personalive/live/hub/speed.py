"""Whether a machine is fast enough for one more session, in a sentence that says what would help."""

from dataclasses import dataclass

from personalive.live.core.engine import Engine

FLUENT = 15.0
"""Pictures a second from which speech looks fluent."""
SMALLEST = 256
"""Pixels of the smallest side that can be chosen."""


@dataclass(frozen=True)
class Speed:
    """How fast one more session would be."""

    pictures_per_second: float
    """0: not known."""
    advice: str
    """What would help if it is too slow; empty if it is not."""


def speed_of(engine: Engine, call_seconds: float, others: int) -> Speed:
    """How fast one more session would be beside `others`, when a call for one takes so many seconds."""
    if call_seconds <= 0:
        return Speed(0.0, "")
    rate = engine.chunk_frames / call_seconds / (others + 1)
    if rate >= FLUENT:
        return Speed(rate, "")
    ways = []
    if others:
        ways.append(f"wait until {'the other session ends' if others == 1 else f'one of the {others} others ends'}")
    if min(engine.width, engine.height) > SMALLEST:
        ways.append("choose a smaller picture")
    if not engine.on_gpu:
        ways.append("run the server on a machine with an NVIDIA GPU")
    else:
        ways.append("use a faster GPU")
    sentence = ", or ".join(ways)
    return Speed(rate, f"What would help: {sentence}.")
