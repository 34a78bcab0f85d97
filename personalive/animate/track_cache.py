"""Where faces were found in a video, kept for the next run with it, in a folder of its own."""

import contextlib
import hashlib
import json
import os
import tempfile
from pathlib import Path

from personalive.media.content_digest import content_digest
from personalive.media.face_track import FaceTrack
from personalive.user_cache import cache_folder

VERSION = 2
"""Version of the format and of the search; tracks of other versions are not read."""
KEPT = 200
"""The most tracks that are kept; the oldest are removed."""


def default_folder() -> Path:
    """Where tracks are kept: with the other files that this package can recreate."""
    return cache_folder("faces")


def track_path(folder: Path, video: Path, search: str) -> Path:
    """Where the track of a video is kept.

    Args:
        folder: of the cache.
        video: its file, of which only the content counts: a copy, or the same video fetched again, has the same track.
        search: what else the track depends on: the frames that are used, and which face.
    """
    return folder / f"{_key(video, search)}.json"


def _key(video: Path, search: str) -> str:
    return hashlib.sha256(f"{VERSION} {content_digest(video)} {search}".encode()).hexdigest()[:40]


def read_track(path: Path) -> FaceTrack | None:
    """The track that is stored there, or None."""
    try:
        stored = json.loads(path.read_text())
        boxes = tuple(None if box is None else (box[0], box[1], box[2], box[3]) for box in stored["boxes"])
        absences = {int(frame): reason for frame, reason in stored["absences"].items()}
        cuts, most, neutral = tuple(stored["cuts"]), int(stored["most_faces"]), int(stored["neutral"])
        track = FaceTrack(boxes, absences, cuts, most, neutral)
        os.utime(path)
    except (OSError, ValueError, TypeError, LookupError):  # none, or a damaged one
        return None
    return track


def write_track(path: Path, track: FaceTrack) -> None:
    """Store a track if possible; nothing depends on it."""
    stored = {
        "boxes": track.boxes,
        "absences": track.absences,
        "cuts": track.cuts,
        "most_faces": track.most_faces,
        "neutral": track.neutral,
    }
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".new", delete=False) as file:
            json.dump(stored, file)
        Path(file.name).replace(path)
        kept = sorted(path.parent.glob("*.json"), key=lambda each: each.stat().st_mtime)
        for old in kept[:-KEPT]:
            old.unlink(missing_ok=True)
