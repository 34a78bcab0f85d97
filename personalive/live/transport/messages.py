"""Messages between client and session while streaming: JSON objects on a data channel or a socket."""

import json
import time
from collections.abc import Callable
from typing import Any

from personalive.errors import InputError, MissingExtraError
from personalive.live.core.frames import Message
from personalive.live.core.session import Session

STATISTICS_SECONDS = 0.5
"""Between two messages with figures."""
MAX_MESSAGE = 16384
"""The most characters that a message may have."""


def handle(session: Session, text: Any, reply: Callable[[Message], None]) -> None:
    """Apply a client's parameters. If something is wrong with them, nothing changes and the answer says what it is."""
    try:
        if not isinstance(text, str) or len(text) > MAX_MESSAGE:
            raise InputError(f"a message must be JSON text of at most {MAX_MESSAGE} characters")
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError(f"the message is not JSON: {error}") from error
        if not isinstance(values, dict):
            raise InputError("the message must be a JSON object of parameters")
        session.change(values)
    except (InputError, MissingExtraError) as error:
        reply({"type": "error", "error_message": str(error)})


def session_figures(session: Session) -> dict[str, Any]:
    """What a client may want to show about its session: rates in frames a second, delays in milliseconds.

    There are no delays as long as nobody has seen a picture.
    """
    now = time.monotonic()
    fps_in, fps_out = session.statistics.rates(now)
    delays = session.statistics.delays()
    waiting_in, waiting_out = session.backlog
    face = session.face
    return {
        "fps_in": round(fps_in, 1),
        "fps_out": round(fps_out, 1),
        **{
            name: round(seconds * 1e3)
            for name, seconds in (("delay_ms", delays.median), ("delay_p95_ms", delays.slow))
            if seconds is not None
        },
        "dropped_in": session.dropped[0],
        "dropped_out": session.dropped[1],
        "background_ms": round(session.background_seconds * 1e3, 1),
        "waiting_in": waiting_in,
        "waiting_out": waiting_out,
        "has_portrait": session.has_portrait,
        "looks_for_faces": session.looks_for_faces,
        "face": [round(each, 3) for each in face] if face else None,
        "paused": session.parameters.paused,
        "hidden": session.parameters.hidden,
        "muted": session.parameters.muted,
    }
