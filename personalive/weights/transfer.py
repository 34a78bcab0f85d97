"""Downloads that continue where they stopped and report their progress."""

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from personalive.errors import WeightsError
from personalive.weights.source import format_size


def network_errors(client_error: type[Exception]) -> tuple[type[Exception], ...]:
    """The errors of a network that is gone, refuses or breaks.

    Args:
        client_error: that of the hub client. It descends from the error of the HTTP library below it, which is another
            library in each major version of the client.
    """
    # Python's own are too wide: where one of its ancestors is Exception, any defect would count as a broken connection.
    return (
        OSError,
        *(each for each in client_error.__mro__ if issubclass(each, Exception) and each.__module__ != "builtins"),
    )


NETWORK_ERRORS = network_errors(HfHubHTTPError)
_BROKEN: tuple[type[Exception], ...] = (*NETWORK_ERRORS, RuntimeError, HFValidationError)
"""RuntimeError: of the hub's Xet transfer."""

logger = logging.getLogger(__name__)

_FAILURES = 3
"""Broken connections in a row without progress after which a download is given up."""
_PAUSE_SECONDS = 0.5
_LOG_SECONDS = 10.0


def persist(download: Callable[[], Path], partial: Path, label: str, size: int | None) -> Path:
    """Repeat a resumable download until it is done or several attempts in a row make no progress.

    The hub client itself repeats after a timeout, but not when a connection breaks within a file.

    Args:
        partial: what has come so far.
        label: how messages call the file.
        size: of the whole file, in bytes.

    Raises:
        WeightsError: the connection kept breaking, or the file was refused.
    """
    failures = 0
    while True:
        before = _size(partial)
        try:
            with _log_progress(partial, label, size):
                return download()
        except _BROKEN as error:
            failures = 1 if _size(partial) > before else failures + 1
            refused = getattr(getattr(error, "response", None), "status_code", 500) < 500
            if failures == _FAILURES or refused:
                raise WeightsError(
                    f"the download of {label} stopped at {format_size(_size(partial))} of {format_size(size)}: "
                    f"{error}. Run `personalive download` again: it continues where it stopped."
                ) from error
            logger.warning("%s: the connection broke (%s); continuing where it stopped", label, error)
            time.sleep(_PAUSE_SECONDS)


@contextmanager
def _log_progress(partial: Path, label: str, size: int | None) -> Iterator[None]:
    """Without a terminal, where the hub client draws no bars: log every few seconds how much has arrived."""
    ended = threading.Event()

    def log() -> None:
        while not ended.wait(_LOG_SECONDS):
            logger.info("%s: %s of %s", label, format_size(_size(partial)), format_size(size))

    if not sys.stderr.isatty():
        threading.Thread(target=log, name=f"progress of {label}", daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
