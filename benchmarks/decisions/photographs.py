"""How often photographs and drawn faces are told apart (`personalive.media.photograph`).

    python -m benchmarks.decisions.photographs --output benchmarks/results/photographs.json [PICTURE ...]

Photographs are those with a face that installed packages ship, and the pictures that are named. Drawn faces are
`--count` of `training.avatars`, with every style of hair. Both are also counted after a codec, a scaling, and
a camera's noise. Not counted are the 100 faces of scikit-image's `lfw_subset`: they have 25 pixels, fewer than
`animate` takes.
"""

import argparse
import io
import logging
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.measuring import Results
from personalive.errors import PersonaLiveError
from personalive.media.crop import cut, within
from personalive.media.images import read_image
from personalive.media.photograph import is_photograph, texture
from personalive.media.portrait import PortraitFinder
from personalive.training.avatars.identity import HAIR_STYLES
from personalive.training.evaluate import HELD_OUT
from personalive.training.shots import to_pixels
from personalive.training.sources import Avatars
from personalive.types import Box, RGBArray

log = logging.getLogger("benchmarks")
SHIPPED = {
    "skimage": "data/*.[jp][pn]g",
    "matplotlib": "mpl-data/sample_data/*.jpg",
    "sklearn": "datasets/images/*.jpg",
}
MOST_FACES = 6
"""Looked at in one photograph."""
SHAPE = 512, 512
NOISE = 2.5
"""Levels: what training adds."""


def jpeg(image: RGBArray, quality: int) -> RGBArray:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def scaled(image: RGBArray, factor: float) -> RGBArray:
    size = round(image.shape[1] * factor), round(image.shape[0] * factor)
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def noisy(image: RGBArray) -> RGBArray:
    noise = np.random.default_rng(0).normal(0, NOISE, image.shape)
    return (image + noise).round().clip(0, 255).astype(np.uint8)


WAYS: dict[str, Callable[[RGBArray], RGBArray]] = {
    "as they are": lambda image: image,
    "JPEG 85": lambda image: jpeg(image, 85),
    "JPEG 50": lambda image: jpeg(image, 50),
    "twice as large": lambda image: scaled(image, 2),
    "twice as large, JPEG 85": lambda image: jpeg(scaled(image, 2), 85),
    "twice as large, with noise": lambda image: noisy(scaled(image, 2)),
}


def photographs(named: list[Path]) -> Iterator[tuple[str, RGBArray, Box]]:
    """Portraits as `animate` crops them: name, picture, face."""
    paths = [*named]
    for package, pattern in SHIPPED.items():
        spec = find_spec(package)
        for place in (spec.submodule_search_locations or []) if spec else []:
            paths += sorted(Path(place).glob(pattern))
    for path in paths:
        places: set[bytes] = set()
        for number in range(1, MOST_FACES + 1):
            try:
                with PortraitFinder(str(number)) as finder:
                    found = finder.find(read_image(path), SHAPE, "auto")
            except PersonaLiveError as error:
                log.info("%s: %s", path.name, error)
                break
            if found is None or found.box is None or found.place.round().tobytes() in places:
                break
            places.add(found.place.round().tobytes())
            yield f"{path.name}, face {number}", found.image, found.box


def drawn(count: int) -> Iterator[tuple[str, RGBArray, Box]]:
    shots = Avatars(256, torch.device("cpu")).portraits(count, HELD_OUT)
    for number, (image, box) in enumerate(zip(to_pixels(shots.images[:, 0]), shots.boxes[:, 0].tolist(), strict=True)):
        left, top, right, bottom = (round(edge) for edge in box)
        yield f"drawn {number}", image, (left, top, right, bottom)


def count(faces: list[tuple[str, RGBArray, Box]], change: Callable[[RGBArray], RGBArray]) -> dict[str, float]:
    values, taken = [], 0
    for _, image, (left, top, right, bottom) in faces:
        changed = change(image)
        factor = changed.shape[1] / image.shape[1]
        box = round(left * factor), round(top * factor), round(right * factor), round(bottom * factor)
        taken += is_photograph(changed, box)
        values.append(texture(cut(changed, within(box, (0, 0, changed.shape[1], changed.shape[0])))))
    return {
        "faces": len(values),
        "taken for photographs": taken,
        "least texture": round(min(values), 2),
        "median texture": round(float(np.median(values)), 2),
        "most texture": round(max(values), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", nargs="*", type=Path)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/photographs.json"))
    parser.add_argument("--count", type=int, default=50 * len(HAIR_STYLES))
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    results = Results(options.output)
    taken, made = list(photographs(options.pictures)), list(drawn(options.count))
    results.add("names of the photographs", [name for name, _, _ in taken])
    for way, change in WAYS.items():
        results.add(f"photographs, {way}", count(taken, change))
        results.add(f"drawn, {way}", count(made, change))


if __name__ == "__main__":
    main()
