"""Whether a long animation drifts, and whether forgetting its keyframes now and then keeps it from it.

python -m benchmarks.decisions.long_runs --frames 10000 --device cuda --output benchmarks/results/long_runs.json

A drawn driver repeats its motion, and the portrait's person is drawn making it: the truth. Every repetition is measured
for itself, without forgetting and with it: PSNR, flicker, and how far colours are from the truth's in the face's box
and outside, which shows a person who turns into another. Faces are where they were drawn: no face mesh is needed.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from benchmarks.measuring import Results
from personalive import PersonaLive
from personalive.engine.preprocess import DrivingFrames, Reference
from personalive.training.avatars import Identity, Motion, neutral, render, sample_identities, sample_tracks
from personalive.training.avatars.geometry import face_landmarks
from personalive.training.avatars.motion import FRAME_RATE
from personalive.training.demo_assets import pictures
from personalive.training.evaluate import HELD_OUT
from personalive.training.scores import flicker, psnr
from personalive.training.shots import mesh_boxes, to_pixels
from personalive.types import Box, RGBArray

DRIVER_SIZE = 256
TOGETHER = 10
"""Repetitions whose figures are averaged."""
PATCH = 16
"""Side of the squares whose mean colours are compared, in pixels."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/long_runs.json"))
    parser.add_argument("--device", default=None)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--frames", type=int, default=10_000)
    parser.add_argument("--period", type=int, default=100, help="frames after which the driver's motion repeats")
    parser.add_argument("--forget", type=float, default=8.0, help="seconds after which keyframes are forgotten")
    options = parser.parse_args()
    model = PersonaLive.from_pretrained("demo", device=options.device)
    run = LongRun(model, options.size, options.period)
    results = Results(options.output)
    for seconds in (None, options.forget):
        label = "kept" if seconds is None else f"forgotten every {seconds:g} s"
        figures = [run.repetition(number, seconds) for number in range(options.frames // options.period)]
        for start in range(0, len(figures), TOGETHER):
            part = figures[start : start + TOGETHER]
            for name in part[0]:
                mean = sum(each[name] for each in part) / len(part)
                results.add(f"{label}, frames {start * options.period} on: {name}", round(mean, 3))


class LongRun:
    """One person, who makes the same motion again and again."""

    def __init__(self, model: PersonaLive, size: int, period: int) -> None:
        self._model, self._size = model, size
        people = sample_identities(2, torch.Generator().manual_seed(HELD_OUT + 5))
        track = periodic(period)
        self._portrait = to_pixels(render(people[:1], neutral(1), size)[0])
        self._truth = pictures(people[:1], track, size)
        driver = pictures(people[1:], track, DRIVER_SIZE)
        stream = model.stream(width=size, height=size)
        self._boxes = boxes(people[:1], track, size)
        self._reference: Reference = stream.preprocessor.reference(
            self._portrait, boxes(people[:1], neutral(1), size)[0]
        )
        self._driving: DrivingFrames = stream.preprocessor.driving(list(driver), boxes(people[1:], track, DRIVER_SIZE))

    def repetition(self, number: int, forget: float | None) -> dict[str, float]:
        """Figures of one more repetition of the motion; the first starts a new animation."""
        if number == 0:
            self._stream = self._model.stream(width=self._size, height=self._size)
            self._stream.set_reference(self._reference)
            self._stream.push(self._driving[-12:])  # from then on, a repetition's frames come out as they go in
        every = None if forget is None else round(forget * FRAME_RATE / 4) * 4
        parts: list[RGBArray] = []
        for start in range(0, len(self._driving), 4):
            at = number * len(self._driving) + start
            if every and at and at % every == 0:
                self._stream.swap_reference(self._reference)  # the same portrait, without keyframes
            parts.append(self._stream.push(self._driving[start : start + 4]))
        output = np.concatenate(parts)
        truth = np.roll(self._truth, 12, axis=0)
        face, around = colour_distances(output, truth, [self._boxes[index - 12] for index in range(len(truth))])
        return {
            "PSNR in dB": round(psnr(output, truth), 2),
            "flicker": round(flicker(output, truth), 3),
            "distance of colours in the face": round(face, 2),
            "distance of colours around it": round(around, 2),
            "keyframes": self._stream.keyframe_count,
        }


def boxes(person: Identity, track: Motion, size: int) -> list[Box]:
    """Where the face was drawn, as a mesh would find it."""
    motion = track.flatten()
    found = mesh_boxes(face_landmarks(person.repeat(len(motion.scale)), motion)[..., :2], size)
    return [(box[0], box[1], box[2], box[3]) for box in found.round().int().tolist()]


def colour_distances(output: RGBArray, truth: RGBArray, faces: list[Box]) -> tuple[float, float]:
    """Mean distance of the colours of small squares, from 0 to 442: of those in the face's box, and of the others."""
    count, size = output.shape[:2]
    squares = (count, size // PATCH, PATCH, size // PATCH, PATCH, 3)
    difference = output.reshape(squares).mean(axis=(2, 4)) - truth.reshape(squares).mean(axis=(2, 4))
    distance = np.linalg.norm(difference, axis=-1)
    centres = (np.arange(size // PATCH) + 0.5) * PATCH
    edges = np.array(faces)[:, :, None]
    inside = (centres > edges[:, 0]) & (centres < edges[:, 2])
    beside = (centres > edges[:, 1]) & (centres < edges[:, 3])
    face = beside[:, :, None] & inside[:, None, :]
    return float(distance[face].mean()), float(distance[~face].mean())


def periodic(period: int) -> Motion:
    """A track `[1, period]` whose end leads to its start: half a sampled one, played there and back."""
    half = sample_tracks(1, period // 2, torch.Generator().manual_seed(HELD_OUT + 6))
    order = [*range(period // 2), *reversed(range(period // 2))]
    return half[:, order]


if __name__ == "__main__":
    main()
