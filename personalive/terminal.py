"""What is written for people on a terminal: file names and other text from outside cannot command it."""

import logging
import sys
import unicodedata

CONTROLS = ("Cc", "Cs", "Zl", "Zp")
"""Unicode's categories of characters that command a terminal, cannot be written, or end a line."""
TURNS = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
"""Classes of those that turn the direction of what follows, so that a name is read as another."""


def visible(text: str) -> str:
    """The text with such characters as Python's escapes, such as `\\x1b`; its line breaks stay."""
    return text if text.isprintable() else "".join(_escaped(each) if _commands(each) else each for each in text)


def _commands(character: str) -> bool:
    return character != "\n" and (
        unicodedata.category(character) in CONTROLS or unicodedata.bidirectional(character) in TURNS
    )


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


class VisibleFormatter(logging.Formatter):
    """Log lines, and tracebacks in them, as above."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        return visible(super().format(record))


def log_for_people() -> None:
    """Let this process log to the standard error, with only what matters from libraries."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(VisibleFormatter("%(levelname)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
