"""Filters log chatter that native libraries write to standard error."""

import contextlib
import os
import re
import sys
import threading
from collections.abc import Iterator

CHATTER = re.compile(
    rb"^(?:[WI]\d{4} \d\d:\d\d:\d\d|[WI]0000 00:00:\d|INFO: Created TensorFlow Lite|"
    rb"WARNING: All log messages before absl::InitializeLog)"
)
"""Beginnings of glog and absl lines below the level of errors, in which mediapipe talks about itself."""


@contextlib.contextmanager
def without_chatter() -> Iterator[None]:
    """Drop such lines while the context lasts; everything else passes, and Python's own output is not touched.

    mediapipe writes to the file descriptor itself, before any of its settings count, so there is no gentler way.
    """
    sys.stderr.flush()
    real = os.dup(2)
    source, sink = os.pipe()
    os.dup2(sink, 2)
    os.close(sink)
    before = sys.stderr
    sys.stderr = os.fdopen(os.dup(real), "w", buffering=1, encoding=before.encoding, errors=before.errors)
    reader = threading.Thread(target=_pass_on, args=(source, real), name="native log", daemon=True)
    reader.start()
    try:
        yield
    finally:
        sys.stderr.flush()
        sys.stderr = before  # the other one stays open for the log's handlers
        os.dup2(real, 2)  # closes the pipe's last end
        reader.join(timeout=1)
        os.close(real)


def _pass_on(source: int, target: int) -> None:
    with os.fdopen(source, "rb") as lines:
        for line in lines:
            if not CHATTER.match(line):
                os.write(target, line)
