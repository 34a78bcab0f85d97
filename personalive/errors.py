"""The errors that this package raises on purpose.

Every message says what was wrong, with which value, and what to do about it. An adapter (command line, Cog, live
server) may show the message to its user as it stands; whatever else escapes is a defect.
"""


class PersonaLiveError(Exception):
    """Base of every error that a user can cause or mend."""


class InputError(PersonaLiveError):
    """An image, a video or a parameter can not be used."""


class NoFaceError(InputError):
    """A picture that must show a face shows none."""


class OutputError(PersonaLiveError):
    """The result can not be written where it was asked for."""


class WeightsError(PersonaLiveError):
    """A weights file is missing, damaged, unsafe, or does not belong to the network it was given for."""


class DeviceMemoryError(PersonaLiveError):
    """The device has too little memory for the request."""


class MissingExtraError(PersonaLiveError):
    """Something was asked for whose packages are not installed."""


class CancelledError(PersonaLiveError):
    """The caller asked for the work to stop, and it stopped between two chunks."""


def first_line(error: BaseException) -> str:
    """What any error says, for a message of ours: one line, 200 characters at most, or its name if it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
