"""Where training examples come from: a protocol, and made people, of which drawn ones are the first.

Every method is a function of its seed, so that a resumed run sees what the interrupted one would have seen.
"""

import dataclasses
import math
from abc import ABC, abstractmethod
from typing import Generic, Protocol, Self, TypeVar

import torch
from torch import Generator, Tensor

from personalive.config import LEAD_IN
from personalive.engine.motion import TRANSLATION_SCALE, HeadPose, lead_in_weights
from personalive.training.avatars import (
    Identity,
    Motion,
    canonical_keypoints,
    face_landmarks,
    render,
    sample_identities,
    sample_motions,
    sample_tracks,
)
from personalive.training.captured import Captured, Tensors
from personalive.training.shots import Shots, mesh_boxes

FOCUS = ((0, 1), (2, 3), (5, 6), (7, 8))
"""Pairs of landmarks whose midpoint must look right: both eyes, the mouth, the lips."""
SIGNALS = ("blink", "gaze_x", "gaze_y", "brow", "mouth_open", "mouth_wide", "smile")
"""What an expression consists of."""
CHUNK = 32
"""Faces that are drawn at once: always one shape, so that drawing is captured once."""


class Clips(Protocol):
    """Moving people: a reference of each, a driver, and how the reference should look when it follows the driver."""

    reference: Shots
    """`[n, 1]`"""
    length: int
    """Frames."""

    def ramp(self) -> Tensor | None:
        """The 12 frames that lead from the reference to the first target, `[n, 12, 3, S, S]`; None: unknown."""

    def frames(self, start: int, stop: int) -> tuple[Shots, Shots]:
        """Driving and target frames, `[n, stop - start]` each."""


class Source(Protocol):
    """Makes examples of (reference, driving, target)."""

    labelled: bool
    """Whether heads come with exact poses."""

    def pictures(self, count: int, seed: int) -> Shots:
        """Unrelated pictures of anything, for the autoencoder, `[count, 1]`."""

    def portraits(self, count: int, seed: int) -> Shots:
        """Unrelated pictures of people, `[count, 1]`."""

    def stills(self, people: int, frames: int, seed: int) -> tuple[Shots, Shots, Shots]:
        """References `[people, 1]`, driving and target pictures `[people, frames]`; frames are unrelated.

        `people` is even, or 1.
        """

    def clips(self, people: int, length: int, seed: int) -> Clips:
        """Smooth motion of `length` frames; `people` is even."""


class Who(Protocol):
    """A batch of identities."""

    def __getitem__(self, index: Tensor) -> Self:
        """Some of them."""

    def to(self, device: torch.device) -> Self:
        """The same on another device."""

    def repeat(self, frames: int) -> Self:
        """Each `frames` times in a row."""


Person = TypeVar("Person", bound=Who)


class People(ABC, Generic[Person]):
    """People who are made, not filmed: identity and motion are independent, and every label is exact."""

    labelled = True

    def __init__(self, size: int, device: torch.device) -> None:
        """Draw `size` x `size` pictures on `device`."""
        self.size, self.device = size, device

    @abstractmethod
    def sample(self, count: int, generator: Generator) -> Person:
        """Random people."""

    @abstractmethod
    def draw(self, identity: Person, motion: Motion) -> Tensor:
        """B people in B poses, `[B, 3, S, S]` in [-1, 1]."""

    @abstractmethod
    def landmarks(self, identity: Person, motion: Motion) -> Tensor:
        """Places as `avatars.face_landmarks` has them, `[B, 14, 2]`."""

    @abstractmethod
    def poses(self, identity: Person, motion: Motion) -> HeadPose:
        """Exact poses of B heads, as the motion extractor should find them."""

    def pictures(self, count: int, seed: int) -> Shots:
        """Portraits."""
        return self.portraits(count, seed)

    def portraits(self, count: int, seed: int) -> Shots:
        """Unrelated people in unrelated poses."""
        generator = torch.Generator().manual_seed(seed)
        identity = self.sample(count, generator).to(self.device)
        return self.shots(identity, sample_motions(count, generator).to(self.device), 1)

    def stills(self, people: int, frames: int, seed: int) -> tuple[Shots, Shots, Shots]:
        """Pairs of people in the same poses, each the driver of the other."""
        generator = torch.Generator().manual_seed(seed)
        identity = self.sample(people, generator).to(self.device)
        pairs = math.ceil(people / 2)
        poses = sample_motions(pairs * frames, generator).to(self.device)
        own = sample_motions(people * frames, generator).to(self.device)
        scale = sample_motions(people, generator).scale.to(self.device)
        rows = torch.arange(people, device=self.device)
        each = (rows % pairs)[:, None] * frames + torch.arange(frames, device=self.device)
        motion = poses[each.flatten()].replace(
            translate_x=own.translate_x, translate_y=own.translate_y, scale=scale.repeat_interleave(frames)
        )
        target = self.shots(identity.repeat(frames), motion, frames)
        chosen = torch.randint(frames, (people,), generator=generator).to(self.device)
        return _columns(target, chosen), target.take((rows + people // 2) % people), target

    def clips(self, people: int, length: int, seed: int) -> "PeopleClips[Person]":
        """Pairs of people with the same track, each the driver of the other."""
        return PeopleClips(self, people, length, seed)

    def shots(self, identity: Person, motion: Motion, frames: int) -> Shots:
        """Draw B people in B poses, as `[B / frames, frames]`."""
        landmarks = self.landmarks(identity, motion)
        focus = torch.stack([landmarks[:, list(pair)].mean(dim=1) for pair in FOCUS], dim=1)
        people = len(landmarks) // frames
        return Shots(
            self.draw(identity, motion).unflatten(0, (people, frames)),
            mesh_boxes(landmarks, self.size).unflatten(0, (people, frames)),
            self.poses(identity, motion),
            focus.unflatten(0, (people, frames)),
            torch.stack([getattr(motion, name) for name in SIGNALS], dim=-1).unflatten(0, (people, frames)),
        )


class Avatars(People[Identity]):
    """Drawn people."""

    def __init__(self, size: int, device: torch.device) -> None:
        """Draw `size` x `size` pictures on `device`."""
        super().__init__(size, device)
        self._render = Captured("the renderer", self._draw)

    def sample(self, count: int, generator: Generator) -> Identity:
        """Random people."""
        return sample_identities(count, generator)

    def landmarks(self, identity: Identity, motion: Motion) -> Tensor:
        """Places of the features."""
        return face_landmarks(identity, motion)

    def poses(self, identity: Identity, motion: Motion) -> HeadPose:
        """Exact poses."""
        return head_poses(identity, motion)

    def draw(self, identity: Identity, motion: Motion) -> Tensor:
        """`[B, 3, S, S]` in [-1, 1], drawn in chunks."""
        count, pictures = len(identity), []
        for start in range(0, count, CHUNK):
            chosen = torch.arange(start, min(start + CHUNK, count), device=self.device)
            if self.device.type == "cuda" and len(chosen) < CHUNK:
                chosen = torch.cat((chosen, chosen.new_full((CHUNK - len(chosen),), start)))
            drawn = self._render({**vars(identity[chosen]), **vars(motion[chosen])})["pictures"]
            pictures.append(drawn[: min(CHUNK, count - start)])
        return torch.cat(pictures)

    def _draw(self, fields: Tensors) -> Tensors:
        of_people = {field.name for field in dataclasses.fields(Identity)}
        identity = Identity(**{name: tensor for name, tensor in fields.items() if name in of_people})
        motion = Motion(**{name: tensor for name, tensor in fields.items() if name not in of_people})
        return {"pictures": render(identity, motion, self.size)}


class PeopleClips(Generic[Person]):
    """Made people in motion. The target's place follows the retargeting rule (docs/reference/model.md section 9.3)."""

    def __init__(self, source: People[Person], people: int, length: int, seed: int) -> None:
        """Draw the references; frames are drawn on request."""
        generator = torch.Generator().manual_seed(seed)
        self.source, self.length, self.people = source, length, people
        device = source.device
        self.identity = source.sample(people, generator).to(device)
        calm = torch.rand(people, generator=generator) * 0.9 + 0.1
        rest = sample_motions(people, generator)
        rest = Motion(
            **{name: getattr(rest, name) * (1.0 if name == "scale" else calm) for name in vars(rest)}
        ).replace(blink=rest.blink * (torch.rand(people, generator=generator) < 0.3))
        self.rest = rest.to(device)
        track = sample_tracks(math.ceil(people / 2), length, generator).to(device)
        both = torch.arange(people, device=device) % len(track.yaw)
        self.track = taken_over(track[both], self.rest)
        self.reference = source.shots(self.identity, self.rest, 1)

    def ramp(self) -> Tensor | None:
        """Pictures between the reference and the first target."""
        weights = lead_in_weights(self.source.device)
        values = {
            name: torch.lerp(getattr(self.rest, name)[:, None], getattr(self.track, name)[:, :1], weights)
            for name in vars(self.rest)
        }
        pictures = self.source.draw(self.identity.repeat(LEAD_IN), Motion(**values).flatten())
        result: Tensor = pictures.unflatten(0, (self.people, LEAD_IN))
        return result

    def frames(self, start: int, stop: int) -> tuple[Shots, Shots]:
        """Targets, and the same shots of the other one of each pair as drivers."""
        count = stop - start
        target = self.source.shots(self.identity.repeat(count), self.track[:, start:stop].flatten(), count)
        half = self.people // 2
        other = (torch.arange(self.people, device=self.source.device) + half) % self.people
        return target.take(other), target


def head_poses(identity: Identity, motion: Motion) -> HeadPose:
    """Exact poses of B heads, as the motion extractor should find them."""
    return HeadPose(
        torch.stack((motion.pitch, motion.yaw, motion.roll), dim=-1),
        torch.stack((motion.translate_x, motion.translate_y, torch.zeros_like(motion.scale)), dim=-1),
        motion.scale[:, None],
        canonical_keypoints(identity),
    )


def _columns(shots: Shots, chosen: Tensor) -> Shots:
    """One shot of each person: `[n, 1]`."""
    people, frames = shots.images.shape[:2]
    rows = torch.arange(people, device=chosen.device)
    assert shots.pose is not None and shots.focus is not None and shots.expression is not None
    heads = rows * frames + chosen
    pose = HeadPose(*(part[heads] for part in vars(shots.pose).values()))
    return Shots(
        shots.images[rows, chosen][:, None],
        shots.boxes[rows, chosen][:, None],
        pose,
        shots.focus[rows, chosen][:, None],
        shots.expression[rows, chosen][:, None],
    )


def step_generator(device: torch.device, seed: int) -> Generator:
    """Random numbers of one step."""
    return torch.Generator(device).manual_seed(seed)


def taken_over(track: Motion, rest: Motion) -> Motion:
    """Tracks `[B, F]` as people who start at `rest` `[B]` follow them: with their own size, moving from there."""
    moved = {
        name: getattr(rest, name)[:, None] + TRANSLATION_SCALE * (getattr(track, name) - getattr(track, name)[:, :1])
        for name in ("translate_x", "translate_y")
    }
    return track.replace(scale=rest.scale[:, None].expand_as(track.scale), **moved)
