"""Whether a long animation drifts, and whether forgetting its keyframes now and then keeps it from it.

python -m benchmarks.decisions.long_runs --frames 10000 --device cuda --output benchmarks/results/long_runs.json

A drawn driver repeats its motion, and the same person is drawn making it: the truth. Every repetition is measured for
itself, without forgetting and with it: the distance of skin, hair and background to the portrait's, PSNR, and flicker,
also over the four frames after the keyframes were forgotten.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from benchmarks.measuring import Results
from personalive import PersonaLive
from personalive.engine.preprocess import DrivingFrames, Reference
from personalive.media.faces import FaceTracker
from personalive.media.images import resize
from personalive.training.avatars import Motion, neutral, render, sample_identities, sample_tracks
from personalive.training.avatars.motion import FRAME_RATE
from personalive.training.demo_assets import pictures
from personalive.training.evaluate import HELD_OUT
from personalive.training.measure import FaceReader
from personalive.training.scores import colour_distance, flicker, psnr
from personalive.training.shots import to_pixels
from personalive.types import RGBArray


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
        for number in range(options.frames // options.period):
            for name, value in run.repetition(number, seconds).items():
                results.add(f"{label}, frames {number * options.period} on: {name}", value)


class LongRun:
    """One person, who makes the same motion again and again."""

    def __init__(self, model: PersonaLive, size: int, period: int) -> None:
        self._model, self._size = model, size
        people = sample_identities(2, torch.Generator().manual_seed(HELD_OUT + 5))
        track = periodic(period)
        self._portrait = to_pixels(render(people[:1], neutral(1), size)[0])
        self._truth = pictures(people[:1], track, size)
        driver = pictures(people[1:], track, 256)
        self._reader = FaceReader()
        stream = model.stream(width=size, height=size)
        with FaceTracker() as tracker:
            boxes = [tracker.follow(frame) for frame in driver]
            tracker.reset()
            box = tracker.follow(resize(self._portrait, 256, 256))
        assert box is not None and all(boxes)
        whole = tuple(round(edge * size / 256) for edge in box)
        self._reference: Reference = stream.preprocessor.reference(
            self._portrait, (whole[0], whole[1], whole[2], whole[3])
        )
        self._driving: DrivingFrames = stream.preprocessor.driving(list(driver), [each for each in boxes if each])
        self._reading = self._reader.read(self._portrait)

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
        readings = [self._reader.read(frame) for frame in output]
        distances = colour_distance(self._portrait, self._reading, output, readings)
        return {
            "PSNR in dB": round(psnr(output, truth), 2),
            "flicker": round(flicker(output, truth), 3),
            "distance to the portrait's colours": round(sum(distances.values()), 2),
            "keyframes": self._stream.keyframe_count,
        }


def periodic(period: int) -> Motion:
    """A track `[1, period]` whose end leads to its start: half a sampled one, played there and back."""
    half = sample_tracks(1, period // 2, torch.Generator().manual_seed(HELD_OUT + 6))
    order = [*range(period // 2), *reversed(range(period // 2))]
    return half[:, order]


if __name__ == "__main__":
    main()
