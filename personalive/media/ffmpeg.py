"""The ffmpeg program, which writes results."""

from personalive.errors import OutputError


def find_ffmpeg() -> str:
    """The ffmpeg to use: the one that comes with imageio-ffmpeg, or the system's if there is none.

    Raises:
        OutputError: there is none.
    """
    import imageio_ffmpeg  # imported here, so that the rest of the package works without it

    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError as error:
        raise OutputError("no ffmpeg was found to write the result; install the package ffmpeg") from error
