"""The driving video's sound in the result: which part of it, and how ffmpeg adds it."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from personalive.media.encoding import Kind
from personalive.media.video_reader import CONTAINERS, VideoInfo

LATE_PICTURE = Fraction(1, 10)
"""Seconds by which sound may begin before the picture and be kept; longer leads are cut away."""


@dataclass(frozen=True)
class Sound:
    """A part of a video's sound."""

    source: VideoInfo
    """A video that has sound."""
    start: Fraction = Fraction(0)
    """Seconds from the video's first frame on."""
    duration: Fraction | None = None
    """Seconds of the part; None: to the end."""
    passes: int = 1
    """How often the part is heard."""


def join_arguments(kind: Kind, picture: Path, sound: Sound, duration: Fraction) -> list[str]:
    """ffmpeg's arguments, except for the output's name, that add sound to a finished picture of this duration."""
    source = sound.source
    # The driving video's clock starts with its first packet, ours with its first frame.
    early = source.start + sound.start
    shift = ["-ss", f"{float(early):.6f}"] if early > LATE_PICTURE else ["-itsoffset", f"{-float(early):.6f}"]
    guarded = ["-protocol_whitelist", "file", "-format_whitelist", CONTAINERS]
    whole = sound.start == 0 and sound.passes == 1
    codec = ["copy"] if whole and source.sound in kind.copied_sound else kind.sound
    return [
        *("-hide_banner", "-loglevel", "error", "-y", "-i", f"file:{picture}"),
        *shift,
        *guarded,
        *("-i", f"file:{source.path}", "-map", "0:v:0", "-map", "1:a:0", *_repeated(sound)),
        *("-c:v", "copy", "-c:a", *codec),
        *("-t", f"{float(duration):.6f}", "-map_metadata", "0", "-map_chapters", "-1"),
        *kind.muxer,
    ]


def _repeated(sound: Sound) -> list[str]:
    """A filter that plays the part several times, each time as long as its picture."""
    if sound.passes == 1 or sound.duration is None:
        return []
    part = f"{float(sound.duration):.6f}"
    once = f"aresample=async=1:first_pts=0,apad=whole_dur={part},atrim=duration={part}"
    return ["-filter:a", f"{once},aloop=loop={sound.passes - 1}:size={2**31 - 1}"]
