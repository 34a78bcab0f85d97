"""Inputs that are fetched: in a temporary folder while they are used, and called by their addresses in messages."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from personalive.errors import PersonaLiveError
from personalive.media.held_folder import HeldFolder
from personalive.media.url_fetch import fetch
from personalive.net.addresses import private_addresses_allowed

PREFIX = "personalive-inputs-"
SHOWN = 200
"""The most characters of an address in a message."""


class FetchedInputs:
    """Fetches inputs, under the same rules wherever their addresses come from; see `fetched_inputs`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names: dict[str, str] = {}

    def fetch(self, url: str, what: str) -> Path:
        """The file for an input that is given as an address or, by a client, inline.

        Args:
            url: `http:`, `https:` or `data:`.
            what: its role, such as "the reference".

        Raises:
            InputError: see `url_fetch.fetch`.
        """
        path = self.place(what)
        if url.lower().startswith("http"):
            self._names[str(path)] = url[:SHOWN]
        return fetch(url, path, allow_private=private_addresses_allowed())

    def place(self, what: str, name: str = "", suffix: str = "") -> Path:
        """Where to store an input that is fetched in another way.

        Args:
            what: its role, such as "the reference".
            name: what messages call it.
            suffix: of the file, such as `.motion`.
        """
        path = self._folder / f"{what.removeprefix('the ').replace(' ', '_')}{suffix}"
        self._names[str(path)] = name[:SHOWN] or path.name
        return path

    def named(self, text: str) -> str:
        """A message with addresses in the place of temporary files."""
        for path, name in self._names.items():
            text = text.replace(path, name)
        return text

    def filter(self, record: logging.LogRecord) -> bool:
        """Change a log record in the same way; every record passes."""
        if self._names:
            record.msg, record.args = self.named(record.getMessage()), None
        return True


@contextlib.contextmanager
def fetched_inputs(parent: str | None = None) -> Iterator[FetchedInputs]:
    """Inputs that are there while the context lasts; its errors and its log call them by their addresses.

    Args:
        parent: the folder for the temporary one; None: the system's.
    """
    handlers = list(logging.getLogger().handlers)
    with HeldFolder(PREFIX, parent) as folder:
        inputs = FetchedInputs(folder.path)
        for handler in handlers:
            handler.addFilter(inputs)
        try:
            yield inputs
        except PersonaLiveError as error:
            raise type(error)(inputs.named(str(error))) from error
        finally:
            for handler in handlers:
                handler.removeFilter(inputs)
