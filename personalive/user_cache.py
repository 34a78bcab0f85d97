"""Where this package keeps what it can recreate: with the weights' cache, as users know and move that folder."""

import os
from pathlib import Path


def cache_folder(kind: str) -> Path:
    """The folder for one kind of files; it may not exist yet."""
    cache = (
        os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface"
    )
    return Path(cache) / "personalive" / kind


def can_be_kept(kind: str) -> bool:
    """Whether files of a kind can be written: the folder is made if it does not exist yet."""
    folder = cache_folder(kind)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)
