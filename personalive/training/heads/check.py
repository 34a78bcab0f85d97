"""Counts in how many pictures of heads mediapipe finds a face, and how well it reads them; and a sheet to look at.

python -m personalive.training.heads.check heads.npz --count 200 --sheet sheet.png
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from personalive.training.avatars.motion import sample_motions
from personalive.training.heads.identity import sample_heads
from personalive.training.heads.model import load_heads
from personalive.training.heads.render import HeadRenderer
from personalive.training.measure import FaceReader, Reading
from personalive.training.scores import SIGNALS, Pictures, correlation
from personalive.training.shots import to_pixels

FOUND = 0.98
BATCH = 4


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the share of faces found, and correlations; 1 if fewer than 98 % are found."""
    parser = argparse.ArgumentParser(prog="python -m personalive.training.heads.check", description="Count faces.")
    parser.add_argument("heads", type=Path, help="file that heads.bake wrote")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--size", type=int, default=256, help="pixels of a side")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--absurd", action="store_true", help="people as training sees them, not only plausible ones")
    parser.add_argument("--sheet", type=Path, help="file for the pictures; those without a face have a red edge")
    args = parser.parse_args(arguments)
    generator = torch.Generator().manual_seed(args.seed)
    model = load_heads(args.heads, torch.device("cpu"))
    sizes = (len(model.shapes), len(model.unit_names), len(model.textures))
    people = sample_heads(args.count, generator, *sizes, plausible=not args.absurd)
    motion = sample_motions(args.count, generator)
    renderer, reader = HeadRenderer(model, args.size), FaceReader()
    pictures: list[Pictures] = []
    seen: list[Reading | None] = []
    for rows in tqdm(torch.arange(args.count).split(BATCH), disable=None):
        drawn = to_pixels(renderer.render(people[rows], motion[rows]))
        pictures.extend(drawn)
        seen.extend(reader.read(picture) for picture in drawn)
    found = sum(reading is not None for reading in seen) / args.count
    print(f"found {found:.3f} of {args.count}, at least {FOUND}")
    names = {"mouth": "mouth_open"}
    read = correlation(seen, {name: getattr(motion, names.get(name, name)).numpy() for name in SIGNALS})
    print(
        "correlation of what is read with what was drawn:",
        "  ".join(f"{name} {value:.3f}" for name, value in read.items()),
    )
    if args.sheet is not None:
        save_sheet(args.sheet, pictures, [reading is not None for reading in seen])
    return 0 if found >= FOUND else 1


def save_sheet(path: Path, pictures: list[Pictures], good: list[bool]) -> None:
    """All pictures in rows of 8."""
    framed = []
    for picture, fine in zip(pictures, good, strict=True):
        copy = picture.copy()
        if not fine:
            copy[:3] = copy[-3:] = (255, 0, 0)
        framed.append(copy)
    blank = np.zeros_like(framed[0])
    framed += [blank] * (-len(framed) % 8)
    rows = [np.concatenate(framed[start : start + 8], axis=1) for start in range(0, len(framed), 8)]
    Image.fromarray(np.concatenate(rows)).save(path)


if __name__ == "__main__":
    sys.exit(main())
