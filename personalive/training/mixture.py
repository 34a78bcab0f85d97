"""Heads in space, some drawn people among them, and for the autoencoder pictures without people."""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from personalive.engine.motion import HeadPose
from personalive.training.heads.source import Heads
from personalive.training.shots import Shots
from personalive.training.sources import FOCUS, Avatars, Clips

DRAWN = 0.1
"""Share of drawn people."""
SCENERY = 0.2
"""Share of the autoencoder's pictures that show nobody."""


class Mixture:
    """Some of each, by seed; every batch has the same shape."""

    labelled = True

    def __init__(self, heads: Heads, drawn: Avatars, share: float = DRAWN) -> None:
        """`share` of the people are drawn."""
        self.heads, self.drawn, self.share = heads, drawn, share

    def pictures(self, count: int, seed: int) -> Shots:
        """People and scenery; without labels."""
        generator = torch.Generator().manual_seed(seed)
        empty = round(count * SCENERY)
        people = self.portraits(count - empty, seed)
        assert people.focus is not None
        seen = Shots(people.images, people.boxes, None, people.focus)
        if not empty:
            return seen
        scenery = self.heads.scenery(empty, generator)
        assert scenery.focus is not None
        focus = scenery.focus.expand(-1, -1, len(FOCUS), -1)
        return join((seen, Shots(scenery.images, scenery.boxes, None, focus)))

    def portraits(self, count: int, seed: int) -> Shots:
        """Both kinds of people."""
        drawn = self._drawn(count, seed)
        parts = []
        if count > drawn:
            parts.append(self.heads.portraits(count - drawn, seed))
        if drawn:
            parts.append(self.drawn.portraits(drawn, seed))
        return join(parts)

    def stills(self, people: int, frames: int, seed: int) -> tuple[Shots, Shots, Shots]:
        """Pairs of the same kind."""
        drawn = self._drawn_pairs(people, seed)
        parts = []
        if people > drawn:
            parts.append(self.heads.stills(people - drawn, frames, seed))
        if drawn:
            parts.append(self.drawn.stills(drawn, frames, seed))
        reference, driving, target = (join(shots) for shots in zip(*parts, strict=True))
        return reference, driving, target

    def clips(self, people: int, length: int, seed: int) -> "MixedClips":
        """Pairs of the same kind."""
        drawn = self._drawn_pairs(people, seed)
        parts: list[Clips] = []
        if people > drawn:
            parts.append(self.heads.clips(people - drawn, length, seed))
        if drawn:
            parts.append(self.drawn.clips(drawn, length, seed))
        return MixedClips(parts)

    def _drawn(self, count: int, seed: int) -> int:
        """How many of `count` are drawn."""
        return int((torch.rand(count, generator=self._dice(seed)) < self.share).sum())

    def _drawn_pairs(self, people: int, seed: int) -> int:
        """How many of `people` are drawn: an even number, or the only one."""
        return self._drawn(people // 2, seed) * 2 if people > 1 else self._drawn(1, seed)

    @staticmethod
    def _dice(seed: int) -> Generator:
        return torch.Generator().manual_seed(seed ^ 0x5EED)


class MixedClips:
    """Clips of several sources beside each other."""

    def __init__(self, parts: Sequence[Clips]) -> None:
        self._parts = parts
        self.reference = join([part.reference for part in parts])
        self.length = parts[0].length

    def ramp(self) -> Tensor | None:
        """Of all of them."""
        ramps = [ramp for ramp in (part.ramp() for part in self._parts) if ramp is not None]
        return torch.cat(ramps) if len(ramps) == len(self._parts) else None

    def frames(self, start: int, stop: int) -> tuple[Shots, Shots]:
        """Of all of them."""
        driving, target = zip(*(part.frames(start, stop) for part in self._parts), strict=True)
        return join(driving), join(target)


def join(shots: Sequence[Shots]) -> Shots:
    """The people of all, one after the other; what is unknown of some is unknown of all."""
    poses = [part.pose for part in shots if part.pose is not None]
    focus = [part.focus for part in shots if part.focus is not None]
    expression = [part.expression for part in shots if part.expression is not None]
    pose = (
        HeadPose(*(torch.cat(parts) for parts in zip(*(vars(pose).values() for pose in poses), strict=True)))
        if poses
        else None
    )
    return Shots(
        torch.cat([part.images for part in shots]),
        torch.cat([part.boxes for part in shots]),
        pose if len(poses) == len(shots) else None,
        torch.cat(focus) if len(focus) == len(shots) else None,
        torch.cat(expression) if len(expression) == len(shots) else None,
    )
