"""Files as people name them on a command line or in a list: paths of this system, of Windows in WSL, and addresses."""

import logging
import re
from pathlib import Path

from personalive.errors import InputError
from personalive.media.fetched import FetchedInputs

logger = logging.getLogger(__name__)

ADDRESS = re.compile(r"^[a-z][a-z0-9+.-]+://", re.IGNORECASE)
WINDOWS = re.compile(r"^([A-Za-z]):[\\/](.*)$")


def open_input(text: str, what: str, inputs: FetchedInputs) -> Path:
    """The file that a user named; one on the web is fetched, under the same rules as for requests from outside.

    Args:
        text: as typed.
        what: its role, for messages.
        inputs: fetches it.

    Raises:
        InputError: nothing, or an address that may not be fetched, or cannot be.
    """
    if not text:
        raise InputError(f"{what} is empty: give a path or an http(s) address")
    if text.lower().startswith(("http://", "https://")):
        logger.info("fetching %s", text)
        return inputs.fetch(text, what)
    if ADDRESS.match(text):
        scheme = text.split(":", 1)[0]
        raise InputError(f"{what} {text!r}: {scheme} addresses are not read here; give a path, or an http(s) address")
    return from_windows(text, what)


def from_windows(text: str, what: str) -> Path:
    """A path, which may be written as in Windows if WSL can see it.

    Raises:
        InputError: it is a Windows path that cannot be seen here.
    """
    found = WINDOWS.match(text)
    if found is None or Path(text).exists():
        return Path(text)
    mounted = Path("/mnt", found[1].lower(), *re.split(r"[\\/]+", found[2]))
    if mounted.exists():
        return mounted
    raise InputError(
        f"{what} {text!r} is a Windows path, which cannot be seen here; in WSL, the files of drive {found[1].upper()}: "
        f"are under /mnt/{found[1].lower()} (this one would be {mounted})"
    )
