"""When a finished frame becomes a keyframe (docs/reference/streaming.md section 10)."""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor

FIRST_STEP = 9
"""Index of the first step, from 0, in which a keyframe may be made."""
MAX_KEYFRAMES = 3


@dataclass(frozen=True)
class KeyframeTest:
    """What a policy sees of a step."""

    step: int
    """Index of the step, from 0."""
    motion: Tensor
    """Motion tokens of the window, fp32 [16, tokens, width] on the host, oldest frame first."""
    bank: Tensor
    """Remembered motion, fp32 [n, tokens·width] on the host; the first is the reference's."""
    keyframes: int
    """Keyframes made so far."""
    threshold: float
    """Euclidean distance beyond which motion counts as new."""

    def distance(self, frame: int) -> float:
        """Distance of one frame's motion to the nearest in the bank, in fp32."""
        candidate = self.motion[frame].float().flatten()
        return float((self.bank - candidate).norm(dim=1).min())


class KeyframeDecision(NamedTuple):
    """What to do about the window of this step."""

    remember: int | None
    """Index of the frame whose motion goes into the bank."""
    insert: bool
    """Whether the oldest frame, once clean, becomes a keyframe."""


class KeyframePolicy(Protocol):
    """Decides once in each step, and again if the step failed and is repeated."""

    def __call__(self, test: KeyframeTest) -> KeyframeDecision: ...


def keyframe_policy(test: KeyframeTest) -> KeyframeDecision:
    """The specified behaviour: the frame that is tested is the frame that is stored, and there are at most three."""
    eligible = test.step >= FIRST_STEP and test.keyframes < MAX_KEYFRAMES
    new = eligible and test.distance(0) > test.threshold
    return KeyframeDecision(remember=0 if new else None, insert=new)
