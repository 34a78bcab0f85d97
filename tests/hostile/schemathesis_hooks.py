"""For `schemathesis run`: requests that are to be accepted name hosts that exist, and bring pictures and offers that a
description cannot tell from others.

Without it a random host, a picture of one pixel or an offer without media would be sent, and refused as it should be.
"""

import os
from pathlib import Path
from typing import Any

import schemathesis

ADDRESS = os.environ.get("FUZZ_WEBHOOK")
OFFER = Path(__file__).with_name("chromium_offer.sdp").read_bytes().decode()
PICTURE = (Path(__file__).parents[2] / "demo" / "portrait.png").read_bytes()
SIGNATURES = (b"\x89PNG", b"\xff\xd8", b"RIFF", b"GIF8", b"BM", b"II*\0", b"MM\0*")


@schemathesis.hook
def before_call(context: Any, case: Any, _kwargs: Any) -> None:
    """Put what exists in the place of every other web address, picture and offer."""
    body = case.body
    if isinstance(body, bytes) and body.startswith(SIGNATURES):
        case.body = PICTURE
    if isinstance(body, dict):
        for name in ("webhook", "output_file_prefix"):
            if ADDRESS and str(body.get(name, "")).startswith(("http://", "https://")):
                body[name] = ADDRESS
        if str(body.get("sdp", "")).startswith("v=0"):
            body["sdp"] = OFFER


@schemathesis.check
def says_when_to_try_again(context: Any, response: Any, case: Any) -> None:
    """A server that is full, or is loading, says how long to wait."""
    assert response.status_code != 503 or response.headers.get("retry-after"), "503 without Retry-After"
