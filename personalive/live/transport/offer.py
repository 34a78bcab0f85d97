"""Checks an offer's SDP before aiortc reads it, which trusts its form and takes seconds for some large ones."""

import re
from dataclasses import dataclass, field

from personalive.errors import InputError

MAX_SDP = 65536
"""The most characters of an offer; browsers' have 3,000 to 15,000."""
MAX_LINES = 1000
"""The most lines of an offer: aiortc compares some kinds with each other."""
MAX_SECTIONS = 8
"""The most media sections of an offer: two are needed, and browsers send few more."""
KINDS = ("video", "audio", "application")
MAX_CANDIDATES = 128
"""The most addresses that one client may name, in its offer and after it."""
MAX_HIDDEN = 16
"""Of these, the most names that have to be looked up in the local network (mDNS)."""

_HIDDEN = re.compile(r"[a-zA-Z0-9-]{1,63}\.local")


class Candidates:
    """Counts the addresses that a client names."""

    def __init__(self, *, local_only: bool) -> None:
        """`local_only`: names in the network are not looked up, since nobody there can connect."""
        self._local_only = local_only
        self._count = 0
        self._hidden = 0

    def admit(self, candidate: str) -> bool:
        """Count one, `foundation component transport priority address port typ …`; return whether to use it.

        Raises:
            InputError: there were too many.
        """
        self._count += 1
        if self._count > MAX_CANDIDATES:
            raise InputError(f"more than {MAX_CANDIDATES} candidates: no client has so many addresses")
        words = candidate.split()
        if len(words) < 5 or not _HIDDEN.fullmatch(words[4]):
            return True
        self._hidden += 1
        return not self._local_only and self._hidden <= MAX_HIDDEN


def checked(sdp: str, candidates: Candidates) -> str:
    """The offer, without candidates that must not be used.

    Raises:
        InputError: it is too large, or has sections that cannot be told apart or have no fingerprint.
    """
    lines = sdp.splitlines() if len(sdp) <= MAX_SDP else []
    if not 0 < len(lines) <= MAX_LINES:
        raise InputError(f"the offer's SDP must have 1 to {MAX_LINES} lines and at most {MAX_SDP} characters")
    _check_sections(lines)
    used = (line for line in lines if not line.startswith("a=candidate:") or candidates.admit(line[12:]))
    return "\r\n".join(used) + "\r\n"


@dataclass
class _Section:
    """The lines before the first media section, or those of a media section."""

    kind: str = ""
    names: list[str] = field(default_factory=list)
    has_fingerprint: bool = False
    bundled: set[str] = field(default_factory=set)


def _check_sections(lines: list[str]) -> None:
    """Each media section must have its own name (`a=mid`), and bundled names must be among them."""
    session, *media = _sections(lines)
    if len(media) > MAX_SECTIONS:
        raise InputError(f"the offer has more than {MAX_SECTIONS} media sections")
    for section in media:
        if section.kind not in KINDS:
            raise InputError(f"a media section of the offer is {section.kind[:60]!r}, not one of {', '.join(KINDS)}")
        if not session.has_fingerprint and not section.has_fingerprint:
            raise InputError("the offer has no a=fingerprint line, by which its sender is identified")
        if len(section.names) != 1 or not section.names[0].strip():
            raise InputError("each media section of the offer must have one a=mid line")
    names = [section.names[0] for section in media]
    if len(set(names)) < len(names):
        raise InputError("two media sections of the offer have the same name (a=mid)")
    if session.bundled - set(names):
        raise InputError("the offer's a=group:BUNDLE line names media sections that it does not have")


def _sections(lines: list[str]) -> list[_Section]:
    found = [_Section()]
    for line in lines:
        if line.startswith("m="):
            found.append(_Section(line[2:].partition(" ")[0]))
        elif line.startswith("a=mid:"):
            found[-1].names.append(line.removeprefix("a=mid:"))
        elif line.startswith("a=fingerprint:"):
            found[-1].has_fingerprint = True
        elif line.startswith("a=group:BUNDLE"):
            found[-1].bundled.update(line.split()[1:])
    return found
