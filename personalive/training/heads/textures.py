"""Pictures without people that packages ship, as textures and backgrounds.

The list is closed: nothing else is ever opened, and above all not the photographs of people that judge a model
(scikit-image's astronaut and lfw_subset, matplotlib's Grace Hopper). tests/test_heads.py holds it to that.
"""

import importlib.util
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from personalive.errors import InputError

PICTURES = {
    "brick.png": "CC0 (CC0Textures)",
    "grass.png": "CC0 (as its documentation states)",
    "gravel.png": "CC0 (CC0Textures)",
    "chelsea.png": "CC0 (Stéfan van der Walt): a cat",
    "coffee.png": "CC0 (Rachel Michetti): a cup of coffee",
    "rocket.jpg": "public domain (SpaceX): a rocket on its launch pad",
    "hubble_deep_field.jpg": "public domain (NASA)",
    "retina.jpg": "CC0 (Häggström, WikiJournal of Medicine): a retina",
    "cell.png": "CC0 (as its documentation states): a cell under a microscope",
    "ihc.png": "no known restrictions (University of Bristol): stained tissue",
}
"""Files of scikit-image's package that are read, with the licence that its documentation states."""
SIDE = 192


def read_textures(count: int, seed: int) -> tuple[npt.NDArray[np.uint8], list[str]]:
    """`count` random squares `[count, 192, 192, 3]` of the pictures, each scaled at random, and their files' names.

    Raises:
        InputError: scikit-image is not installed.
    """
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise InputError("the pictures come with scikit-image: pip install -r requirements-dev.txt")
    folder, random = Path(spec.origin).parent / "data", np.random.default_rng(seed)
    names = [name for name in PICTURES if (folder / name).exists()]
    squares, sources = [], []
    for index in range(count):
        name = names[index % len(names)]
        with Image.open(folder / name) as opened:
            picture = opened.convert("RGB")
        side = int(min(picture.size) * random.uniform(0.4, 1.0))
        left, top = (int(random.integers(0, full - side + 1)) for full in picture.size)
        cut = picture.crop((left, top, left + side, top + side)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        squares.append(np.array(cut))
        sources.append(name)
    return np.stack(squares), sources
