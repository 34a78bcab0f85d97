"""Files that come with the package: the small model, and a portrait and a driving video to try it with."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def _folder(name: str) -> Path:
    """A folder at the top of the repository. A wheel has it inside the package (setup.py), under the same name."""
    inside = _PACKAGE / name
    return inside if inside.is_dir() else _PACKAGE.parent / name


DEMO_MODEL = _folder("weights/demo")
"""The small model, a folder of this package's own format."""
DEMO_PORTRAIT = _folder("demo") / "portrait.png"
DEMO_DRIVER = _folder("demo") / "driver.mp4"
DEMO_MOTIONS = _folder("demo") / "motions"
"""Motion files for the small model."""
