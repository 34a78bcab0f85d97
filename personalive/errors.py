"""The errors that this package raises on purpose.

Every message says what was wrong, with which value, and what to do about it. An adapter (command line, Cog, live
server) may show the message to its user as it is. Any other error that escapes is a defect.
"""

from collections.abc import Sequence


class PersonaLiveError(Exception):
    """Base of every error that a user can cause or fix."""


class InputError(PersonaLiveError):
    """An image, a video or a parameter cannot be used."""


class NoFaceError(InputError):
    """A picture that must show a face shows none."""


class FaceTooSmallError(NoFaceError):
    """The face in a picture has too few pixels to be animated."""


class OutputError(PersonaLiveError):
    """The result cannot be written where it was asked for."""


class WeightsError(PersonaLiveError):
    """A weights file is missing, damaged, unsafe, or does not belong to the network it was given for."""


class DeviceMemoryError(PersonaLiveError):
    """The device has too little memory for the request."""


class MissingExtraError(PersonaLiveError):
    """Something was requested whose packages are not installed."""


def first_line(error: BaseException) -> str:
    """An error's text for a message of ours: one line of at most 200 characters, or its name if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def check_choice(name: str, value: object, choices: Sequence[object]) -> None:
    """Refuse a value that is none of some.

    Raises:
        InputError: it names them.
    """
    if value not in choices:
        raise InputError(f"{name} is {value!r}: choose one of {', '.join(map(str, choices))}")
