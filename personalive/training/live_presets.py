"""Makes the portraits that the live page offers: drawn people, in `personalive/live/http/static/presets`.

python -m personalive.training.live_presets [folder]
"""

import sys
from pathlib import Path

import torch
from PIL import Image

from personalive.training.avatars import neutral, render, sample_identities
from personalive.training.shots import to_pixels

SIZE = 512
SEEDS = {"Ada": 3, "Bruno": 6, "Carla": 25, "Dario": 26, "Edda": 15, "Femi": 19, "Gus": 17, "Hana": 33}
"""Names, which screen readers read out, and the seeds of the people who have them."""
FOLDER = Path(__file__).parents[1] / "live" / "http" / "static" / "presets"


def main(folder: Path) -> None:
    """Write every portrait as WebP."""
    folder.mkdir(parents=True, exist_ok=True)
    rest = neutral(1).replace(smile=torch.tensor([0.3]))
    for name, seed in SEEDS.items():
        person = sample_identities(1, torch.Generator().manual_seed(seed))
        Image.fromarray(to_pixels(render(person, rest, SIZE)[0])).save(folder / f"{name}.webp", quality=90, method=6)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
