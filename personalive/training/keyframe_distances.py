"""Measures how far apart a model's motion tokens are, and suggests the distance at which a frame becomes a keyframe.

    python -m personalive.training.keyframe_distances --model weights/demo

Token spaces differ from model to model, so a threshold that suits one may never be reached in another. Drawn people
that training never saw drive each other, as in `evaluate`; only the motion encoder runs.
"""

import argparse
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm import tqdm

from personalive.config import CHUNK, LEAD_IN, WINDOW
from personalive.engine.keyframes import FIRST_STEP, KeyframeTest, keyframe_policy
from personalive.media.faces import FaceTracker
from personalive.pipeline import PersonaLive
from personalive.training.avatars import Motion
from personalive.training.demo_assets import pictures
from personalive.training.evaluate import make_pair

TRACKS, LENGTH = 12, 100
"""Tracks of four seconds."""
SHARE = 0.5
"""Part of the tracks in which the suggested threshold makes at least one keyframe."""
LEAD = LEAD_IN // CHUNK
"""Calls between a chunk's first, as the newest of the window, and its last, as the oldest, in which it is tested."""

Distances = npt.NDArray[np.float64]


def tokens_of_track(model: PersonaLive, tracker: FaceTracker, seed: int, length: int) -> tuple[Tensor, Tensor]:
    """Motion tokens of one pair.

    Returns:
        The reference's `[1, tokens, width]`, and the driver's of every fourth frame: those that are tested.
    """
    size = model.config.size
    pair = make_pair(seed, length, itself=False)
    rest = Motion(**{name: value[:, None] for name, value in vars(pair.rest).items()})
    drawn = [*pictures(pair.person, rest, size), *pictures(pair.driver, pair.track[:, ::CHUNK], size)]
    tracker.reset()
    boxes = [tracker.follow(picture) or tracker.box or (0, 0, size, size) for picture in drawn]
    with torch.inference_mode():
        tokens = model.networks.encode_motion(model.preprocessor().faces(drawn, boxes)).float().cpu()
    return tokens[:1], tokens[1:]


def simulate(reference: Tensor, driver: Tensor, threshold: float) -> int:
    """Keyframes that the engine would make if driven by these tokens, one frame of each chunk."""
    bank, keyframes = reference.flatten(1), 0
    for chunk, motion in enumerate(driver):
        window = motion.expand(WINDOW, *motion.shape)
        decision = keyframe_policy(KeyframeTest(chunk + LEAD, window, bank, keyframes, threshold))
        if decision.insert:
            bank, keyframes = torch.cat((bank, motion.flatten()[None])), keyframes + 1
    return keyframes


def suggest(tracks: Sequence[tuple[Tensor, Tensor]]) -> float:
    """The threshold at which `SHARE` of the tracks have a keyframe."""
    # A track has one if the frame that is farthest from its reference, of those that are tested, is beyond.
    farthest = [_distances(reference, driver[FIRST_STEP - LEAD :]).max() for reference, driver in tracks]
    return round(float(np.quantile(farthest, 1 - SHARE)), 1)


def _distances(reference: Tensor, driver: Tensor) -> Distances:
    """Distance of each frame to the reference."""
    distances: Distances = (driver.flatten(1) - reference.flatten(1)).norm(dim=1).double().numpy()
    return distances


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the distances, what thresholds would do, and a suggestion."""
    parser = argparse.ArgumentParser(
        prog="python -m personalive.training.keyframe_distances", description="Measure distances of motion."
    )
    parser.add_argument("--model", default="demo", help='"demo" or a folder')
    parser.add_argument("--seed", type=int, default=0, help="of people and motion")
    parser.add_argument("--tracks", type=int, default=TRACKS)
    parser.add_argument("--frames", type=int, default=LENGTH, help="of each track")
    args = parser.parse_args(arguments)
    model = PersonaLive.from_pretrained(args.model)
    with FaceTracker() as tracker:
        seeds = tqdm(range(args.tracks), desc="tracks", disable=None)
        tracks = [tokens_of_track(model, tracker, args.seed * 1000 + index, args.frames) for index in seeds]
    distances = np.concatenate([_distances(*track) for track in tracks])
    parts = "  ".join(f"{part} % {np.percentile(distances, part):.2f}" for part in (5, 25, 50, 75, 95))
    print(f"distance to the reference over {args.tracks} tracks of {args.frames} frames: {parts}")
    suggested = suggest(tracks)
    for threshold in sorted(
        {*(round(suggested * factor, 2) for factor in (0.5, 0.75, 1, 1.25)), model.config.keyframe_threshold}
    ):
        counts = [simulate(*track, threshold) for track in tracks]
        with_any = sum(count > 0 for count in counts)
        print(f"threshold {threshold:6.2f}: {np.mean(counts):.2f} keyframes a track, {with_any} tracks have one")
    print(f"suggested keyframe_threshold: {suggested:g} (the model has {model.config.keyframe_threshold:g})")


if __name__ == "__main__":
    main()
