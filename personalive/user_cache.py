"""Where this package keeps what it can recreate: with the weights' cache, as users know and move that folder."""

import os
from pathlib import Path


def cache_folder(kind: str) -> Path:
    """The folder for one kind of files; it may not exist yet."""
    cache = (
        os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface"
    )
    return Path(cache) / "personalive" / kind
