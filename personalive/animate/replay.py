"""Motion that was taken from a driver once, played again: backwards, several times, or for another portrait."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import torch

from personalive.config import CHUNK
from personalive.engine.cues import PLAIN, Cue, Presence, cue_rows
from personalive.engine.motion import DriverMotion, HeadPose


def order(frames: int, passes: int, *, ping_pong: bool) -> Iterator[int]:
    """Which of a part's frames is shown when it is played several times; turning points are not repeated."""
    for number in range(passes):
        back = ping_pong and number % 2 == 1
        indices = range(frames - 1, -1, -1) if back else range(frames)
        yield from indices[1:] if ping_pong and number and frames > 1 else indices


def length(frames: int, passes: int, *, ping_pong: bool) -> int:
    """The number of frames of `order`."""
    return frames * passes - (passes - 1 if ping_pong and frames > 1 else 0)


class Cues(Protocol):
    """Says how the motion of each frame is used while frames of a part are shown in any order."""

    def cue(self, index: int, *, usable: bool) -> Cue:
        """The cue of the next frame that is shown, the part's `index`-th."""


class Presences:
    """The cues of frames that show a face or not; see `engine.cues`."""

    def __init__(self, rate: Fraction, cuts: Sequence[int], neutral_scene: range | None) -> None:
        """Prepare.

        Args:
            rate: frames a second.
            cuts: frames of the part with which a scene begins.
            neutral_scene: frames in which movement is measured from the neutral frame; None: there are none.
        """
        self._presence, self._rate, self._cuts, self._neutral_scene = Presence(), rate, cuts, neutral_scene
        self._shown = 0
        self._before: int | None = None

    def cue(self, index: int, *, usable: bool) -> Cue:
        """See `Cues`."""
        before, self._before = self._before, index
        cue = self._presence.cue(usable, float(self._shown / self._rate), cut=self._begins_scene(before, index))
        self._shown += 1
        if self._neutral_scene is not None and index in self._neutral_scene:
            return Cue(cue.weight, cue.neutral)
        return cue

    def _begins_scene(self, before: int | None, index: int) -> bool:
        if before is None:
            return index in self._cuts
        low, high = sorted((before, index))
        return high - low > 1 or any(low < cut <= high for cut in self._cuts)


class Easing:
    """The cues of a still face that the portrait's own turns into over a part: slowly at first, and at the end."""

    def __init__(self, frames: int) -> None:
        """`frames`: of the part, of which the last has the still's motion."""
        self._frames, self._share = frames, 0.0

    def cue(self, index: int, *, usable: bool) -> Cue:
        """See `Cues`."""
        place = index / (self._frames - 1) if self._frames > 1 else 1.0
        before, self._share = self._share, place * place * (3 - 2 * place)
        if self._share > before:
            return Cue(weight=(self._share - before) / (1 - before))
        return Cue(weight=0.0, neutral=1 - self._share / before if before else 1.0)


@dataclass(frozen=True)
class Recorded:
    """A part's motion, on the host, with no cues."""

    motion: DriverMotion
    usable: tuple[bool, ...]
    """Whether each frame shows the face that drives."""

    @classmethod
    def of(cls, parts: Sequence[DriverMotion], usable: Sequence[bool]) -> "Recorded":
        """What was observed chunk by chunk."""
        motion = parts[0].to("cpu")
        if len(parts) > 1:
            poses = [part.pose for part in parts]
            columns = zip(*(vars(pose).values() for pose in poses), strict=True)
            pose = HeadPose(*(torch.cat([each.cpu() for each in column]) for column in columns))
            motion = DriverMotion(pose, torch.cat([part.tokens.cpu() for part in parts]))
        return cls(DriverMotion(motion.pose, motion.tokens), tuple(usable))

    def __len__(self) -> int:
        return len(self.motion)

    def at(self, frames: Sequence[int]) -> "Recorded":
        """These frames of it, in this order; after the last one, which stays, come no others."""
        places = [min(frame, len(self) - 1) for frame in frames]
        pose = HeadPose(*(values[places] for values in vars(self.motion.pose).values()))
        return Recorded(DriverMotion(pose, self.motion.tokens[places]), tuple(self.usable[place] for place in places))

    def chunks(self, indices: Sequence[int], presences: Cues) -> Iterator[DriverMotion]:
        """The motion of these frames in this order, a window at a time."""
        for start in range(0, len(indices), CHUNK):
            part = indices[start : start + CHUNK]
            shown = self.at(part)
            cues = [presences.cue(index, usable=usable) for index, usable in zip(part, shown.usable, strict=True)]
            rows = None if all(cue == PLAIN for cue in cues) else cue_rows(cues)
            yield DriverMotion(shown.motion.pose, shown.motion.tokens, rows)
