"""Judges a model by what its users get: files in, a file out, and the output is measured.

    python -m personalive.training.evaluate --seed 7 [--model demo] [--json figures.json] [--long | --photos]

Drawn people that training never saw drive each other. mediapipe reads the output and the true frames, never the model's
own motion extractor. The run ends with status 1 when a figure misses its threshold.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from personalive.animate.job import animate
from personalive.media.video_reader import probe, read_frames
from personalive.pipeline import PersonaLive
from personalive.settings import AnimateOptions
from personalive.training.avatars import Identity, Motion, render, sample_identities, sample_motions, sample_tracks
from personalive.training.demo_assets import pictures, write_video
from personalive.training.evaluate_photos import checks_photos, evaluate_photos
from personalive.training.measure import FaceReader, Reading
from personalive.training.scores import (
    SIGNALS,
    Pictures,
    Scores,
    colour_distance,
    correlation,
    flicker,
    landmark_error,
    psnr,
)
from personalive.training.sources import taken_over

PAIRS, FRAMES = 8, 64
LONG_FRAMES, LONG_PART = 2000, 200
DRAWN = 16
"""People whose pictures measure the autoencoder."""
HELD_OUT = 700_000_000
"""Added to the seed: training draws its people from other seeds."""
VAE_PSNR, PSNR, PSNR_GAIN, LANDMARK_ERROR, FOUND, CORRELATION_LOSS, LONG_CHANGE = (
    34.0,
    24.0,
    4.0,
    0.06,
    0.98,
    0.05,
    0.10,
)
TRUTH_CORRELATION = {"yaw": 0.95, "pitch": 0.95, "roll": 0.95, "mouth": 0.95, "blink": 0.9}


@dataclass(frozen=True)
class Pair:
    """A reference, a driver's track, and the true result."""

    person: Identity
    driver: Identity
    rest: Motion
    track: Motion
    """`[1, F]`"""
    target: Motion
    """The track as the reference follows it (docs/reference/model.md section 9.3), `[1, F]`."""

    @property
    def labels(self) -> dict[str, npt.NDArray[np.float32]]:
        """What the driver does, per signal."""
        names = {"mouth": "mouth_open"}
        return {name: getattr(self.track, names.get(name, name))[0].numpy() for name in SIGNALS}


def make_pair(seed: int, frames: int, itself: bool) -> Pair:
    """People and motion by seed; with `itself`, the reference is the driver's own person."""
    generator = torch.Generator().manual_seed(HELD_OUT + seed)
    people = sample_identities(2, generator)
    rest = sample_motions(1, generator)
    calm = {name: value * (1.0 if name == "scale" else 0.4) for name, value in vars(rest).items()}
    rest = Motion(**calm).replace(blink=torch.zeros(1))
    track = sample_tracks(1, frames, generator)
    return Pair(people[:1], people[:1] if itself else people[1:], rest, track, taken_over(track, rest))


def animate_pair(
    model: PersonaLive, pair: Pair, folder: Path, seed: int, places: Tensor | None = None
) -> tuple[Pictures, Pictures]:
    """Animate through files: the reference `[H, W, 3]`, and the frames of the result as a player shows them.

    Args:
        places: the track's frames in the order in which they are shown; None: each once.
    """
    size = model.config.size
    still = pictures(pair.person, Motion(**{name: value[:, None] for name, value in vars(pair.rest).items()}), size)[0]
    Image.fromarray(still).save(folder / "reference.png")
    driver = pictures(pair.driver, pair.track, size)
    write_video(folder / "driver.mp4", driver if places is None else driver[places.numpy()])
    options = AnimateOptions(max_frames=0, seed=seed, crop="none", overwrite=True)
    for _ in animate(model, folder / "reference.png", folder / "driver.mp4", folder / "output.mp4", options):
        pass
    return still, np.stack(list(read_frames(probe(folder / "output.mp4"))))


def score(reader: FaceReader, pair: Pair, still: Pictures, output: Pictures, truth: Pictures) -> Scores:
    """All figures of one animation."""
    seen: list[Reading | None] = [reader.read(picture) for picture in output]
    true: list[Reading | None] = [reader.read(picture) for picture in truth]
    return Scores(
        psnr=psnr(output, truth),
        psnr_unmoved=psnr(np.broadcast_to(still, truth.shape), truth),
        landmarks=landmark_error(seen, true),
        found=sum(reading is not None for reading in seen) / len(seen),
        correlation=correlation(seen, pair.labels),
        correlation_truth=correlation(true, pair.labels),
        colours=colour_distance(still, reader.read(still), output, seen),
        flicker=flicker(output, truth),
    )


def autoencoder_psnr(model: PersonaLive, seed: int) -> float:
    """Drawn people through the VAE and back, in dB."""
    generator = torch.Generator().manual_seed(HELD_OUT + seed)
    drawn = render(sample_identities(DRAWN, generator), sample_motions(DRAWN, generator), model.config.size)
    with torch.inference_mode():
        again = torch.cat([model.networks.decode(model.networks.encode_image(part)).cpu() for part in drawn.split(4)])
    square = ((again - (drawn / 2 + 0.5)) ** 2).mean(dim=(1, 2, 3))
    return float((-10 * square.log10()).mean())


def evaluate(model: PersonaLive, seed: int, pairs: int = PAIRS, frames: int = FRAMES) -> dict[str, Any]:
    """Cross- and self-reenactment.

    Returns:
        `{"vae_psnr": ..., "cross": [scores of each pair], "self": [...]}` as plain values.
    """
    reader = FaceReader()
    result: dict[str, Any] = {"seed": seed, "vae_psnr": autoencoder_psnr(model, seed)}
    for kind in ("cross", "self"):
        result[kind] = []
        for index in tqdm(range(pairs), desc=kind, disable=None):
            pair = make_pair(seed * 1000 + index, frames, kind == "self")
            with tempfile.TemporaryDirectory() as folder:
                still, output = animate_pair(model, pair, Path(folder), index)
            truth = pictures(pair.person, pair.target, model.config.size)
            result[kind].append(asdict(score(reader, pair, still, output, truth)))
    return result


def evaluate_long(model: PersonaLive, seed: int) -> dict[str, Any]:
    """One long animation: figures of its first and of its last frames.

    The driver plays a quarter of that many frames back and forth, twice. So the last frames show what the first ones
    show, in reverse, and only the length of the animation can make a difference.
    """
    turn = LONG_FRAMES // 4
    places = torch.arange(LONG_FRAMES) % (2 * turn)
    places = torch.minimum(places, 2 * turn - places)
    pair = make_pair(seed * 1000 + 999, turn + 1, itself=False)
    reader = FaceReader()
    with tempfile.TemporaryDirectory() as folder:
        still, output = animate_pair(model, pair, Path(folder), seed, places)
    result = {}
    for name, chosen in (("first", slice(0, LONG_PART)), ("last", slice(LONG_FRAMES - LONG_PART, LONG_FRAMES))):
        seen = places[chosen]
        cut = Pair(pair.person, pair.driver, pair.rest, pair.track[:, seen], pair.target[:, seen])
        truth = pictures(pair.person, cut.target, model.config.size)
        result[name] = asdict(score(reader, cut, still, output[chosen], truth))
    return result


def checks(result: dict[str, Any]) -> list[tuple[str, float, str, bool]]:
    """Every figure with its threshold: name, value, what is required, and whether it is reached."""
    rows = [("VAE PSNR, dB", result["vae_psnr"], f">= {VAE_PSNR}", result["vae_psnr"] >= VAE_PSNR)]
    cross = result["cross"]

    def mean(name: str, key: str | None = None, scores: Sequence[dict[str, Any]] = cross) -> float:
        return float(np.mean([entry[name] if key is None else entry[name][key] for entry in scores]))

    value, gain, place, found = mean("psnr"), mean("psnr") - mean("psnr_unmoved"), mean("landmarks"), mean("found")
    rows += [
        ("PSNR, dB", value, f">= {PSNR}", value >= PSNR),
        ("PSNR over the unmoved reference, dB", gain, f">= {PSNR_GAIN}", gain >= PSNR_GAIN),
        ("landmark error / eye distance", place, f"<= {LANDMARK_ERROR}", place <= LANDMARK_ERROR),
        ("faces found", found, f">= {FOUND}", found >= FOUND),
    ]
    for name in SIGNALS:
        output, truth = mean("correlation", name), mean("correlation_truth", name)
        least = TRUTH_CORRELATION[name]
        rows.append((f"{name}, correlation on true frames", truth, f">= {least}", truth >= least))
        rows.append(
            (
                f"{name}, correlation on output",
                output,
                f">= {truth - CORRELATION_LOSS:.3f}",
                output >= truth - CORRELATION_LOSS,
            )
        )
    for name in ("skin", "hair", "background"):
        rows.append((f"{name}, distance of colour of 255", mean("colours", name), "", True))
    rows.append(("flicker, relative to the truth", mean("flicker"), "", True))
    rows.append(("PSNR driving itself, dB", mean("psnr", None, result["self"]), "", True))
    if "long" in result:
        rows += _long_checks(result["long"])
    return rows


def _long_checks(result: dict[str, Any]) -> list[tuple[str, float, str, bool]]:
    rows = []
    first, last = result["first"], result["last"]
    # By how much worse than in the first frames: for errors, more is worse; for everything else, less.
    changes = {name: (first[name] - last[name]) / first[name] for name in ("psnr", "found")}
    changes |= {name: (last[name] - first[name]) / first[name] for name in ("landmarks", "flicker")}
    for name, value in first["correlation"].items():
        changes[name] = (value - last["correlation"][name]) / max(abs(value), 1e-6)
    for name, change in changes.items():
        rows.append((f"long run, {name} worse by", change, f"<= {LONG_CHANGE}", change <= LONG_CHANGE))
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, write JSON; 0 if every threshold is reached."""
    parser = argparse.ArgumentParser(prog="python -m personalive.training.evaluate", description="Judge a model.")
    parser.add_argument("--seed", type=int, default=0, help="seed of people, motion and noise")
    parser.add_argument("--model", default="demo", help='"demo" or a folder')
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--frames", type=int, default=FRAMES)
    parser.add_argument("--device", help="default: the GPU if there is one")
    parser.add_argument("--long", action="store_true", help=f"add one animation of {LONG_FRAMES} frames")
    parser.add_argument("--json", type=Path, help="file for all figures")
    parser.add_argument("--photos", action="store_true", help="photographs that are moved by a warp, not drawn people")
    parser.add_argument("--baseline", type=Path, help="with --photos: figures of the model that must be halved")
    parser.add_argument("--sheet", type=Path, help="with --photos: file for a picture of drivers and outputs")
    args = parser.parse_args(arguments)
    if not args.photos and (args.baseline is not None or args.sheet is not None):
        parser.error("--baseline and --sheet go with --photos")
    baseline = None if args.baseline is None else json.loads(args.baseline.read_text())
    model = PersonaLive.from_pretrained(args.model, device=args.device)
    if args.photos:
        result = evaluate_photos(model, args.seed, args.frames, args.sheet)
        rows = checks_photos(result, baseline)
    else:
        result = evaluate(model, args.seed, args.pairs, args.frames)
        if args.long:
            result["long"] = evaluate_long(model, args.seed)
        rows = checks(result)
    for name, value, wanted, reached in rows:
        print(f"{name:40} {value:8.3f}  {wanted:10} {'' if not wanted else 'ok' if reached else 'MISSED'}")
    if args.json is not None:
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0 if all(reached for *_, reached in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
