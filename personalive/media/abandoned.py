"""Remove what killed programs left behind: files and folders that are locked as long as somebody needs them."""

import fcntl
import logging
import os
from collections.abc import Callable
from pathlib import Path

logger = logging.getLogger(__name__)


def remove_unless_held(path: Path, remove: Callable[[Path], None]) -> None:
    """Call `remove` for this user's file or folder, if no process holds a lock on it. Never follows a link."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:  # gone, a link, or another user's
        return
    try:
        if os.fstat(descriptor).st_uid == os.getuid():
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove(path)
            logger.info("removed %s, which a program that was killed had left", path)
    except OSError:  # held, or it cannot be removed
        pass
    finally:
        os.close(descriptor)
