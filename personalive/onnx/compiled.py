"""What OpenVINO compiled, kept in the cache.

OpenVINO computes with whatever it finds in its cache, so one changed bit gives other pictures and no error. It is only
given folders whose files are those that it wrote, and each of them is written by one process.
"""

import contextlib
import hashlib
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from personalive.errors import OutputError
from personalive.media.content_digest import content_digest
from personalive.media.held_folder import HeldFolder
from personalive.user_cache import cache_folder

logger = logging.getLogger(__name__)

DIGESTS = "digests.json"
"""In a folder: the digests of its other files."""
PREFIX = ".personalive-compiling-"

T = TypeVar("T")


def compile_kept(compile_in: Callable[[Path | None], T], *what: object) -> T:
    """Compile something, or read it as it was compiled before.

    Args:
        compile_in: compiles it, with a folder for OpenVINO's cache; None: there is no place for one.
        what: is compiled, and how, and by what.
    """
    kept = cache_folder("openvino") / hashlib.sha256(repr(what).encode()).hexdigest()[:32]
    if _is_whole(kept):
        return compile_in(kept)
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        held = HeldFolder(PREFIX, str(kept.parent))
    except (OSError, OutputError) as error:
        logger.debug("what OpenVINO compiles is not kept: %s", error)
        return compile_in(None)
    with held:
        compiled = compile_in(held.path)
        try:
            (held.path / DIGESTS).write_text(json.dumps(_digests(held.path)), "utf-8")
            held.path.chmod(0o755)
            if not _is_whole(kept):  # else another process was faster
                remove(kept)
                held.path.rename(kept)
        except OSError as error:  # no space is left, or another process was faster by a moment
            logger.debug("what OpenVINO compiled is not kept: %s", error)
    return compiled


def remove(path: Path) -> None:
    """Remove a folder, or whatever else is in its place. Nothing may be there.

    Raises:
        OSError: it cannot be removed.
    """
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _is_whole(folder: Path) -> bool:
    """Whether a folder holds what was written into it, and nothing else."""
    # All of it is read at every start, as a damaged disk changes no date.
    with contextlib.suppress(OSError, ValueError, RecursionError):
        found = _digests(folder)
        return bool(found) and json.loads((folder / DIGESTS).read_text("utf-8")) == found
    return False


def _digests(folder: Path) -> dict[str, str]:
    return {path.name: content_digest(path) for path in folder.iterdir() if path.name != DIGESTS}
